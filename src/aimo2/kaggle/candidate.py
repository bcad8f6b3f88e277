"""Who answers the gateway: an exam. Knows neither the protocol nor the flags."""

from aimo2.errors import Withheld
from aimo2.exam import Exam
from aimo2.exam.runner import best_answer
from aimo2.types import Problem


class ExamPredictor:
    """A `Predictor` whose answers are an exam's: in time, journaled, the same when asked again."""

    def __init__(self, exam: Exam) -> None:
        self._exam = exam

    async def predict(self, problem: Problem, within: float | None = None) -> str:
        """The exam's answer. Raises `Withheld` where it was interrupted before there was one."""
        answer = await self._exam.answer(problem, within)
        if answer.id not in self._exam.answers:
            raise Withheld(f"[{answer.id}] the exam was interrupted before there was an answer")
        return answer.answer

    def best(self, problem: Problem) -> str:
        """What the votes say now, if it is this problem that is being solved."""
        config, status = self._exam.config, self._exam.status
        problem = self._exam.known_as(problem)
        known = self._exam.answers.get(problem.id)
        if known is not None:
            return known.answer
        current = status.current
        weights = current.tally.weights if current and current.problem.id == problem.id else {}
        best = best_answer(config, {}, weights, None)
        return config.guess if best is None else best
