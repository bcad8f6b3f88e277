import io

from rich.console import Console

from aimo2.cli.display import LiveDisplay, Pace, PlainDisplay, describe, spoken
from aimo2.types import Outcome, Vote
from tests.cli.polled import voted
from tests.scripted import PROBLEM, config, model, run_rollout

OUTCOME = Outcome(
    id="p", answer="42", votes={"42": 2.0, "7": 0.5}, stop_reason="majority", num_rollouts=3,
    num_sampled_tokens=99, num_code_runs=2, seconds=12.34, note="reduced", gold="42", correct=True,
)  # fmt: skip


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=140, force_terminal=terminal, color_system=None)


def shown(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_one_line_says_how_a_question_ended() -> None:
    assert describe(OUTCOME) == (
        "42 (majority; votes 42: 2, 7: 0.5; 3 rollouts, 99 tokens, 2 code runs, 12.3 s, correct)"
        " [reduced]"
    )
    wrong = OUTCOME.model_copy(update={"answer": None, "votes": {}, "correct": False, "note": None})
    assert "no answer" in describe(wrong)
    assert "wrong (gold 42)" in describe(wrong)


def test_the_rest_is_estimated_from_what_is_done() -> None:
    now = 0.0
    pace = Pace(4, clock=lambda: now)
    assert str(pace) == "0/4"
    now = 300.0
    pace.one_done()
    assert str(pace) == "1/4, about 15 min left"
    for _ in range(3):
        pace.one_done()
    assert str(pace) == "4/4"


def test_durations_are_spoken() -> None:
    assert [spoken(value) for value in (3.4, 99, 120, 7200)] == ["3 s", "99 s", "2 min", "2.0 h"]


def test_the_live_table_has_a_row_a_rollout_and_the_tally() -> None:
    target = console(terminal=True)
    display = LiveDisplay(target, total=2)
    display.started(PROBLEM, 1, voted(Vote(rollout=0, answer="42")))
    ran = run_rollout(model("\\boxed{42}"), config())
    display.progress(ran.rollout)
    with display:
        pass
    text = shown(target)
    assert "What is 6 times 7?" in text
    assert "answered" in text
    assert "votes  42" in text


def test_markup_in_a_problem_is_only_text() -> None:
    target = console(terminal=True)
    display = LiveDisplay(target, total=1)
    with display:
        display.started(PROBLEM.model_copy(update={"statement": "[bold]x[/nope]"}), 1, voted())
        display.ended(OUTCOME.model_copy(update={"note": "[/red] odd"}))
        display.notice("[/x]")
    assert "[/red] odd" in shown(target)
    assert "[/x]" in shown(target)


def test_plain_lines_tell_each_rollout_once() -> None:
    target = console()
    display = PlainDisplay(target, total=1)
    ran = run_rollout(model("\\boxed{42}"), config())
    with display:
        display.started(PROBLEM, 1, voted())
        display.progress(ran.rollout)
        display.ended(OUTCOME)
    assert shown(target).splitlines()[0] == (
        f"[p] rollout 0: plain, answered 42; {ran.trace.num_tokens} tokens, 0 code runs, 0.0 s"
    )
    assert shown(target).splitlines()[1].endswith("; 1/1")
