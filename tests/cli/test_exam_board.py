import io
from dataclasses import dataclass, replace

from rich.console import Console

from aimo2.cli.exam_board import LiveBoard, PlainBoard, described
from aimo2.exam import ExamAnswer, ExamStatus
from aimo2.exam.runner import Current
from aimo2.policy.budget import Grant
from aimo2.policy.vote import Tally
from aimo2.types import Outcome, Problem

OUTCOME = Outcome(
    id="a", answer="42", votes={"42": 3.0, "7": 1.0}, stop_reason="majority", num_rollouts=4,
    num_sampled_tokens=900, num_code_runs=2, seconds=61.0, gold="42", correct=True,
)  # fmt: skip
ANSWER = ExamAnswer(
    id="a", answer="42", guessed=False, number=1, started=0.0, seconds=61.4, granted=90.0,
    num_votes=4, outcome=OUTCOME,
)  # fmt: skip
PROBLEM = Problem(id="b", statement="How [bold]many?\n\nReally.")
CURRENT = Current(PROBLEM, 2, 12.0, 340.0, Tally({"5": 2.0, "6": 1.0}, 3), Grant(340.0))
STATUS = ExamStatus(
    elapsed=7265.0, total=17820.0, num_problems=50, answers=(ANSWER,), current=CURRENT,
    banked=125.0, num_tokens=900, slept=0.0,
)  # fmt: skip


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=110, force_terminal=False), file


def drawn(board: LiveBoard, to: Console) -> str:
    with to.capture() as capture:
        to.print(board._draw())
    return capture.get()


def test_the_board_has_time_problems_bank_tally_and_health() -> None:
    to, _ = console()
    clock = Clock()
    board = LiveBoard(to, clock)
    assert drawn(board, to).strip() == ""
    board.show(lambda: STATUS, lambda: None)
    board.asked(PROBLEM, 2)
    text = drawn(board, to)
    parts = (
        "2:01:05 used", "2:55:55 left", "1 of 50 answered", "1 of 1 right", "bank 2:05",
        "server up", "12 s of at most 340", "5 ████████ 2", "How [bold]many? Really.",
    )  # fmt: skip
    for part in parts:
        assert part in text


def test_a_server_that_is_silent_or_ill_is_told() -> None:
    to, _ = console()
    clock = Clock()
    board = LiveBoard(to, clock)
    board.show(lambda: STATUS, lambda: None)
    clock.now = 20.0
    assert "silent for 20 s" in drawn(board, to)
    board.text(0, "sampled", "x")
    assert "server up" in drawn(board, to)
    board.show(lambda: STATUS, lambda: "out of memory")
    assert "out of memory" in drawn(board, to)


def test_sleep_is_shown() -> None:
    to, _ = console()
    board = LiveBoard(to, Clock())
    board.show(lambda: replace(STATUS, slept=600.0), lambda: None)
    assert "10:00 slept" in drawn(board, to)


def test_plain_lines_tell_beginning_and_end_of_each_question() -> None:
    to, file = console()
    with PlainBoard(to) as board:
        board.show(lambda: STATUS, lambda: None)
        board.asked(PROBLEM, 2)
        board.answered(ANSWER, again=False)
        board.answered(ANSWER, again=True)
    lines = file.getvalue().splitlines()
    assert lines[0] == "[b] problem 2 of 50; 2:55:55 left of 4:57:00"
    assert lines[1] == "[a] 42 in 61 s; majority, votes 42: 3, 7: 1; correct"
    assert lines[2].startswith("[a] again: 42")


def test_a_guess_and_its_reason_are_told() -> None:
    guess = ANSWER.model_copy(update={"guessed": True, "outcome": None, "note": "no engine"})
    assert described(guess) == "42 (guessed) in 61 s; no engine"
