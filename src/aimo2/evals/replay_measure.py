"""What policies come to over many recorded questions: accuracy, tokens, seconds, and how sure.

Each question is replayed in several random orders of its samples, the same ones for every policy,
so that figures are expectations and policies are compared in pairs. Intervals are over problems, as
`estimators` makes them: a problem's runs and orders are drawn together. Knows no files and no
terminal.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from aimo2.evals.calibration import fold_of
from aimo2.evals.estimators import DIFFERENCE, SHARE, Bounds, Estimate, ratio_interval
from aimo2.evals.recorded import ReplayedProblem
from aimo2.evals.replay import Decision, Throughput, replay
from aimo2.evals.replay_policies import Candidate

Floats = NDArray[numpy.float64]

_FIGURES = 5


@dataclass(frozen=True, slots=True)
class Summary:
    """A policy's figures a question, and against the baseline on the same samples and orders."""

    name: str
    accuracy: Estimate
    tokens: Estimate
    seconds: Estimate
    votes: float
    rollouts: float
    """That were opened."""
    gain: Estimate
    """Accuracy less the baseline's."""
    token_ratio: Estimate
    """Tokens over the baseline's."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A policy's sums over the questions of each problem.

    `sums`: shape (problems, 5): right decisions, tokens, seconds, votes, rollouts; over questions
    and divided by the orders. `questions`: shape (problems,), questions of each problem.
    """

    candidate: Candidate
    sums: Floats
    questions: Floats

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.candidate.name

    def mean(self, column: int) -> float:
        """A figure a question."""
        return float(self.sums[:, column].sum() / self.questions.sum())

    @property
    def accuracy(self) -> float:
        """Part of the questions that are decided right."""
        return self.mean(0)

    @property
    def tokens(self) -> float:
        """Sampled tokens a question."""
        return self.mean(1)


Progress = Callable[[int, int], bool]
"""Called with the number of replayed questions so far, and of all; whether to go on."""


def measure(
    problems: Sequence[ReplayedProblem],
    candidates: Sequence[Candidate],
    server: Throughput,
    *,
    orders: int = 20,
    seed: int = 0,
    progress: Progress = lambda done, total: True,
) -> list[Replayed]:
    """Replay every question with every policy in `orders` random orders.

    Ended early by `progress`, it is as if only the problems so far had been given.
    """
    ids = {name: at for at, name in enumerate(dict.fromkeys(p.problem_id for p in problems))}
    sums = numpy.zeros((len(candidates), len(ids), _FIGURES))
    questions = numpy.zeros(len(ids))
    for done, problem in enumerate(problems):
        at = ids[problem.problem_id]
        questions[at] += 1
        shuffles = _orders(problem, orders, seed)
        for number, candidate in enumerate(candidates):
            policy = candidate.policy(problem)
            for order in shuffles:
                decision = replay(problem, policy, server, order=order)
                sums[number, at] += _row(decision)
        if not progress(done + 1, len(problems)):
            break
    seen = questions > 0
    return [
        Replayed(candidate, sums[number, seen] / orders, questions[seen])
        for number, candidate in enumerate(candidates)
    ]


def _orders(problem: ReplayedProblem, orders: int, seed: int) -> list[list[int]]:
    generator = random.Random(f"{seed}\0{problem.problem_id}\0{problem.run}")
    size = len(problem.samples)
    return [generator.sample(range(size), size) for _ in range(orders)]


def _row(decision: Decision) -> tuple[float, ...]:
    return (
        float(decision.correct),
        float(decision.num_tokens),
        decision.seconds,
        float(decision.num_votes),
        float(decision.num_rollouts),
    )


def summarise(replayed: Replayed, baseline: Replayed) -> Summary:
    """With intervals over problems; both over the same problems."""
    right, tokens, seconds = replayed.sums[:, :3].T
    questions, itself = replayed.questions, replayed is baseline
    return Summary(
        name=replayed.name,
        accuracy=_ratio(right, questions, SHARE),
        tokens=_ratio(tokens, questions),
        seconds=_ratio(seconds, questions),
        votes=replayed.mean(3),
        rollouts=replayed.mean(4),
        gain=(
            _exactly(0.0) if itself else _ratio(right - baseline.sums[:, 0], questions, DIFFERENCE)
        ),
        token_ratio=_exactly(1.0) if itself else _ratio(tokens, baseline.sums[:, 1]),
    )


def _ratio(above: Floats, below: Floats, within: Bounds | None = None) -> Estimate:
    """A ratio of sums over problems; `nan` for 0 / 0."""
    found = ratio_interval(above.tolist(), below.tolist(), within=within)
    return _exactly(math.nan) if found is None else found


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def split(
    problems: Sequence[ReplayedProblem], seed: int = 0
) -> tuple[list[ReplayedProblem], list[ReplayedProblem]]:
    """Two halves by problem, whole problems in each: to choose on, and held out."""
    halves: tuple[list[ReplayedProblem], list[ReplayedProblem]] = ([], [])
    for problem in problems:
        halves[fold_of(f"half {problem.problem_id}", 2, seed)].append(problem)
    return halves


def choose(
    results: Sequence[Replayed], baseline: Replayed, margin: float
) -> tuple[Replayed, Replayed]:
    """The most accurate policy (of equals, the one with fewer tokens), and the one with the fewest
    tokens whose accuracy is at most `margin` below the baseline's.
    """
    best = min(results, key=lambda each: (-each.accuracy, each.tokens))
    floor = baseline.accuracy - margin - 1e-12
    cheap = min(
        (each for each in results if each.accuracy >= floor),
        key=lambda each: (each.tokens, -each.accuracy),
        default=best,
    )
    return best, cheap


def pareto(results: Sequence[Replayed]) -> list[Replayed]:
    """Those that no other beats in both accuracy and tokens, the cheapest first."""
    front: list[Replayed] = []
    for each in sorted(results, key=lambda one: (one.tokens, -one.accuracy)):
        if not front or each.accuracy > front[-1].accuracy:
            front.append(each)
    return front
