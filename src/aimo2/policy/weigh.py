"""What each vote of a question weighs. Pure: the whole set in, votes out. Knows no models.

A weight is the product of the rule's weight (in units of a plain vote: their mean, or their median,
is 1; log-odds for `calibrated`), the filter (0 or 1), the prior against trivial answers, the weight
of the answer's source, and the discount for a shared prefix. The last two make up `Vote.count`,
which rules that count votes go by. Every rule is invariant under the order of the votes.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median

from aimo2.config import Calibration, WeighConfig
from aimo2.policy.calibrate import SOURCE_FEATURES, log_odds
from aimo2.policy.signals import Signals
from aimo2.policy.vote import SOURCE_WEIGHTS
from aimo2.types import TokenStats, Vote

ENTROPY_BOUND = 3.0
"""`inverse_entropy` gives no vote more than so many times the median, nor less than its inverse."""
TRIVIAL_UP_TO = 20
_TRIVIAL_ENDING = "00"
_TIE_BREAK = 1e-6
"""`short_first` prefers the answer with the shortest vote among equals."""


def weigh(config: WeighConfig, signals: Sequence[Signals]) -> list[Vote]:
    """The votes of those that cast one, in the order given.

    Invariant: a rollout's vote depends on the set of `signals`, not on their order.
    """
    voters = [one for one in signals if one.votes]
    rule = _rule_weights(config, voters)
    kept = _kept(config, voters)
    discounts = independence(voters)
    votes = []
    for one, weight, keep, discount in zip(voters, rule, kept, discounts, strict=True):
        assert one.answer is not None
        count = SOURCE_WEIGHTS[one.source] * discount
        held = discount if _knows_source(config, one) else count
        prior = _prior(config, one.answer)
        votes.append(
            Vote(
                rollout=one.rollout,
                answer=one.answer,
                weight=weight * prior * held if keep else 0.0,
                count=count,
            )
        )
    return votes


def _knows_source(config: WeighConfig, one: Signals) -> bool:
    """Whether the rule's own weight has the source in it, so that it must not be held against the
    vote twice.
    """
    if config.rule != "calibrated" or config.calibration is None:
        return False
    return SOURCE_FEATURES.get(one.source) in config.calibration.coefficients


def is_separable(config: WeighConfig) -> bool:
    """Whether a vote weighs the same whatever the others are, where nothing forked."""
    return config.rule == "count" and config.keep >= 1


def swing(config: WeighConfig, votes: Sequence[Vote]) -> float:
    """By how much one vote to come can bring another answer nearer to the leader, at most.

    A vote weighs its rule's maximum. Where there is none, for confidences and `calibrated`, the
    heaviest so far stands in, before the prior, and at least 1. Where only a part of the votes
    weighs anything (`keep`, `short_first`), a vote can push one of the leader's out besides.
    Exact for `count` and `short_first` where nothing forks; that a vote to come may change what
    the others weigh, by their mean, their median or a shared prefix, is not looked at.
    """
    displaces = config.keep < 1 or config.rule == "short_first"
    return (2.0 if displaces else 1.0) * _heaviest(config, votes)


def _heaviest(config: WeighConfig, votes: Sequence[Vote]) -> float:
    match config.rule:
        case "count":
            return 1.0
        case "short_first":
            return 1.0 + _TIE_BREAK
        case "inverse_entropy":
            return ENTROPY_BOUND
        case _:
            seen = (vote.weight / vote.count / _prior(config, vote.answer) for vote in votes)
            return max(1.0, max(seen, default=1.0))


def _prior(config: WeighConfig, answer: str) -> float:
    return config.trivial if config.trivial < 1 and is_trivial(answer) else 1.0


def is_trivial(answer: str) -> bool:
    """An integer of at most 20, or a multiple of 100: what models guess (imagination-research,
    AIMO-2, who weigh such answers 0.6). Other answers are not.
    """
    digits = answer.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return False
    small = answer != digits or (len(digits) <= 2 and int(digits) <= TRIVIAL_UP_TO)
    return small or digits.endswith(_TRIVIAL_ENDING)


def independence(signals: Sequence[Signals]) -> list[float]:
    """How much of an independent vote each is, above 0 and at most 1.

    Two rollouts are taken to be correlated by the part of their tokens that they share: the shared
    prefix over the longer path. A vote counts 1 / (sum of its correlations, its own 1 included),
    so n leaves that share the part r of their path count n / (1 + (n - 1) r) together: Kish's
    effective sample size of a cluster (Survey Sampling, 1965, section 5.4). Copies count as one
    vote, unrelated rollouts as one each.
    """
    if all(one.parent is None for one in signals):
        return [1.0] * len(signals)
    return [1.0 / math.fsum(_shared(one, other) for other in signals) for one in signals]


def _shared(one: Signals, other: Signals) -> float:
    """The part of the longer path's tokens that both have in common; 1 for a rollout itself."""
    if one.rollout == other.rollout:
        return 1.0
    longest = max(one.num_tokens, other.num_tokens)
    common = 0
    for (number, tokens), (other_number, _) in zip(one.path, other.path, strict=False):
        if number != other_number:
            break
        common += tokens
    return common / longest if longest else 0.0


def _rule_weights(config: WeighConfig, voters: Sequence[Signals]) -> list[float]:
    match config.rule:
        case "count":
            return [1.0] * len(voters)
        case "inverse_entropy":
            return _inverse_entropy(voters)
        case "short_first":
            return _short_first(config.shortest, voters)
        case "calibrated":
            assert config.calibration is not None
            return _calibrated(config.calibration, voters)
        case _:
            return _confidence(config.rule, voters)


_CONFIDENCE: dict[str, Callable[[TokenStats], float | None]] = {
    "mean_confidence": lambda stats: stats.confidence,
    "tail_confidence": lambda stats: stats.tail_confidence,
    "bottom_confidence": lambda stats: stats.bottom_confidence,
    "min_confidence": lambda stats: stats.min_confidence,
}
_LOGPROB: dict[str, Callable[[TokenStats], float]] = {
    "mean_confidence": lambda stats: stats.mean_logprob,
    "tail_confidence": lambda stats: stats.tail_logprob,
    "bottom_confidence": lambda stats: stats.min_window_logprob,
    "min_confidence": lambda stats: stats.min_window_logprob,
}


def confidences(name: str, voters: Sequence[Signals]) -> list[float | None]:
    """DeepConf's figure `name` for each (arXiv 2508.15260, section 3.1); `None` where unknown.

    Where no rollout has one, because the server gives no top candidates: the geometric mean of the
    sampled tokens' probability over the same tokens, 0 to 1. The two are never mixed.
    """
    all_stats = [one.stats for one in voters]
    read = _CONFIDENCE[name]
    found = [None if stats is None else read(stats) for stats in all_stats]
    if any(value is not None for value in found):
        return found
    logprob = _LOGPROB[name]
    return [None if stats is None else math.exp(min(0.0, logprob(stats))) for stats in all_stats]


def _confidence(name: str, voters: Sequence[Signals]) -> list[float]:
    """Confidence over its mean; 1 for a vote whose confidence is unknown."""
    values = confidences(name, voters)
    known = [value for value in values if value is not None]
    mean = math.fsum(known) / len(known) if known else 0.0
    return [1.0 if value is None or mean <= 0 else max(0.0, value / mean) for value in values]


def _inverse_entropy(voters: Sequence[Signals]) -> list[float]:
    """1 / max(H, 1e-9), H the mean entropy of the top 5 candidates (AIMO-3 notebooks), over the
    median and then bounded to [1/3, 3], so that no single confident trace outvotes more than three
    typical ones; 1 where H is unknown.
    """
    values = [
        None if one.stats is None or one.stats.entropy is None else one.stats.entropy
        for one in voters
    ]
    known = [1.0 / max(value, 1e-9) for value in values if value is not None]
    middle = median(known) if known else 1.0
    return [
        1.0
        if value is None
        else min(ENTROPY_BOUND, max(1 / ENTROPY_BOUND, 1.0 / max(value, 1e-9) / middle))
        for value in values
    ]


def _calibrated(calibration: Calibration, voters: Sequence[Signals]) -> list[float]:
    """The weight of evidence for the vote's answer, in nats, at least 0.

    A trace that is right with probability p votes for its answer; if it is wrong, it lands on
    another trace's wrong answer only with the probability c with which wrong traces agree. The
    likelihood ratio of "this answer is right" against "another one is" is then p / ((1 - p) c), so
    that the weight is the log-odds plus the shift -log c, as for independent witnesses.
    """
    return [max(0.0, odds + calibration.shift) for odds in log_odds(calibration, voters)]


def _short_first(shortest: int | None, voters: Sequence[Signals]) -> list[float]:
    """short-m@k (arXiv 2505.17813): the m shortest vote, equals are decided by the shortest.

    Of equal length, the smaller rollout index is the shorter one.
    """
    wanted = shortest or math.ceil(len(voters) / 2)
    order = sorted(range(len(voters)), key=lambda at: (voters[at].num_tokens, voters[at].rollout))
    weights = [0.0] * len(voters)
    for rank, at in enumerate(order[:wanted]):
        weights[at] = 1.0 + _TIE_BREAK * 0.5**rank
    return weights


def _kept(config: WeighConfig, voters: Sequence[Signals]) -> list[bool]:
    """DeepConf's filter: the surest part, at least one vote; those of unknown confidence go last.

    Everything is kept where no confidence is known.
    """
    if config.keep >= 1:
        return [True] * len(voters)
    values = confidences(config.keep_by, voters)
    if all(value is None for value in values):
        return [True] * len(voters)
    wanted = max(1, math.ceil(config.keep * len(voters)))
    order = sorted(
        range(len(voters)),
        key=lambda at: (-(values[at] or 0.0), values[at] is None, voters[at].rollout),
    )
    kept = [False] * len(voters)
    for at in order[:wanted]:
        kept[at] = True
    return kept
