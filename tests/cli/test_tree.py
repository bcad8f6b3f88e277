import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from aimo2.answers import Canonical
from aimo2.attempt import Question
from aimo2.cli.show import ShowName, display_for, show_with_value
from aimo2.cli.tree import LiveTreeDisplay, TreeDisplay, draw, live_branch
from aimo2.pages.tree import Branch, branch_of
from aimo2.rollout import Rollout
from aimo2.sandbox.fake import FakeSandbox
from aimo2.types import Trace, Vote
from tests.cli.polled import voted
from tests.saved import code_run, outcome, trace, turn
from tests.scripted import PROBLEM, Recorder, config, execute, model, run_rollout

GOOD = turn("a", run=code_run("noise\n42\n"))
BAD = turn("b", run=code_run("Traceback\nNameError: x", error="name"), mean_logprob=-0.5)


def drawn(*branches: Branch, lines: int | None = None, width: int = 100) -> str:
    target = Console(file=io.StringIO(), width=width, color_system=None)
    target.print(draw("p  What is it?", branches, lines=lines))
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_tree_has_openings_runs_forks_answers_and_weights() -> None:
    stored = (
        trace(0, GOOD, BAD, opening="code", weight=0.75, seconds=2),
        trace(1, GOOD, parent=0, num_shared_turns=1, answer="7"),
        trace(2, answer=None, stop_reason="model_error", error="it broke"),
    )
    assert drawn(*map(branch_of, stored)).splitlines() == [
        "p What is it?",
        "├── 0 code · 20 tokens · p 0.61 · 2.0 s · 42 (weight 0.75)",
        "│   ├── ✓ 0.50 s  42",
        "│   ├── ✗ name 0.50 s  NameError: x",
        "│   └── 1 plain ⑂ 0 after turn 1 · 0 tokens · 1.0 s · 7",
        "└── 2 plain · 10 tokens · 1.0 s · model error",
        "    └── it broke",
    ]


def test_verdicts_colour_the_answers() -> None:
    target = Console(file=io.StringIO(), width=90, force_terminal=True, color_system="standard")
    branches = [branch_of(trace(0)), branch_of(trace(1, answer="7"))]
    target.print(draw("p", branches, verdict=lambda answer: answer == "42"))
    assert isinstance(target.file, io.StringIO)
    text = target.file.getvalue()
    assert "\x1b[1;32m42" in text
    assert "\x1b[1;31m7" in text


@pytest.mark.parametrize("lines", [3, 5, 12])
def test_a_small_terminal_first_loses_runs_then_ended_branches(lines: int) -> None:
    stored: list[Branch] = [branch_of(trace(number, GOOD, BAD)) for number in range(12)]
    text = drawn(*stored, lines=lines).splitlines()
    assert len(text) <= lines + 1
    assert "0.50 s  42" not in "".join(text)
    if lines < 12:
        assert f"and {12 - lines + 1} more that have ended" in text[-1]
    else:
        assert "0 plain ✓✗ ·" in text[1]


def test_what_a_model_wrote_is_no_command_to_the_terminal() -> None:
    odd = trace(0, turn("x", run=code_run("\x1b[2J[bold]x\u202e")), answer="\x1b]0;y\x07[/red]")
    text = drawn(branch_of(odd))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]x" in text
    assert "[/red]" in text


def test_a_live_rollout_is_a_branch() -> None:
    code = "```python\nprint(42)\n```\n"
    ran = run_rollout(model(code, "\\boxed{42}"), config())
    branch = live_branch(ran.rollout, 99.0)
    assert (branch.answer, branch.state, branch.num_code_runs) == ("42", "answered", 1)
    assert not branch.live
    assert branch.num_tokens == ran.trace.num_tokens
    assert branch.seconds == ran.trace.seconds


async def not_asked(raw: str) -> Canonical:
    raise AssertionError(raw)


def test_a_running_rollout_is_drawn_outside_the_event_loop() -> None:
    question = Question(
        PROBLEM, config(), model("```python\nprint(42)\n```\n", "\\boxed{42}"),
        FakeSandbox(execute), not_asked, Recorder(),
    )  # fmt: skip
    rollout = Rollout(question, 0)
    with ThreadPoolExecutor(1) as pool:
        text = pool.submit(lambda: drawn(live_branch(rollout, 7.0))).result()
    assert "0 plain · 0 tokens · 7.0 s · waiting" in text


def shown_by(make: Callable[[Console, int], LiveTreeDisplay | TreeDisplay], terminal: bool) -> str:
    target = Console(
        file=io.StringIO(), width=120, height=30, force_terminal=terminal, color_system=None
    )
    ran = run_rollout(model("```python\nprint(42)\n```\n", "\\boxed{42}"), config())
    display = make(target, 1)
    with display:
        display.notice("\x1b[31m[/x] careful")
        display.started(PROBLEM, 1, voted(Vote(rollout=0, answer="42", weight=0.75)))
        display.progress(ran.rollout)
        display.text(0, "sampled", "not shown")
        display.ended(outcome(correct=True, gold="42"))
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_the_live_tree_stays_when_the_question_ends() -> None:
    text = shown_by(LiveTreeDisplay, terminal=True)
    assert "What is 6 times 7?" in text
    assert "✓ 0.50 s  42" in text
    assert " · 42 (weight 0.75)" in text
    assert "42 (exhausted; votes 42: 1;" in text
    assert "[/x] careful" in text


def test_without_a_terminal_there_are_plain_lines_and_the_tree() -> None:
    lines = shown_by(TreeDisplay, terminal=False).splitlines()
    assert lines[0] == "␛[31m[/x] careful"
    assert lines[1].startswith("[p] rollout 0: plain, answered 42;")
    assert lines[2] == "p What is 6 times 7?"
    assert lines[3].startswith("└── 0 plain · ")
    assert lines[3].endswith(" · 42 (weight 0.75)")
    assert lines[-1].endswith("; 1/1")


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ("--show tree x", "--show=tree x"),
        ("--show What is it", "--show=text What is it"),
        ("--show", "--show=text"),
        ("x --show text", "x --show=text"),
        ("--show --json x", "--show=text --json x"),
        ("--show=tree x", "--show=tree x"),
        ("-- --show tree", "-- --show tree"),
    ],
)
def test_a_bare_show_takes_no_word_of_the_problem(args: str, wanted: str) -> None:
    assert show_with_value(args.split()) == wanted.split()


@pytest.mark.parametrize(
    ("show", "terminal", "name"),
    [
        (None, True, "LiveDisplay"), (None, False, "PlainDisplay"),
        (ShowName.TEXT, True, "ShowDisplay"), (ShowName.TEXT, False, "ShowDisplay"),
        (ShowName.TREE, True, "LiveTreeDisplay"), (ShowName.TREE, False, "TreeDisplay"),
    ],
)  # fmt: skip
def test_the_display_fits_the_wish_and_the_terminal(
    show: ShowName | None, terminal: bool, name: str
) -> None:
    target = Console(file=io.StringIO(), force_terminal=terminal)
    assert type(display_for(show, target, 1)).__name__ == name


def test_stored_forks_need_no_parent_to_be_drawn() -> None:
    lone: Trace = trace(5, GOOD, GOOD, parent=2, num_shared_turns=1)
    assert "5 plain ⑂ 2 after turn 1" in drawn(branch_of(lone))
