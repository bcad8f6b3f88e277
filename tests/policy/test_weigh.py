import random as random_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import Calibration, WeighConfig
from aimo2.policy.calibrate import features
from aimo2.policy.signals import Signals
from aimo2.policy.weigh import independence, is_trivial, weigh
from aimo2.types import TokenStats

CALIBRATION = Calibration(
    intercept=0.3,
    coefficients={"code_agrees": 1.0, "log_relative_tokens": -0.5},
    means={"code_agrees": 0.5, "log_relative_tokens": 0.0},
    scales={"code_agrees": 0.5, "log_relative_tokens": 0.7},
)
CONFIGS = [
    WeighConfig(),
    WeighConfig(trivial=0.6),
    WeighConfig(rule="mean_confidence"),
    WeighConfig(rule="tail_confidence", keep=0.1),
    WeighConfig(rule="bottom_confidence", keep=0.5, keep_by="bottom_confidence"),
    WeighConfig(rule="min_confidence"),
    WeighConfig(rule="inverse_entropy"),
    WeighConfig(rule="short_first"),
    WeighConfig(rule="calibrated", calibration=CALIBRATION),
]


def stats(confidence: float | None = None, entropy: float | None = None) -> TokenStats:
    return TokenStats(
        num_tokens=10,
        mean_logprob=-0.5,
        tail_logprob=-0.25,
        min_window_logprob=-1.0,
        confidence=confidence,
        tail_confidence=confidence,
        bottom_confidence=confidence,
        min_confidence=confidence,
        entropy=entropy,
    )


STATS = st.none() | st.builds(stats, st.none() | st.floats(0, 30), st.none() | st.floats(0, 3))
SETS = st.lists(
    st.builds(
        Signals,
        rollout=st.integers(0, 99),
        answer=st.none() | st.sampled_from(["7", "42", "300"]),
        source=st.sampled_from(["boxed", "stated", "output", "forced"]),
        num_tokens=st.integers(0, 5000),
        code_agrees=st.none() | st.booleans(),
        stats=STATS,
        stop_reason=st.sampled_from(["answered", "unsure"]),
    ),
    unique_by=lambda one: one.rollout,
    max_size=12,
)


@given(SETS, st.sampled_from(CONFIGS), st.randoms())
def test_weights_are_invariant_under_the_order_of_arrival(
    signals: list[Signals], config: WeighConfig, random: random_module.Random
) -> None:
    shuffled = list(signals)
    random.shuffle(shuffled)
    by_rollout = {vote.rollout: vote for vote in weigh(config, signals)}
    assert {vote.rollout: vote for vote in weigh(config, shuffled)} == by_rollout


@given(SETS, st.sampled_from(CONFIGS))
def test_every_voter_votes_once_with_a_finite_weight(
    signals: list[Signals], config: WeighConfig
) -> None:
    votes = weigh(config, signals)
    assert [vote.rollout for vote in votes] == [one.rollout for one in signals if one.votes]
    assert all(0 <= vote.weight < 1e6 and 0 < vote.count <= 1 for vote in votes)


def test_plain_votes_weigh_by_their_source() -> None:
    signals = [Signals(0, "1"), Signals(1, "1", "output"), Signals(2, "1", "forced")]
    assert [vote.weight for vote in weigh(WeighConfig(), signals)] == [1.0, 0.25, 0.25]


def test_the_source_s_weight_is_composed_with_the_rule_s() -> None:
    signals = [Signals(0, "1", stats=stats(4.0)), Signals(1, "2", "forced", stats=stats(8.0))]
    votes = weigh(WeighConfig(rule="mean_confidence"), signals)
    assert [vote.weight for vote in votes] == pytest.approx([4 / 6, 8 / 6 / 4])
    assert [vote.count for vote in votes] == [1.0, 0.25]


def test_unknown_confidence_is_a_plain_vote() -> None:
    signals = [Signals(0, "1"), Signals(1, "2", stats=stats(3.0)), Signals(2, "2", stats=stats(9))]
    votes = weigh(WeighConfig(rule="mean_confidence"), signals)
    assert [vote.weight for vote in votes] == pytest.approx([1.0, 0.5, 1.5])


def test_log_probabilities_stand_in_where_no_server_gives_candidates() -> None:
    signals = [Signals(0, "1", stats=stats()), Signals(1, "2", stats=stats())]
    assert [v.weight for v in weigh(WeighConfig(rule="tail_confidence"), signals)] == [1.0, 1.0]


def test_one_confident_trace_outvotes_three_at_most() -> None:
    signals = [Signals(0, "9", stats=stats(1, 1e-12))]
    signals += [Signals(at, "5", stats=stats(1, 0.8)) for at in range(1, 5)]
    votes = weigh(WeighConfig(rule="inverse_entropy"), signals)
    assert [vote.weight for vote in votes] == pytest.approx([3, 1, 1, 1, 1])


def test_short_first_counts_the_shorter_half_and_breaks_ties_by_the_shortest() -> None:
    lengths = [900, 100, 300, 200]
    signals = [Signals(at, str(at), num_tokens=n) for at, n in enumerate(lengths)]
    votes = weigh(WeighConfig(rule="short_first"), signals)
    assert [vote.weight > 0 for vote in votes] == [False, True, False, True]
    assert votes[1].weight > votes[3].weight
    three = weigh(WeighConfig(rule="short_first", shortest=3), signals)
    assert [vote.weight > 0 for vote in three] == [False, True, True, True]


def test_the_filter_keeps_the_surest_and_at_least_one() -> None:
    signals = [Signals(at, "1", stats=stats(float(at))) for at in range(20)]
    votes = weigh(WeighConfig(keep=0.1), signals)
    assert [vote.rollout for vote in votes if vote.weight] == [18, 19]
    assert [v.rollout for v in weigh(WeighConfig(keep=0.1), signals[:3]) if v.weight] == [2]


def test_the_filter_keeps_everything_where_nothing_is_known() -> None:
    assert all(v.weight for v in weigh(WeighConfig(keep=0.1), [Signals(0, "1"), Signals(1, "2")]))


@pytest.mark.parametrize(
    ("answer", "trivial"),
    [
        ("0", True),
        ("20", True),
        ("21", False),
        ("100", True),
        ("101", False),
        ("1200", True),
        ("-3", True),
        ("-250", True),
        ("7/2", False),
        ("x", False),
        ("9" * 5000, False),
    ],
)
def test_trivial_answers(answer: str, trivial: bool) -> None:
    assert is_trivial(answer) == trivial
    (vote,) = weigh(WeighConfig(trivial=0.6), [Signals(0, answer)])
    assert vote.weight == (0.6 if trivial else 1.0)


def child(rollout: int, shared: int, own: int) -> Signals:
    path = ((1, shared), (100 + rollout, own))
    return Signals(rollout, "1", num_tokens=shared + own, parent=0, path=path)


def test_leaves_that_share_a_prefix_count_as_kish_has_it() -> None:
    leaves = [child(at, 300, 100) for at in (1, 2, 3)]
    assert sum(independence(leaves)) == pytest.approx(3 / (1 + 2 * 0.75))
    assert [vote.count for vote in weigh(WeighConfig(), leaves)] == pytest.approx([0.4] * 3)


def test_copies_count_once_and_strangers_in_full() -> None:
    stranger = Signals(7, "1", num_tokens=50, path=((9, 50),))
    discounts = independence([child(1, 300, 0), child(2, 300, 0), stranger])
    assert discounts == pytest.approx([0.5, 0.5, 1.0])


def test_a_longer_shared_prefix_never_adds_votes() -> None:
    totals = [sum(independence([child(1, n, 400 - n), child(2, n, 400 - n)])) for n in range(401)]
    assert totals == sorted(totals, reverse=True)


def test_calibrated_votes_add_log_odds_and_never_count_against() -> None:
    config = WeighConfig(rule="calibrated", calibration=CALIBRATION)
    signals = [Signals(at, "1", num_tokens=100, code_agrees=at == 0) for at in range(3)]
    assert [vote.weight for vote in weigh(config, signals)] == pytest.approx([1.3, 0, 0])
    shifted = CALIBRATION.model_copy(update={"shift": 1.0})
    config = WeighConfig(rule="calibrated", calibration=shifted)
    assert [vote.weight for vote in weigh(config, signals)] == pytest.approx([2.3, 0.3, 0.3])


def test_a_calibration_of_another_version_is_refused() -> None:
    other = Calibration(
        intercept=0, coefficients={"moon": 1.0}, means={"moon": 0.0}, scales={"moon": 1.0}
    )
    with pytest.raises(ValueError, match="moon"):
        weigh(WeighConfig(rule="calibrated", calibration=other), [Signals(0, "1")])
    with pytest.raises(ValueError, match="aimo2 calibrate"):
        WeighConfig(rule="calibrated")
    with pytest.raises(ValueError, match="same names"):
        Calibration(intercept=0, coefficients={"a": 1}, means={}, scales={})
    with pytest.raises(ValueError, match="above 0"):
        Calibration(intercept=0, coefficients={"a": 1}, means={"a": 0}, scales={"a": 0})


def test_features_are_finite_and_have_the_same_names_for_every_trace() -> None:
    rows = features([Signals(0, None), Signals(1, "7", num_tokens=9, stats=stats())])
    assert set(rows[0]) == set(rows[1])
