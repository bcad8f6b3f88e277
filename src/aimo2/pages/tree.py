"""A question's rollouts as a tree, for whoever draws it. Pure: knows no terminal and no page."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from aimo2.policy.vote import SOURCE_WEIGHTS, tally
from aimo2.types import Trace, Turn, Vote

DEEPEST = 24
"""Forks below this depth are drawn at it, so that no stored chain of them breaks a reader."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One rollout, live or stored: what it adds to the tree behind its fork."""

    index: int
    opening: str
    state: str
    """Why it ended, or what it is doing."""
    turns: tuple[Turn, ...]
    """Its own: those that it shares with its parent stand there."""
    num_tokens: int
    """Its own."""
    num_code_runs: int
    """Its own."""
    answer: str | None = None
    weight: float | None = None
    """Of its vote; `None` where it cast none, or where nothing is known of it."""
    parent: int | None = None
    num_shared_turns: int = 0
    started: float = 0.0
    """Seconds from the question's start."""
    seconds: float = 0.0
    error: str | None = None
    prefix: str = ""
    live: bool = False
    confidence: float | None = None
    """Mean token confidence of the whole path (DeepConf), nats."""

    @property
    def sureness(self) -> float | None:
        """Geometric mean of its own tokens' probabilities, 0 to 1; `None` where not recorded."""
        known = [turn for turn in self.turns if turn.mean_logprob is not None and turn.num_tokens]
        total = sum(turn.num_tokens for turn in known)
        if not total:
            return None
        return math.exp(sum((turn.mean_logprob or 0.0) * turn.num_tokens for turn in known) / total)


@dataclass(slots=True)
class Node:
    """A branch and those forked from it."""

    branch: Branch
    depth: int = 0
    children: list["Node"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def branch_of(trace: Trace) -> Branch:
    """A stored rollout as a branch."""
    own = trace.turns[trace.num_shared_turns :]
    return Branch(
        index=trace.rollout,
        opening=trace.opening,
        state=trace.stop_reason,
        turns=own,
        num_tokens=trace.num_own_tokens,
        num_code_runs=sum(turn.run is not None for turn in own),
        answer=trace.answer,
        weight=trace.weight,
        parent=trace.parent,
        num_shared_turns=trace.num_shared_turns,
        started=trace.started,
        seconds=trace.seconds,
        error=trace.error,
        prefix="" if trace.parent is not None else trace.prefix,
        confidence=trace.stats.confidence if trace.stats else None,
    )


def forest(branches: Iterable[Branch]) -> list[Node]:
    """The branches as trees, in the order of their indices.

    A branch whose parent is missing, or that is its own ancestor, is drawn as a root: what is
    stored may be damaged, and still every rollout is seen once.
    """
    nodes = {branch.index: Node(branch) for branch in branches}
    roots: list[Node] = []
    for index in sorted(nodes):
        node = nodes[index]
        parent = node.branch.parent
        # A fork is always younger than what it was forked from, which also rules out circles.
        if parent is None or parent not in nodes or parent >= index:
            roots.append(node)
            continue
        above = nodes[parent]
        node.depth = above.depth + (above.depth < DEEPEST)
        above.children.append(node)
    return roots


@dataclass(frozen=True, slots=True)
class Cast:
    """A vote at the moment when it was cast, in seconds from the question's start."""

    seconds: float
    answer: str
    weight: float
    rollout: int


def casts(traces: Sequence[Trace]) -> list[Cast]:
    """The votes of stored rollouts in the order of their arrival.

    Where no rollout has a stored weight (traces of version 1), an answered one counts by its
    answer's source, as the plain vote does.
    """
    weighed = any(trace.weight is not None for trace in traces)
    found = []
    for trace in traces:
        weight = trace.weight
        if trace.answer is None or (weighed and weight is None):
            continue
        if weight is None:
            weight = SOURCE_WEIGHTS[trace.answer_source or "stated"]
        ended = trace.started + trace.seconds
        found.append(Cast(ended, trace.answer, weight, trace.rollout))
    return sorted(found, key=lambda cast: (cast.seconds, cast.rollout))


def final_votes(found: Sequence[Cast]) -> dict[str, float]:
    """Answer -> summed weight, largest first."""
    return tally(
        Vote(rollout=cast.rollout, answer=cast.answer, weight=cast.weight) for cast in found
    ).weights
