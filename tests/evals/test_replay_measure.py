import math
import random
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy
import pytest

from aimo2.errors import ConfigError, InputError
from aimo2.evals.estimators import mean_interval
from aimo2.evals.recorded import ReplayedProblem
from aimo2.evals.replay import DEFAULT_THROUGHPUT, replay
from aimo2.evals.replay_measure import Replayed, choose, measure, pareto, split, summarise
from aimo2.evals.replay_policies import (
    Candidate,
    most_samples,
    parse_policy,
    policy_grid,
    weight_grid,
)
from aimo2.evals.replay_report import plain_lines, plot
from aimo2.presets import load_preset
from tests.evals.recorded import problem
from tests.evals.test_calibration import drawn


def named(*names: str, rollouts: int = 8) -> list[Candidate]:
    return [parse_policy(name, num_rollouts=rollouts) for name in names]


def run(problems: Sequence[ReplayedProblem], *names: str, orders: int = 10) -> list[Replayed]:
    return measure(problems, named(*names), DEFAULT_THROUGHPUT, orders=orders)


def test_figures_are_expectations_over_orders() -> None:
    recorded = problem("aab", 100)
    (measured,) = run([recorded], "never@1", orders=3000)
    assert measured.accuracy == pytest.approx(2 / 3, abs=0.03)
    every = [
        replay(recorded, measured.candidate.policies[0], order=order).correct
        for order in permutations(range(3))
    ]
    assert sum(every) / len(every) == pytest.approx(2 / 3)


def test_policies_are_replayed_on_the_same_orders() -> None:
    problems = [problem("aab", [100, 200, 300], name=f"p{n}") for n in range(9)]
    one, other = run(problems, "majority@2", "majority@2")
    assert (one.sums == other.sums).all()


def test_a_policy_against_itself_gains_exactly_nothing() -> None:
    problems = [problem("aab" if n % 2 else "bba", name=f"p{n}") for n in range(30)]
    (measured,) = run(problems, "never")
    summary = summarise(measured, measured)
    assert (summary.gain.low, summary.gain.value, summary.gain.high) == (0, 0, 0)
    assert (summary.token_ratio.low, summary.token_ratio.high) == (1, 1)
    assert summary.accuracy.low < summary.accuracy.value == 0.5 < summary.accuracy.high


def test_intervals_draw_problems_with_all_their_runs() -> None:
    once = [problem("a" if n % 2 else "b", name=f"p{n}") for n in range(40)]
    often = [each for each in once for _ in range(25)]
    one, many = (summarise(r, r).accuracy for (r,) in (run(once, "never"), run(often, "never")))
    assert many.high - many.low == pytest.approx(one.high - one.low, abs=0.02)


def test_intervals_cover_as_often_as_they_say() -> None:
    generator = random.Random(5)
    covered = 0
    for _ in range(150):
        rates = [generator.random() < 0.7 for _ in range(60)]
        problems = [problem("a" if r else "b", name=f"p{n}") for n, r in enumerate(rates)]
        (measured,) = run(problems, "never", orders=1)
        accuracy = summarise(measured, measured).accuracy
        covered += accuracy.low <= 0.7 <= accuracy.high
    assert 0.90 <= covered / 150 <= 0.99


def test_intervals_are_those_of_every_other_figure() -> None:
    problems = [problem("a" if n % 3 else "b", name=f"p{n}") for n in range(12)]
    (measured,) = run(problems, "never")
    wanted = mean_interval([float(n % 3 > 0) for n in range(12)])
    assert summarise(measured, measured).accuracy == wanted


def test_one_problem_has_no_interval_and_no_nan_is_shown() -> None:
    results = run([problem("aab", [100, 200, 300])], "never", "majority@2")
    summaries = [summarise(each, results[0]) for each in results]
    assert all(math.isnan(each.accuracy.low) for each in summaries)
    assert math.isnan(summaries[1].gain.high)
    text = "\n".join(plain_lines(summaries))
    assert "nan" not in text
    assert "never\t100.0\t+0.0 (" in text


def test_an_ended_replay_is_over_the_problems_so_far() -> None:
    problems = [problem("a", name=f"p{n}") for n in range(9)]
    (measured,) = measure(
        problems, named("never"), DEFAULT_THROUGHPUT, progress=lambda done, total: done < 4
    )
    assert measured.questions.sum() == 4
    assert measured.accuracy == 1.0


def test_a_split_keeps_problems_whole() -> None:
    problems = [problem("ab", name=f"p{n % 50}") for n in range(200)]
    train, held_out = split(problems, seed=3)
    assert len(train) + len(held_out) == 200
    ids = [{each.problem_id for each in half} for half in (train, held_out)]
    assert not ids[0] & ids[1]
    assert min(map(len, ids)) > 10


def made(name: str, accuracy: float, tokens: float) -> Replayed:
    """One question in each of ten problems."""
    row = [accuracy, tokens, 1.0, 1.0, 1.0]
    return Replayed(Candidate(name, ()), numpy.array([row] * 10), numpy.ones(10))


def test_the_choice_is_the_best_and_the_cheapest_within_the_margin() -> None:
    base = made("base", 0.80, 1000)
    results = [made("a", 0.85, 900), made("b", 0.85, 800), made("c", 0.79, 300)]
    results += [made("d", 0.50, 100)]
    assert [each.name for each in choose(results, base, margin=0.0)] == ["b", "b"]
    assert [each.name for each in choose(results, base, margin=0.01)] == ["b", "c"]
    assert [each.name for each in choose(results, base, margin=1.0)] == ["b", "d"]
    assert [each.name for each in choose(results[3:], base, margin=0.0)] == ["d", "d"]


def test_the_front_holds_what_no_other_beats() -> None:
    results = [made("a", 0.9, 900), made("b", 0.8, 300), made("c", 0.7, 400), made("d", 0.6, 100)]
    results += [made("e", 0.9, 950), made("f", 0.5, 100)]
    assert [each.name for each in pareto(results)] == ["d", "b", "a"]


@pytest.mark.parametrize(
    ("name", "rule", "weights", "rollouts", "concurrency"),
    [
        ("majority", "majority", "count", 8, 8),
        ("k_equal:k=5+short_first:shortest=3@16x4", "k_equal", "short_first", 16, 4),
        ("never+tail_confidence:keep=0.1@12", "never", "tail_confidence", 12, 12),
    ],
)
def test_names_of_policies(
    name: str, rule: str, weights: str, rollouts: int, concurrency: int
) -> None:
    (policy,) = parse_policy(name, num_rollouts=8).policies
    assert (policy.stop.rule, policy.weigh.rule) == (rule, weights)
    assert (policy.num_rollouts, policy.concurrency) == (rollouts, concurrency)


def test_a_preset_s_rules_can_be_replayed() -> None:
    (policy,) = parse_policy("preset:aimo2-winner-like@16x2", num_rollouts=8).policies
    winner = load_preset("aimo2-winner-like")
    assert (policy.stop, policy.weigh) == (winner.stop, winner.weigh)
    assert (policy.num_rollouts, policy.concurrency) == (16, 2)
    with pytest.raises(ConfigError, match="no preset is called 'none'"):
        parse_policy("preset:none", num_rollouts=8)


def test_fields_of_a_name_arrive() -> None:
    (policy,) = parse_policy(
        "k_equal:k=5,min_votes=6,max_votes=9+count:trivial=0.6", num_rollouts=8
    ).policies
    assert (policy.stop.k, policy.stop.min_votes, policy.stop.max_votes) == (5, 6, 9)
    assert policy.weigh.trivial == 0.6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "write STOP"),
        ("majority@", "write STOP"),
        ("most", "no stopping rule most; take of majority"),
        ("never+heavy", "no rule of weights heavy"),
        ("never@0", "must be 1 or more"),
        ("never+calibrated", "needs a calibration"),
        ("k_equal:k", "write k as field=value"),
        ("k_equal:rule=never", "write rule=never"),
        ("k_equal:k=none", "k: input should be a valid integer"),
        ("k_equal:moon=3", "moon: extra inputs"),
        ("k_equal:min_votes=5,max_votes=4", "min_votes 5 is above"),
    ],
)
def test_wrong_names_are_explained(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_policy(name, num_rollouts=8)


def test_the_grid_has_every_name_once_and_each_can_be_given() -> None:
    problems = drawn(3)
    grid = policy_grid(problems, concurrency=4)
    names = [each.name for each in grid]
    assert len(set(names)) == len(names) > 50
    assert {each.policies[0].num_rollouts for each in grid} == {2, 4, 8}
    assert max(each.policies[0].concurrency for each in grid) == 4
    for each in grid:
        assert parse_policy(each.name, num_rollouts=99).policies == each.policies


def test_weights_that_cannot_differ_are_not_in_the_grid() -> None:
    assert weight_grid(drawn(3), calibrated=False) == ["count", "count:trivial=0.6", "short_first"]
    assert most_samples(drawn(3, samples=5)) == 5


def test_tables_and_plots(tmp_path: Path) -> None:
    problems = [problem("aab", name=f"p{n}") for n in range(20)]
    results = run(problems, "never", "majority")
    summaries = [summarise(each, results[0]) for each in results]
    titles, first, second = plain_lines(summaries)
    assert titles.startswith("policy\taccuracy\tgain")
    assert first.split("\t")[:3] == ["never", "100.0 (83.2 to 100.0)", "+0.0 (+0.0 to +0.0)"]
    assert second.startswith("majority\t")
    plot(results, summaries, tmp_path / "a.svg")
    assert "</svg>" in (tmp_path / "a.svg").read_text()
    with pytest.raises(InputError, match="--plot"):
        plot(results, summaries, tmp_path / "none" / "a.svg")
