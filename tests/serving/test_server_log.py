from pathlib import Path

import pytest

from aimo2.serving import server_log
from aimo2.serving.server_log import ServerLog


@pytest.fixture
def log(tmp_path: Path) -> ServerLog:
    log = ServerLog.open(tmp_path / "logs", Path("tiny.gguf"))
    log.close()
    return log


def append(log: ServerLog, text: str) -> None:
    assert log.path is not None
    with log.path.open("ab") as file:
        file.write(text.encode())


def test_a_new_log_names_the_model_and_is_private(log: ServerLog) -> None:
    assert log.path is not None
    assert log.tail(5) == "model tiny.gguf"
    assert log.path.stat().st_mode & 0o077 == 0


def test_the_tail_is_the_last_lines(log: ServerLog) -> None:
    append(log, "one\ntwo\nthree\n")
    assert log.tail(2) == "two\nthree"


def test_the_tail_of_a_long_log_does_not_read_it_all(log: ServerLog) -> None:
    append(log, "x" * 10 * server_log._WINDOW + "\nlast\n")
    assert log.tail(1) == "last"
    assert len(log.tail(5)) <= server_log._WINDOW


def test_control_characters_do_not_reach_a_terminal(log: ServerLog) -> None:
    append(log, "\x1b[31mred\a\r\n")
    assert log.tail(1) == "?[31mred??"


def test_the_reason_is_the_first_error_without_its_time_stamp(log: ServerLog) -> None:
    append(log, "0.00.1 I srv  init: fine\n0.00.2 E gguf: wrong   magic\n0.00.3 E srv: leaving\n")
    assert log.reason() == "gguf: wrong magic"


def test_errors_of_an_earlier_process_are_no_reason(log: ServerLog) -> None:
    append(log, "0.00.2 E gguf: wrong magic\n")
    log.mark()
    assert log.reason() == ""
    append(log, "0.00.1 E srv: no port\n")
    assert log.reason() == "srv: no port"


def test_a_log_that_vanished_is_empty(log: ServerLog) -> None:
    assert log.path is not None
    log.path.unlink()
    log.mark()
    assert (log.tail(5), log.reason()) == ("", "")


def test_without_a_file_everything_is_empty() -> None:
    log = ServerLog()
    log.mark()
    log.close()
    assert (log.tail(5), log.reason(), log.path) == ("", "", None)
