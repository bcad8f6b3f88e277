"""Replay recorded samples: the live policies decide over them on a virtual clock.

A question opens its rollouts in a given order, `concurrency` at a time, on a server whose speed
depends on how many streams it has; each rollout ends after its recorded tokens and code seconds;
after each vote `policy.weigh` and `policy.stop` decide, as in the live solver. What is cancelled
has cost the tokens it had sampled. Knows no files and no terminal.

What is not modelled: prompt processing, queues of the sandbox, forced answers at a deadline, and
rollouts that a live policy would have cut or forked otherwise than the recorded run did. Recorded
forks are kept: a child may be opened once its parent has sampled what they share, behind those that
wait already. A rollout's code seconds are taken at its end.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aimo2.config import StopConfig, WeighConfig
from aimo2.evals.recorded import ReplayedProblem, Sample
from aimo2.policy.signals import Signals
from aimo2.policy.stop import least_votes, stopped
from aimo2.policy.vote import Tally, tally
from aimo2.policy.weigh import is_separable, weigh
from aimo2.types import StopReason, Vote


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a server samples: a decoding step of c streams takes `base` + `per_stream` x c
    seconds and gives c tokens. The fixed part is the weights' way through memory, the other one the
    streams' own work; both are seconds.
    """

    base: float
    per_stream: float

    def step(self, streams: int) -> float:
        """Seconds from token to token of one of `streams` streams."""
        return self.base + self.per_stream * streams

    def rate(self, streams: int) -> float:
        """Tokens a second of all streams together."""
        return streams / self.step(streams)


DEFAULT_THROUGHPUT = Throughput(base=0.0099, per_stream=0.0001)
"""100 tokens a second for one stream, 1,390 for 16, 3,930 for 64, 10,000 at most: round figures
of a small model on one data-centre GPU, not a measurement."""


def fit_throughput(points: Sequence[tuple[int, float]]) -> Throughput:
    """From (streams, tokens a second of all): least squares on the relative error of the step.

    One point fixes the step of that many streams, and is split evenly between the two parts. Raises
    `ValueError` without points, or for figures that are not above 0.
    """
    if not points:
        raise ValueError("no measured throughput to fit")
    if any(streams < 1 or not rate > 0 for streams, rate in points):
        raise ValueError(f"streams and tokens a second must be above 0: {list(points)}")
    rows = [(1.0 / (streams / rate), float(streams) / (streams / rate)) for streams, rate in points]
    if len({streams for streams, _ in points}) == 1:
        streams = points[0][0]
        step = len(points) / math.fsum(a for a, _ in rows)
        return Throughput(step / 2, step / 2 / streams)
    return _least_squares(rows)


def _least_squares(rows: Sequence[tuple[float, float]]) -> Throughput:
    """x, y >= 0 that bring a x + b y nearest to 1 over the rows (a, b)."""
    aa, ab, bb = (math.fsum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a1, b1 = (math.fsum(r[i] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    base, per_stream = (a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant
    if base < 0:
        return Throughput(0.0, b1 / bb)
    if per_stream < 0:
        return Throughput(a1 / aa, 0.0)
    return Throughput(base, per_stream)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is replayed: how many rollouts, how they are weighed, when the question ends."""

    stop: StopConfig = field(default_factory=StopConfig)
    weigh: WeighConfig = field(default_factory=WeighConfig)
    num_rollouts: int = 16
    """Of a question; fewer where fewer samples are recorded."""
    concurrency: int = 16
    """Rollouts that stream at the same time."""

    def __post_init__(self) -> None:
        if self.num_rollouts < 1 or self.concurrency < 1:
            raise ValueError("num_rollouts and concurrency must be 1 or more")


@dataclass(frozen=True, slots=True)
class Decision:
    """When a question was decided, why, and with what."""

    answer: str | None
    """Name of the class of answers; `None` where nobody had voted."""
    correct: bool
    reason: StopReason
    seconds: float
    """From the question's start to the decision."""
    num_tokens: int
    """Sampled until then, those of cancelled rollouts included."""
    num_votes: int
    num_rollouts: int
    """That were opened."""
    weights: dict[str, float]
    """Answer -> summed weight, largest first."""


Watch = Callable[[float, Tally], None]
"""Hears of each vote: seconds from the question's start, and the tally with it."""


def replay(
    problem: ReplayedProblem,
    policy: Policy,
    server: Throughput = DEFAULT_THROUGHPUT,
    *,
    order: Sequence[int] | None = None,
    seconds: float = math.inf,
    tokens: float = math.inf,
    watch: Watch | None = None,
) -> Decision:
    """Run the question with `policy` until it is decided, or until the budget is used up.

    `order`: places in `problem.samples` in which rollouts are opened; as recorded where it is
    `None`. `seconds`, `tokens`: what the question may use; where one is used up, the votes so far
    decide, and the reason is `deadline` or `max_tokens`. The same arguments give the same decision.
    `watch` hears of each vote.
    """
    return _Question(problem, policy, server, order, watch).run(seconds, tokens)


@dataclass(slots=True)
class _Rollout:
    """A sample in its place in the question."""

    number: int
    sample: Sample
    children: "list[_Rollout]"

    @property
    def shared(self) -> int:
        """Tokens of its path that its parent sampled."""
        return self.sample.signals.num_tokens - self.sample.num_own_tokens


def _opened(
    problem: ReplayedProblem, order: Sequence[int] | None, wanted: int
) -> tuple[list[_Rollout], int]:
    """The rollouts that start at once or when a place is free, and how many there are with forks.

    A sample whose parent is not recorded starts as a root does, and so does one that says it is
    older than its parent, which rules out circles.
    """
    samples = problem.samples
    places = range(len(samples)) if order is None else order
    if all(sample.signals.parent is None for sample in samples):
        chosen = places[:wanted]
        return [_Rollout(n, samples[place], []) for n, place in enumerate(chosen)], len(chosen)
    rollouts = [_Rollout(n, samples[place], []) for n, place in enumerate(places)]
    by_number = {rollout.sample.signals.rollout: rollout for rollout in rollouts}
    roots: list[_Rollout] = []
    for rollout in rollouts:
        parent, own = rollout.sample.signals.parent, rollout.sample.signals.rollout
        above = None if parent is None or parent >= own else by_number.get(parent)
        (roots if above is None else above.children).append(rollout)
    return _cut(roots, wanted)


def _cut(roots: list[_Rollout], wanted: int) -> tuple[list[_Rollout], int]:
    """The first roots with their descendants, `wanted` rollouts in all at most."""
    left = wanted
    kept: list[_Rollout] = []
    for root in roots:
        if left <= 0:
            break
        kept.append(root)
        level = [root]
        while level and left > 0:
            left -= len(level)
            following: list[_Rollout] = []
            for rollout in level:
                del rollout.children[max(0, left - len(following)) :]
                following += rollout.children
            level = following
    return kept, wanted - max(0, left)


class _Question:
    """The state of one replay: who streams, who runs code, who has voted.

    Streams share the server evenly, so all of them advance by the same number of tokens; `_served`
    is that number since the start, and a stream ends when it has grown by the stream's tokens.
    """

    def __init__(
        self,
        problem: ReplayedProblem,
        policy: Policy,
        server: Throughput,
        order: Sequence[int] | None,
        watch: Watch | None,
    ) -> None:
        self._problem = problem
        self._watch = watch
        self._policy = policy
        self._server = server
        roots, self._planned = _opened(problem, order, policy.num_rollouts)
        self._queue = deque(roots)
        self._served = 0.0
        self._now = 0.0
        self._spent = 0.0
        self._streams: list[tuple[float, int, _Rollout]] = []
        self._forks: list[tuple[float, int, _Rollout]] = []
        """When a child may be opened, by `_served`; at its parent's end at the latest."""
        self._running_code: list[tuple[float, int, _Rollout]] = []
        self._signals: list[Signals] = []
        self._votes: list[Vote] = []
        self._num_opened = 0
        self._num_ended = 0
        forked = any(sample.signals.parent is not None for sample in problem.samples)
        self._separable = is_separable(policy.weigh) and not forked
        self._least = least_votes(policy.stop, self._planned) if self._planned else 0

    def run(self, seconds: float, tokens: float) -> Decision:
        """Events in order of time, until the question ends."""
        reason: StopReason | None = None
        while reason is None:
            self._open()
            if not self._streams and not self._running_code:
                reason = "exhausted"
            else:
                reason = self._advance(seconds, tokens) or self._settle()
        return self._decision(reason)

    def _open(self) -> None:
        room = self._policy.concurrency - len(self._streams) - len(self._running_code)
        while self._queue and room > 0:
            rollout = self._queue.popleft()
            own = rollout.sample.num_own_tokens
            heapq.heappush(self._streams, (self._served + own, rollout.number, rollout))
            for child in rollout.children:
                into = min(own, max(0, child.shared - rollout.shared))
                heapq.heappush(self._forks, (self._served + into, child.number, child))
            self._num_opened += 1
            room -= 1

    def _advance(self, seconds: float, tokens: float) -> StopReason | None:
        """Go on to the next end of a stream or a code run; the reason if a budget ends before."""
        count = len(self._streams)
        step = self._server.step(count)
        left = self._next_mark() - self._served if count else math.inf
        to_stream = left * step
        to_code = self._running_code[0][0] - self._now if self._running_code else math.inf
        to_deadline = seconds - self._now
        to_limit = (tokens - self._spent) / count * step if count else math.inf
        passed = max(0.0, min(to_stream, to_code, to_deadline, to_limit))
        self._now += passed
        if count:
            # Exact where a stream ends, so that its end is not missed by rounding.
            grown = left if to_stream <= passed else passed / step
            self._served += grown
            self._spent += grown * count
        if passed < min(to_stream, to_code):
            return "deadline" if to_deadline <= to_limit else "max_tokens"
        return None

    def _next_mark(self) -> float:
        """When by `_served` a stream ends or a child may be opened."""
        end = self._streams[0][0]
        return min(end, self._forks[0][0]) if self._forks else end

    def _settle(self) -> StopReason | None:
        """Take in everything that ends now, by number; the reason if a vote decides."""
        while self._forks and self._forks[0][0] <= self._served:
            self._queue.append(heapq.heappop(self._forks)[2])
        while self._streams and self._streams[0][0] <= self._served:
            _, number, rollout = heapq.heappop(self._streams)
            end = self._now + rollout.sample.code_seconds
            heapq.heappush(self._running_code, (end, number, rollout))
        while self._running_code and self._running_code[0][0] <= self._now:
            rollout = heapq.heappop(self._running_code)[2]
            self._num_ended += 1
            reason = self._count(rollout)
            if reason is not None:
                return reason
        return None

    def _count(self, rollout: _Rollout) -> StopReason | None:
        signals = rollout.sample.signals
        if signals.votes:
            signals = replace(signals, rollout=rollout.number, finished_at=self._now)
            self._signals.append(signals)
            if self._separable:
                self._votes += weigh(self._policy.weigh, (signals,))
            if self._watch is not None:
                self._watch(self._now, tally(self._weighed()))
        if len(self._signals) < self._least:
            return None
        return stopped(
            self._policy.stop,
            self._weighed(),
            self._planned - self._num_ended,
            self._planned,
            self._policy.weigh,
        )

    def _weighed(self) -> Sequence[Vote]:
        if not self._separable:
            return weigh(self._policy.weigh, self._signals)
        return self._votes

    def _decision(self, reason: StopReason) -> Decision:
        counted = tally(self._weighed())
        return Decision(
            answer=counted.leader,
            correct=counted.leader is not None and counted.leader == self._problem.right,
            reason=reason,
            seconds=self._now,
            num_tokens=round(self._spent),
            num_votes=counted.num_votes,
            num_rollouts=self._num_opened,
            weights=counted.weights,
        )
