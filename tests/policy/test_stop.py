import random as random_module
from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from aimo2.config import StopConfig, WeighConfig
from aimo2.policy.signals import Signals
from aimo2.policy.stop import min_votes, probability_ahead, stopped
from aimo2.policy.vote import tally
from aimo2.policy.weigh import weigh
from aimo2.types import StopRule, TokenStats, Vote

SHORT = WeighConfig(rule="short_first")
ORDER_FREE: list[StopRule] = ["majority", "k_equal", "unassailable", "adaptive_consistency"]
BALLOTS = st.lists(st.sampled_from("abc"), max_size=16)


def votes(answers: str) -> list[Vote]:
    return [Vote(rollout=index, answer=answer) for index, answer in enumerate(answers)]


def surely(confidence: int) -> TokenStats:
    return TokenStats(
        num_tokens=9,
        mean_logprob=-1,
        tail_logprob=-1,
        min_window_logprob=-1,
        tail_confidence=confidence,
    )


def fires(rule: StopRule, answers: str, running: int = 0, planned: int = 16, **more: float) -> bool:
    config = StopConfig.model_validate({"rule": rule, **more})
    return stopped(config, votes(answers), running, planned) == rule


@given(BALLOTS, st.sampled_from(ORDER_FREE), st.integers(0, 16), st.randoms())
def test_rules_are_invariant_under_the_order_of_votes(
    answers: list[str], rule: StopRule, running: int, random: random_module.Random
) -> None:
    cast = votes("".join(answers))
    shuffled = list(cast)
    random.shuffle(shuffled)
    config = StopConfig(rule=rule)
    assert stopped(config, cast, running, 16) == stopped(config, shuffled, running, 16)


@given(BALLOTS, st.sampled_from(ORDER_FREE), st.integers(0, 15))
def test_one_more_vote_for_a_sole_leader_never_undecides_a_question(
    answers: list[str], rule: StopRule, running: int
) -> None:
    counts = sorted((answers.count(answer), answer) for answer in "abc")
    if counts[-1][0] == counts[-2][0] or not fires(rule, "".join(answers), running + 1):
        return
    assert fires(rule, "".join([*answers, counts[-1][1]]), running)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=16))
def test_unassailable_is_right_whatever_the_rest_votes(answers: list[str]) -> None:
    running = 16 - len(answers)
    if not fires("unassailable", "".join(answers), running):
        return
    counts = {a: answers.count(a) for a in "abc"}
    leader = max(counts.values())
    others = sorted(counts.values())[-2]
    assert others + running <= leader


def test_majority_waits_for_seven_of_sixteen_and_more_than_half() -> None:
    assert fires("majority", "aaaabbb")
    assert not fires("majority", "aaaaaa")
    assert not fires("majority", "aaaabbbb")
    assert fires("majority", "aab", planned=4)
    assert fires("majority", "aaa", min_votes=3)
    assert not fires("majority", "aaaaaaa", min_votes=8)


def test_a_majority_needs_as_many_votes_that_weigh_something() -> None:
    one_is_kept = [vote.model_copy(update={"weight": 0.0}) for vote in votes("aaaaaab")]
    one_is_kept[0] = votes("a")[0]
    assert stopped(StopConfig(), one_is_kept, 9, 16) is None
    agreeing = [Signals(at, "a", num_tokens=at) for at in range(13)]
    assert stopped(StopConfig(), weigh(SHORT, agreeing[:12]), 4, 16, SHORT) is None
    assert stopped(StopConfig(), weigh(SHORT, agreeing), 3, 16, SHORT) == "majority"


def test_a_broken_tie_is_no_majority() -> None:
    tied = [Signals(at, answer, num_tokens=at) for at, answer in enumerate("aaabbbcccccc")]
    weighed = weigh(SHORT, tied)
    assert tally(weighed).share > 0.5
    assert stopped(StopConfig(), weighed, 4, 12, SHORT) is None


def test_a_leader_that_weighs_nothing_decides_nothing() -> None:
    nothing = [vote.model_copy(update={"weight": 0.0}) for vote in votes("aaaa")]
    for rule in [*ORDER_FREE, "window"]:
        assert stopped(StopConfig(rule=rule), nothing, 0, 4) is None


def test_k_equal_counts_the_leader_s_votes() -> None:
    assert fires("k_equal", "abacaa")
    assert not fires("k_equal", "abaca")
    assert fires("k_equal", "aaaaa", k=5)
    assert not fires("k_equal", "aaaa", k=5)


@pytest.mark.parametrize(
    ("answers", "ends"),
    [
        ("aaaa", True),  # 4 of the first 4
        ("aaa", False),
        ("aaab", False),
        ("bbaacaa", True),  # 4 of the last 5
        ("abaca", False),
        ("abacaab", False),  # 4 of 7, 3 of the last 5
        ("abaacba", False),
        ("ababaca", False),
        ("bcaabaa", True),
        ("abcdefg", False),
        ("abcdefgh", True),  # 8 answers at speed level 3
    ],
)
def test_window(answers: str, ends: bool) -> None:
    assert fires("window", answers) == ends


def test_window_ends_with_as_many_answers_as_the_speed_asks_for() -> None:
    for speed, answers in {1: 6, 2: 7, 3: 8, 4: 9, 5: 10}.items():
        assert fires("window", "abcdefghij"[:answers], speed=speed)
        assert not fires("window", "abcdefghij"[: answers - 1], speed=speed)


def test_window_goes_by_arrival() -> None:
    assert fires("window", "bbaaaa", speed=5)
    assert not fires("window", "aabaab", speed=5)


@given(
    st.lists(
        st.builds(
            Signals,
            rollout=st.just(0),
            answer=st.sampled_from(["7", "123", "300", "5000001"]),
            source=st.sampled_from(["boxed", "output", "forced"]),
            num_tokens=st.integers(1, 50),
            stats=st.builds(surely, st.integers(1, 50)),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(
        [
            WeighConfig(),
            WeighConfig(trivial=0.6),
            WeighConfig(keep=0.1),
            WeighConfig(keep=0.5, trivial=0.6),
            WeighConfig(rule="short_first"),
            WeighConfig(rule="short_first", shortest=3, keep=0.7),
        ]
    ),
)
def test_unassailable_holds_for_weights_that_others_do_not_rescale(
    arrived: list[Signals], config: WeighConfig
) -> None:
    """Whenever it fires, no set of votes to come puts another answer ahead."""
    signals = [replace(one, rollout=at) for at, one in enumerate(arrived)]
    for count in range(1, len(signals)):
        so_far = weigh(config, signals[:count])
        unassailable = StopConfig(rule="unassailable")
        if stopped(unassailable, so_far, len(signals) - count, len(signals), config):
            final = tally(weigh(config, signals)).weights
            leader = tally(so_far).leader
            assert leader is not None
            assert max(final.values()) <= final[leader] + 1e-5


def test_unassailable_reckons_with_votes_heavier_than_those_so_far() -> None:
    unassailable = StopConfig(rule="unassailable")
    trivial = WeighConfig(trivial=0.6)
    sevens = weigh(trivial, [Signals(at, "7") for at in range(3)])
    assert stopped(unassailable, sevens, 2, 5, trivial) is None  # 1.8, and two others make 2
    assert stopped(unassailable, sevens, 1, 4, trivial) == "unassailable"
    entropy = WeighConfig(rule="inverse_entropy")
    assert stopped(unassailable, votes("aaaaa"), 2, 7, entropy) is None
    assert stopped(unassailable, votes("aaaaaa"), 2, 8, entropy) == "unassailable"


def test_unassailable_lets_the_rest_draw_level_at_most() -> None:
    assert fires("unassailable", "aaab", running=2)
    assert not fires("unassailable", "aaab", running=3)


def test_adaptive_consistency_as_in_its_paper() -> None:
    assert not fires("adaptive_consistency", "aaa")  # 1 - 2^-4
    assert fires("adaptive_consistency", "aaaa")  # 1 - 2^-5
    assert not fires("adaptive_consistency", "aaaab")
    assert fires("adaptive_consistency", "aaaaaab")
    assert not fires("adaptive_consistency", "aaaa", certainty=0.99)


@given(st.integers(0, 40), st.integers(0, 40))
def test_probability_ahead_is_exact_for_whole_counts(ahead: int, behind: int) -> None:
    total = ahead + behind + 1
    exact = Fraction(sum(comb(total, i) for i in range(ahead + 1)), 2**total)
    assert probability_ahead(ahead, behind) == pytest.approx(float(exact), abs=1e-12)


@given(st.floats(0, 5000), st.floats(0, 5000))
def test_probability_ahead_is_stable_for_broken_and_large_counts(a: float, b: float) -> None:
    assert probability_ahead(a, b) == pytest.approx(betainc(b + 1, a + 1, 0.5), abs=1e-9)


@given(st.floats(0, 200), st.floats(0, 200), st.floats(0, 10))
def test_probability_ahead_grows_with_the_lead(a: float, b: float, more: float) -> None:
    assert probability_ahead(a + more, b) >= probability_ahead(a, b) - 1e-12
    assert probability_ahead(a, b) + probability_ahead(b, a) == pytest.approx(1, abs=1e-12)


def test_half_votes_count_half() -> None:
    halves = [vote.model_copy(update={"weight": 0.5, "count": 0.5}) for vote in votes("aaaaaaa")]
    assert stopped(StopConfig(rule="k_equal"), halves, 0, 16) is None
    assert stopped(StopConfig(rule="adaptive_consistency"), halves[:6], 0, 16) is None
    eight = [*halves, halves[0].model_copy(update={"rollout": 7})]
    assert stopped(StopConfig(rule="k_equal"), eight, 0, 16) == "k_equal"


def test_the_answer_that_fires_a_rule_is_the_leader_by_weight() -> None:
    heavy = Vote(rollout=9, answer="b", weight=9.0)
    assert stopped(StopConfig(rule="k_equal"), [*votes("aaaa"), heavy], 0, 16) is None


def test_never_ends_only_by_its_maximum() -> None:
    assert stopped(StopConfig(rule="never"), votes("a" * 16), 0, 16) is None
    assert stopped(StopConfig(rule="never", max_votes=5), votes("aaaaa"), 3, 16) == "max_votes"


def test_the_rule_is_named_before_the_maximum() -> None:
    both = StopConfig(rule="k_equal", max_votes=4)
    assert stopped(both, votes("aaaa"), 3, 16) == "k_equal"
    assert stopped(both, votes("aaab"), 3, 16) == "max_votes"


def test_nothing_is_decided_without_votes() -> None:
    for rule in [*ORDER_FREE, "window", "never"]:
        assert stopped(StopConfig(rule=rule), [], 0, 4) is None


def test_impossible_figures_are_a_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="0 rollouts planned"):
        stopped(StopConfig(), [], 0, 0)
    with pytest.raises(ValueError, match="-1"):
        stopped(StopConfig(), [], -1, 4)
    with pytest.raises(ValueError, match="above max_votes"):
        StopConfig(min_votes=5, max_votes=4)
    with pytest.raises(ValueError, match="-2"):
        probability_ahead(3, -2)
    with pytest.raises(ValueError, match="0"):
        min_votes(0)
