"""The exam itself along recorded courses, on a virtual clock."""

import asyncio
from collections.abc import Sequence

from aimo2.attempt import Observer
from aimo2.deadline import Deadline
from aimo2.evals.exams import Course
from aimo2.exam import Exam
from aimo2.policy.budget import BudgetConfig, Lessons
from aimo2.policy.vote import Tally
from aimo2.solver import Solved
from aimo2.types import Outcome, Problem, StopReason
from tests.exam.scripts import LoopClock, rules
from tests.virtual import run_virtual


class CourseQuestion:
    """Goes along a recorded course on the loop's clock."""

    def __init__(self, problem: Problem, path: Course) -> None:
        self._problem = problem
        self._path = path
        self._began = asyncio.get_running_loop().time()
        self._over = asyncio.Event()
        self._reason: StopReason = "exhausted"

    @property
    def tally(self) -> Tally:
        mark = self._path.at(asyncio.get_running_loop().time() - self._began)
        names = ["right" if mark.right else "wrong", *map(str, range(len(mark.weights)))]
        return Tally(dict(zip(names, mark.weights, strict=False)), mark.num_votes)

    def interrupt(self, reason: StopReason) -> None:
        self._reason = reason
        self._over.set()

    async def solve(self, deadline: Deadline) -> Solved:
        until = min(deadline.at, self._began + self._path.end)
        try:
            async with asyncio.timeout_at(until):
                await self._over.wait()
        except TimeoutError:
            if until == deadline.at:
                self._reason = "deadline"
        outcome = Outcome(
            id=self._problem.id,
            answer=self.tally.leader,
            votes=self.tally.weights,
            stop_reason=self._reason,
            num_rollouts=8,
            num_sampled_tokens=0,
            num_code_runs=0,
            seconds=0.0,
        )
        return Solved(outcome, ())


def live(
    paths: Sequence[Course], total: float, config: BudgetConfig, lessons: Lessons
) -> tuple[int, float]:
    """Right answers, and seconds used, of the exam itself."""
    problems = [Problem(id=str(number), statement="x") for number in range(len(paths))]

    def ask(problem: Problem, observer: Observer) -> CourseQuestion:
        return CourseQuestion(problem, paths[int(problem.id)])

    exam = Exam(
        rules(len(paths), total, answer_type="expr", budget=config),
        ask,
        clock=LoopClock(),
        lessons=lessons,
    )

    async def main() -> tuple[int, float]:
        right = 0
        for problem in problems:
            right += (await exam.answer(problem)).answer == "right"
        elapsed = exam.elapsed
        await exam.close()
        return right, elapsed

    return run_virtual(main())
