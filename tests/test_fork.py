"""Rollouts that fork, wait, are moved and are watched."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from aimo2.answers import Canonical, canonical
from aimo2.attempt import (
    Alone,
    Attempt,
    BoundaryKind,
    Break,
    Onward,
    Question,
    Stepper,
    Variation,
    Watcher,
)
from aimo2.config import SolveConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.llm import Chunk
from aimo2.llm.fake import Delay, ScriptedModel
from aimo2.rollout import Rollout
from aimo2.sandbox.fake import FakeSandbox
from aimo2.types import RolloutStop
from tests.scripted import PROBLEM, Recorder, config, execute, model
from tests.virtual import run_virtual

CODE = "```python\nx = 6 * 7\nprint(x)\n```\n"
USE = "```python\nprint(x + 1)\n```\n"


def blank_line(chunk: Chunk, turn: str) -> Break | None:
    at = turn.find("\n\n")
    return Break("step", at + 2) if at >= 0 else None


@dataclass
class Master(Alone):
    """An owner that does what the test says."""

    at_boundary: Onward | RolloutStop = "go on"
    step: Callable[[Chunk, str], Break | None] | None = None
    watch: Sequence[Watcher] = ()
    seen: list[BoundaryKind] = field(default_factory=list)

    def watchers(self, rollout: Attempt) -> Sequence[Watcher]:
        return self.watch

    def stepper(self, rollout: Attempt) -> Stepper | None:
        master = self

        class Step:
            def feed(self, chunk: Chunk, turn: str) -> Break | None:
                assert master.step is not None
                return master.step(chunk, turn)

        return Step() if self.step else None

    async def boundary(self, rollout: Attempt, kind: BoundaryKind) -> Onward | RolloutStop:
        self.seen.append(kind)
        return self.at_boundary


@asynccontextmanager
async def question(
    scripted: ScriptedModel, settings: SolveConfig, master: Alone
) -> AsyncGenerator[tuple[Question, FakeSandbox, Recorder], None]:
    async def canonicalise(raw: str) -> Canonical:
        return canonical(raw, settings.answer_type, settings.modulus)

    sandbox, recorder = FakeSandbox(execute), Recorder()
    async with sandbox:
        yield (
            Question(PROBLEM, settings, scripted, sandbox, canonicalise, recorder, master, 0.0),
            sandbox,
            recorder,
        )
        assert sandbox.open_kernels == []


def test_a_fork_shares_text_and_variables_and_both_go_on_apart() -> None:
    async def main() -> None:
        scripted = model(CODE, USE, "\\boxed{43}", USE, "\\boxed{9}")
        async with question(scripted, config(seed=3), Master("park")) as (asked, sandbox, heard):
            parent = Rollout(asked, 0)
            await parent.run(NEVER)
            assert (parent.state, parent.stop_reason) == ("waiting", None)
            child = await parent.fork(7)
            assert scripted.calls[0].conversation.reply == ""
            await child.run(NEVER)
            await child.run(NEVER)
            await parent.run(NEVER)
            await parent.run(NEVER)
            one, two = parent.trace(), child.trace()
            assert (two.parent, two.num_shared_turns, one.parent) == (0, 1, None)
            assert one.turns[0] == two.turns[0]
            assert [turn.run.output for turn in two.turns if turn.run] == ["42", "43"]
            assert (one.answer, two.answer) == ("9", "43")
            assert two.num_own_tokens == two.num_tokens - one.turns[0].num_tokens
            assert heard.all_text(7) == two.text
            parent_kernel, child_kernel = sandbox.kernels
            assert child_kernel.parent is parent_kernel
            assert child_kernel.reseed is not None
            seeds = [call.sampling.seed for call in scripted.calls]
            assert len(set(seeds)) == len(seeds)

    run_virtual(main())


def test_a_point_that_is_held_gives_branches_long_after_its_rollout_went_on() -> None:
    async def main() -> None:
        scripted = model(CODE, "```python\nx = 0\n```\n", "\\boxed{1}", USE, "\\boxed{43}")
        master = Master("park")
        async with question(scripted, config(), master) as (asked, _, _):
            parent = Rollout(asked, 0)
            await parent.run(NEVER)
            point = await parent.hold()
            master.at_boundary = "go on"
            await parent.run(NEVER)
            assert parent.stop_reason == "answered"
            child = await point.fork(1, Variation(temperature=1.5, nudge="Differently now.\n"))
            await child.run(NEVER)
            await point.close()
            trace = child.trace()
            assert [turn.run.output for turn in trace.turns if turn.run] == ["42", "43"]
            assert trace.turns[1].injected == "Differently now.\n"
            assert scripted.calls[3].conversation.reply.endswith("Differently now.\n")
            assert scripted.calls[3].sampling.temperature == 1.5
            assert trace.turns[0] == parent.trace().turns[0]

    run_virtual(main())


def test_a_boundary_inside_a_call_ends_the_turn_there_and_closes_the_stream() -> None:
    async def main() -> None:
        scripted = model("First I think.\n\nAnd more", "\\boxed{42}")
        master = Master("go on", blank_line)
        async with question(scripted, config(), master) as (asked, _, _):
            rollout = Rollout(asked, 0)
            await rollout.run(NEVER)
            first = rollout.trace().turns[0]
            assert (first.text, first.finish_reason) == ("First I think.\n\n", "closed")
            assert (first.run, first.injected) == (None, "")
            assert master.seen == ["step"]
            assert scripted.calls[0].state == "closed"
            assert scripted.calls[1].conversation.reply == first.text

    run_virtual(main())


def test_no_boundary_is_looked_for_inside_a_code_block() -> None:
    def anywhere(chunk: Chunk, turn: str) -> Break | None:
        assert "x = 6" not in turn or turn.endswith("```\n")
        return None

    async def main() -> None:
        master = Master("go on", anywhere)
        async with question(model(CODE, "\\boxed{1}"), config(), master) as (asked, _, _):
            await Rollout(asked, 0).run(NEVER)
            assert master.seen == ["code"]

    run_virtual(main())


@pytest.mark.parametrize("stop", ["forked", "pruned"])
def test_the_owner_can_end_it_at_a_boundary_and_it_then_has_no_answer(stop: RolloutStop) -> None:
    async def main() -> None:
        async with question(model(CODE), config(), Master(stop)) as (asked, _, _):
            rollout = Rollout(asked, 0)
            await rollout.run(NEVER)
            assert (rollout.stop_reason, rollout.answer) == (stop, None)

    run_virtual(main())


def test_a_deadline_that_is_moved_away_lets_the_call_go_on() -> None:
    async def main() -> None:
        scripted = model(["slow ", Delay(10), "\\boxed{42}"])
        async with question(scripted, config(), Master()) as (asked, _, _):
            rollout = Rollout(asked, 0)
            task = asyncio.create_task(rollout.run(Deadline.after(5)))
            await asyncio.sleep(1)
            rollout.move(Deadline.after(100))
            await task
            assert (rollout.stop_reason, rollout.seconds) == ("answered", 10.0)
            assert rollout.trace().text == "slow \\boxed{42}"

    run_virtual(main())


def test_a_deadline_that_comes_nearer_ends_the_call() -> None:
    async def main() -> None:
        scripted = model(["slow ", Delay(50), "\\boxed{42}"])
        async with question(scripted, config(), Master()) as (asked, _, _):
            rollout = Rollout(asked, 0)
            task = asyncio.create_task(rollout.run(Deadline.after(500)))
            await asyncio.sleep(1)
            rollout.move(Deadline.after(2))
            await task
            assert (rollout.stop_reason, rollout.seconds) == ("deadline", 3.0)
            assert scripted.calls[0].state == "closed"

    run_virtual(main())


def test_a_branch_goes_on_with_its_parents_budget_of_thinking() -> None:
    """Of 20 tokens and one wait, the parent has spent 11 and the wait when it forks."""
    replies = iter(
        [
            "<think>\none two three four</think>\n",
            "five six seven eight\n\nand",
            "nine ten </think>",
            "more and more of it " * 9,
            "\\boxed{42}\n",
        ]
    )
    scripted = ScriptedModel(lambda conversation, sampling: [next(replies)])
    settings = config(min_thinking_tokens=15, max_thinking_tokens=20, max_waits=1)

    async def main() -> None:
        async with question(scripted, settings, Master("park", blank_line)) as (asked, _, _):
            parent = Rollout(asked, 0)
            await parent.run(NEVER)
            assert "Wait" in parent.turns[0].injected
            thoughtless, thoughtful = await parent.fork(1), await parent.fork(2)
            await thoughtless.run(NEVER)
            assert [turn.text for turn in thoughtless.turns[2:]] == ["nine ten </think>"]
            await thoughtful.run(NEVER)
            assert "long enough" in thoughtful.turns[2].injected
            assert thoughtful.turns[2].num_tokens <= 9
            assert thoughtful.answer is not None
            await parent.close()

    run_virtual(main())


def test_a_watcher_ends_the_rollout_and_is_closed() -> None:
    class Impatient:
        closed = 0

        def feed(self, chunk: Chunk, rollout: Attempt) -> RolloutStop | None:
            return "too_long" if rollout.conversation.reply.endswith("five") else None

        async def close(self) -> None:
            self.closed += 1

    async def main() -> None:
        watcher = Impatient()
        scripted = model("one two three four five six seven")
        async with question(scripted, config(), Master(watch=[watcher])) as (asked, _, _):
            rollout = Rollout(asked, 0)
            await rollout.run(NEVER)
            assert rollout.stop_reason == "too_long"
            assert rollout.trace().text == "one two three four five"
            assert watcher.closed

    run_virtual(main())
