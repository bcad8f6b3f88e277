import math
import random as random_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import StopConfig, WeighConfig
from aimo2.evals.recorded import ReplayedProblem
from aimo2.evals.replay import Policy, Throughput, fit_throughput, replay
from aimo2.types import StopRule
from tests.evals.recorded import problem, sample

STEADY = Throughput(base=0.01, per_stream=0.0)
"""Each stream gives 100 tokens a second, whatever the others do."""
SHARED = Throughput(base=0.0, per_stream=0.01)
"""100 tokens a second in all."""
NEVER = StopConfig(rule="never")
RULES: list[StopRule] = [
    "majority", "k_equal", "window", "unassailable", "adaptive_consistency", "never"
]  # fmt: skip
PROBLEMS = st.lists(
    st.tuples(st.none() | st.sampled_from("abc"), st.integers(1, 500)), min_size=1, max_size=16
).map(lambda rows: problem([a for a, _ in rows], [t for _, t in rows]))


def test_one_at_a_time_takes_the_sum_and_all_at_once_the_longest() -> None:
    recorded = problem("aab", [100, 300, 200])
    one = replay(recorded, Policy(NEVER, concurrency=1), STEADY)
    every = replay(recorded, Policy(NEVER, concurrency=3), STEADY)
    assert (one.seconds, every.seconds) == pytest.approx((6.0, 3.0))
    assert one.num_tokens == every.num_tokens == 600
    assert (one.answer, one.correct, one.reason, one.num_votes) == ("a", True, "exhausted", 3)


def test_streams_share_a_busy_server() -> None:
    decision = replay(problem("aab", [100, 300, 200]), Policy(NEVER, concurrency=3), SHARED)
    assert decision.seconds == pytest.approx(6.0)


def test_what_is_cancelled_has_cost_what_it_had_sampled() -> None:
    recorded = problem("aab", [100, 150, 500])
    decision = replay(recorded, Policy(StopConfig(rule="majority"), concurrency=3), STEADY)
    assert decision.reason == "majority"
    assert decision.seconds == pytest.approx(1.5)
    assert decision.num_tokens == 100 + 150 + 150
    assert (decision.num_rollouts, decision.num_votes) == (3, 2)


def test_a_rollout_that_is_not_opened_costs_nothing() -> None:
    decision = replay(problem("aab", 100), Policy(StopConfig(rule="majority"), concurrency=1))
    assert (decision.num_rollouts, decision.num_tokens) == (2, 200)


def test_rollouts_without_an_answer_cost_and_do_not_vote() -> None:
    decision = replay(problem([None, None], 100), Policy(NEVER))
    assert (decision.answer, decision.correct, decision.num_tokens) == (None, False, 200)
    assert decision.reason == "exhausted"


def test_a_running_code_run_gives_its_tokens_to_nobody_but_takes_its_time() -> None:
    rows = (sample(0, "a", 100, code_seconds=5.0), sample(1, "b", 100))
    recorded = ReplayedProblem("p", "", rows, "a")
    decision = replay(recorded, Policy(NEVER, concurrency=2), STEADY)
    assert decision.seconds == pytest.approx(6.0)
    assert decision.num_tokens == 200


def test_the_order_decides_who_is_first() -> None:
    recorded = problem("aaab", 100)
    policy = Policy(StopConfig(rule="never", max_votes=1), concurrency=1)
    assert replay(recorded, policy, order=[3, 0, 1, 2]).answer == "b"
    assert replay(recorded, policy).answer == "a"


def test_ties_go_to_the_rollout_that_was_opened_first() -> None:
    recorded = problem("ab", [200, 100])
    assert replay(recorded, Policy(NEVER)).answer == "a"
    assert replay(recorded, Policy(NEVER), order=[1, 0]).answer == "b"


def test_a_budget_of_seconds_ends_the_question() -> None:
    recorded = problem("aab", [100, 300, 500])
    decision = replay(recorded, Policy(NEVER, concurrency=3), STEADY, seconds=2.0)
    assert (decision.reason, decision.answer, decision.seconds) == ("deadline", "a", 2.0)
    assert decision.num_tokens == 100 + 200 + 200


def test_a_budget_of_tokens_ends_the_question() -> None:
    recorded = problem("aab", [100, 300, 500])
    decision = replay(recorded, Policy(NEVER, concurrency=3), STEADY, tokens=360)
    assert (decision.reason, decision.num_tokens, decision.num_votes) == ("max_tokens", 360, 1)
    assert decision.seconds == pytest.approx(1.3)


@given(PROBLEMS, st.sampled_from(RULES), st.integers(1, 16), st.randoms(), st.floats(0, 20))
def test_no_budget_is_passed_and_no_rule_costs_more_than_never(
    recorded: ReplayedProblem,
    rule: StopRule,
    concurrency: int,
    random: random_module.Random,
    seconds: float,
) -> None:
    order = list(range(len(recorded.samples)))
    random.shuffle(order)
    policy = Policy(StopConfig(rule=rule), concurrency=concurrency)
    full = replay(recorded, Policy(NEVER, concurrency=concurrency), order=order)
    decision = replay(recorded, policy, order=order)
    cut = replay(recorded, policy, order=order, seconds=seconds)
    assert full.num_tokens == sum(each.num_own_tokens for each in recorded.samples)
    assert decision.num_tokens <= full.num_tokens
    assert decision.seconds <= full.seconds + 1e-9
    assert cut.seconds <= min(seconds, decision.seconds) + 1e-9
    assert cut.num_tokens <= decision.num_tokens
    assert decision == replay(recorded, policy, order=order)


@given(PROBLEMS, st.randoms())
def test_a_full_vote_has_the_same_weights_in_any_order(
    recorded: ReplayedProblem, random: random_module.Random
) -> None:
    order = list(range(len(recorded.samples)))
    random.shuffle(order)
    for rule in ("count", "short_first"):
        policy = Policy(NEVER, WeighConfig(rule=rule, shortest=99))
        one, other = replay(recorded, policy), replay(recorded, policy, order=order)
        assert one.weights == pytest.approx(other.weights, abs=1e-3)


def family() -> ReplayedProblem:
    """A root of 100 tokens with two children that add 50 each, and another root."""
    path = ((1, 100),)
    rows = (
        sample(0, None, 100, path=path, stop_reason="forked"),
        sample(1, "a", 150, own=50, parent=0, path=(*path, (2, 50))),
        sample(2, "a", 150, own=50, parent=0, path=(*path, (3, 50))),
        sample(3, "b", 400, path=((4, 400),)),
    )
    return ReplayedProblem("p", "", rows, "a")


def test_forks_that_go_in_circles_are_all_replayed() -> None:
    circle = (sample(0, "a", 100, parent=1), sample(1, "a", 100, parent=0, own=60))
    decision = replay(ReplayedProblem("p", "run", circle, "a"), Policy(StopConfig(rule="never")))
    assert (decision.num_rollouts, decision.num_votes, decision.num_tokens) == (2, 2, 160)


def test_a_child_is_opened_when_its_parent_has_sampled_what_they_share() -> None:
    decision = replay(family(), Policy(NEVER, concurrency=2), STEADY, order=[2, 3, 0, 1])
    assert decision.num_tokens == 100 + 50 + 50 + 400
    assert decision.seconds == pytest.approx(4.0)
    assert decision.num_votes == 3


def test_a_parent_that_goes_on_has_its_child_beside_it() -> None:
    rows = (
        sample(0, "a", 300, path=((1, 100), (2, 200))),
        sample(1, "a", 150, own=50, parent=0, path=((1, 100), (3, 50))),
        sample(2, "b", 160, own=10, parent=1, path=((1, 100), (3, 50), (4, 10))),
    )
    recorded = ReplayedProblem("p", "", rows, "a")
    both = replay(recorded, Policy(NEVER, concurrency=2), STEADY)
    assert both.seconds == pytest.approx(3.0)
    assert both.num_tokens == 300 + 50 + 10
    cut = replay(recorded, Policy(NEVER, concurrency=2), STEADY, seconds=1.2)
    assert (cut.num_rollouts, cut.num_tokens) == (2, 120 + 20)
    one = replay(recorded, Policy(NEVER, concurrency=1), STEADY)
    assert one.seconds == pytest.approx(3.6)


def test_children_that_share_a_prefix_count_less_together() -> None:
    weights = replay(family(), Policy(NEVER)).weights
    assert weights == pytest.approx({"a": 2 / (1 + 100 / 150), "b": 1.0})


def test_so_many_rollouts_as_the_policy_has_are_opened() -> None:
    policy = Policy(NEVER, num_rollouts=2, concurrency=9)
    assert replay(family(), policy).num_rollouts == 2
    assert replay(problem("aaaa"), policy).num_rollouts == 2
    assert replay(problem("a"), policy).num_rollouts == 1


def test_a_throughput_is_fitted_through_measured_points() -> None:
    true = Throughput(base=0.02, per_stream=0.001)
    fitted = fit_throughput([(c, true.rate(c)) for c in (1, 4, 16, 64)])
    assert (fitted.base, fitted.per_stream) == pytest.approx((0.02, 0.001))
    one = fit_throughput([(8, 800.0), (8, 800.0)])
    assert one.rate(8) == pytest.approx(800.0)


@given(
    st.lists(
        st.tuples(st.integers(1, 256), st.floats(1, 1e5)), min_size=2, max_size=6,
        unique_by=lambda point: point[0],
    )
)  # fmt: skip
def test_a_fitted_throughput_never_falls_with_more_streams(
    points: list[tuple[int, float]],
) -> None:
    fitted = fit_throughput(points)
    assert min(fitted.base, fitted.per_stream) >= 0
    rates = [fitted.rate(streams) for streams in (1, 2, 16, 256)]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
    assert rates == pytest.approx(sorted(rates))


def test_wrong_figures_are_a_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match="no measured"):
        fit_throughput([])
    with pytest.raises(ValueError, match="above 0"):
        fit_throughput([(0, 10.0)])
    with pytest.raises(ValueError, match="1 or more"):
        Policy(num_rollouts=0)
