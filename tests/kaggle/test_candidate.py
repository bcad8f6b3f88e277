"""An exam behind the gateway: the engine is opened when it is needed, and answers never fail."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from aimo2.deadline import NEVER, Deadline
from aimo2.engine import Engine
from aimo2.errors import SetupError, Withheld
from aimo2.exam import Exam
from aimo2.holder import EngineHolder, EngineQuestion, reseeded
from aimo2.kaggle.candidate import ExamPredictor
from aimo2.llm.fake import ScriptedModel
from aimo2.sandbox.fake import FakeSandbox
from aimo2.solver import Tools
from aimo2.types import Problem
from tests.exam.scripts import LoopClock, Script, ScriptedSolver, rules
from tests.scripted import PROBLEM, InstantJudge, Recorder, config, execute, model
from tests.virtual import run_virtual


@dataclass
class Garage:
    """Opens engines on a scripted model; `faults` are raised by the first openings instead."""

    scripted: ScriptedModel = field(default_factory=lambda: model("It is \\boxed{42}."))
    seconds: float = 0.0
    faults: list[SetupError] = field(default_factory=list)
    failure: str | None = None
    num_opened: int = 0
    num_closed: int = 0

    @asynccontextmanager
    async def open(self, deadline: Deadline) -> AsyncIterator[Engine]:
        await asyncio.sleep(self.seconds)
        if self.faults:
            raise self.faults.pop(0)
        self.num_opened += 1
        async with FakeSandbox(execute) as sandbox, InstantJudge() as judge:
            yield Engine(Tools(self.scripted, sandbox, judge), lambda: self.failure)
        self.num_closed += 1


def held(
    garage: Garage, use: Callable[[EngineHolder], object], heard: list[str] | None = None
) -> float:
    """Let `use` work with a holder on a virtual clock; returns the seconds it took."""

    async def main() -> float:
        holder = EngineHolder(garage.open, (heard if heard is not None else []).append)
        result = use(holder)
        if asyncio.iscoroutine(result):
            await result
        seconds = asyncio.get_running_loop().time()
        await holder.close()
        assert len(asyncio.all_tasks()) == 1
        return seconds

    return run_virtual(main())


def question(holder: EngineHolder) -> EngineQuestion:
    return EngineQuestion(PROBLEM, Recorder(), config(), holder)


def test_an_engine_is_opened_once_for_all_who_want_it() -> None:
    garage = Garage(seconds=20)

    async def use(holder: EngineHolder) -> None:
        first, second = await asyncio.gather(holder.tools(), holder.tools())
        assert first is second is await holder.tools()

    assert held(garage, use) == 20
    assert (garage.num_opened, garage.num_closed) == (1, 1)


def test_an_engine_that_nobody_wants_is_not_opened() -> None:
    garage = Garage()
    held(garage, lambda holder: None)
    assert garage.num_opened == 0


def test_an_engine_can_be_opened_before_the_first_question() -> None:
    garage = Garage(seconds=20)

    async def use(holder: EngineHolder) -> None:
        holder.start()
        await asyncio.sleep(60)
        await holder.tools()

    assert held(garage, use) == 60


def test_an_engine_that_is_still_opening_is_given_up_at_the_end() -> None:
    garage = Garage(seconds=600)

    async def use(holder: EngineHolder) -> None:
        holder.start()
        await asyncio.sleep(1)

    assert held(garage, use) == 1
    assert garage.num_opened == 0


def test_a_failure_to_open_is_raised_or_told_and_tried_again_by_the_next() -> None:
    garage = Garage(faults=[SetupError("no room"), SetupError("no model; pull it")])
    heard: list[str] = []

    async def use(holder: EngineHolder) -> None:
        with pytest.raises(SetupError, match="no room"):
            await holder.tools()
        assert heard == []
        holder.start()
        await asyncio.sleep(1)
        await holder.tools()

    held(garage, use, heard)
    assert heard == ["no model; pull it"]
    assert garage.num_opened == 1


def test_an_engine_that_died_for_good_is_replaced() -> None:
    garage = Garage()
    heard: list[str] = []

    async def use(holder: EngineHolder) -> None:
        first = await holder.tools()
        garage.failure = "the server died three times"
        second = await holder.tools()
        assert first is not second

    held(garage, use, heard)
    assert (garage.num_opened, garage.num_closed) == (2, 2)
    assert heard == ["the engine is started anew: the server died three times"]


def test_a_question_waits_for_the_engine_and_is_solved() -> None:
    async def use(holder: EngineHolder) -> None:
        asked = question(holder)
        assert asked.tally.leader is None
        solved = await asked.solve(Deadline.after(60))
        assert solved.outcome.answer == asked.tally.leader == "42"

    held(Garage(seconds=20), use)


def test_a_question_whose_engine_is_late_ends_at_its_deadline() -> None:
    async def use(holder: EngineHolder) -> None:
        solved = await question(holder).solve(Deadline.after(60))
        assert (solved.outcome.answer, solved.outcome.stop_reason) == (None, "deadline")
        assert solved.outcome.note == "the engine was not ready in time"
        assert (await question(holder).solve(Deadline.after(60))).outcome.answer == "42"

    assert held(Garage(seconds=100), use) == pytest.approx(100, abs=1)


def test_a_question_can_be_interrupted_while_it_waits_for_the_engine() -> None:
    async def use(holder: EngineHolder) -> None:
        asked = question(holder)
        asyncio.get_running_loop().call_later(5, asked.interrupt, "no_progress")
        solved = await asked.solve(NEVER)
        assert solved.outcome.stop_reason == "no_progress"

    assert held(Garage(seconds=100), use) == 5


def test_a_question_waits_for_a_server_that_comes_up_later() -> None:
    garage = Garage(faults=[SetupError("cannot reach it")] * 4)

    async def use(holder: EngineHolder) -> None:
        exam = Exam(rules(), lambda problem, observer: question(holder), clock=LoopClock())
        answer = await exam.answer(Problem(id="p0", statement="?"))
        assert (answer.answer, answer.note) == ("42", None)
        assert answer.seconds == pytest.approx(2 + 4 + 8 + 16, abs=1)
        await exam.close()

    held(garage, use)


def test_an_exam_answers_with_a_guess_where_no_engine_can_be_had() -> None:
    garage = Garage(faults=[SetupError("no GPU")] * 14)

    async def use(holder: EngineHolder) -> None:
        config = rules(guess="11")
        exam = Exam(config, lambda problem, observer: question(holder), clock=LoopClock())
        predictor = ExamPredictor(exam)
        assert await predictor.predict(Problem(id="p0", statement="?")) == "11"
        assert await predictor.predict(Problem(id="p1", statement="?")) == "11"
        assert await predictor.predict(Problem(id="p2", statement="?")) == "42"
        assert await predictor.predict(Problem(id="p0", statement="?")) == "11"
        await exam.close()

    held(garage, use)


def test_each_life_of_an_exam_has_its_own_seeds() -> None:
    first, second = (reseeded(config(seed=3), life) for life in (0, 1))
    assert first == config(seed=3)
    assert first.seed != second.seed


def test_an_interrupted_question_without_votes_is_withheld_and_no_guess() -> None:
    async def main() -> None:
        exam = Exam(rules(), ScriptedSolver(default=Script()), clock=LoopClock())
        predictor = ExamPredictor(exam)
        asyncio.get_running_loop().call_later(10, exam.interrupt)
        for name in ("p0", "p1"):
            with pytest.raises(Withheld, match=f"{name}.*interrupted"):
                await predictor.predict(Problem(id=name, statement="?"))
        assert not exam.answers
        await exam.close()

    run_virtual(main())


def test_the_best_guess_is_the_leader_of_the_question_that_runs() -> None:
    async def main() -> None:
        solver = ScriptedSolver(default=Script([(5.0, "3"), (6.0, "1234567")], ends=60))
        exam = Exam(rules(guess="11", highest=999), solver, clock=LoopClock())
        predictor = ExamPredictor(exam)
        first, other = (Problem(id=name, statement="?") for name in ("p0", "p1"))
        assert predictor.best(first) == "11"
        task = asyncio.create_task(predictor.predict(first))
        await asyncio.sleep(10)
        assert predictor.best(first) == "3"
        assert predictor.best(other) == "11"
        await task
        assert predictor.best(first) == await predictor.predict(first) == "3"
        await exam.close()

    run_virtual(main())
