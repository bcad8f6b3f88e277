import json
import sys

import pytest

from aimo2 import cli
from aimo2.config import ServerConfig
from aimo2.doctor import Check

OK = Check("engine", "ok", "xllamacpp 1 on a CPU")
WARN = Check("hub", "warn", "cannot be reached", "set [HTTPS_PROXY]")
FAIL = Check("home", "fail", "full", "make room")


class Doctor:
    """Runs `aimo2 doctor` in this process with scripted checks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.asked: list[ServerConfig | None] = []
        self.out = self.err = ""

    def __call__(self, *args: str, checks: tuple[Check, ...] = (OK,)) -> int:
        async def examine(server: ServerConfig | None) -> tuple[Check, ...]:
            self.asked.append(server)
            return checks

        self._monkeypatch.setattr("aimo2.cli.doctor.examine", examine)
        self._monkeypatch.setattr(sys, "argv", ["aimo2", "doctor", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    return Doctor(monkeypatch, capsys)


def test_a_table_of_checks_with_each_mend_below(run: Doctor) -> None:
    assert run(checks=(OK, WARN)) == 0
    lines = [line.split() for line in run.out.splitlines()]
    assert lines == [
        ["engine", "ok", "xllamacpp", "1", "on", "a", "CPU"],
        ["hub", "warn", "cannot", "be", "reached"],
        ["→", "set", "[HTTPS_PROXY]"],
    ]
    assert run.err == ""


def test_a_failure_is_exit_code_2(run: Doctor) -> None:
    assert run(checks=(OK, WARN, FAIL)) == 2
    assert "make room" in run.out


@pytest.mark.parametrize(("checks", "ok"), [((OK, WARN), True), ((FAIL,), False)])
def test_json_is_one_object(run: Doctor, checks: tuple[Check, ...], ok: bool) -> None:
    assert run("--json", checks=checks) == (0 if ok else 2)
    answer = json.loads(run.out)
    assert answer["ok"] is ok
    last = checks[-1]
    assert answer["checks"][-1] == {
        "name": last.name,
        "status": last.status,
        "detail": last.detail,
        "mend": last.mend,
    }


def test_a_server_is_looked_at_where_one_is_named(run: Doctor) -> None:
    run("--base-url", "http://h/v1", "--model", "m", "--api-key-env", "KEY")
    run()
    named = ServerConfig(base_url="http://h/v1", model="m", api_key_env="KEY")
    assert run.asked == [named, None]


@pytest.mark.parametrize("flag", ["--model", "--api-key-env"])
def test_flags_of_a_server_need_one(run: Doctor, flag: str) -> None:
    assert run(flag, "x") == 2
    assert run.err == f"aimo2: {flag} x needs --base-url\n"
    assert run.asked == []
