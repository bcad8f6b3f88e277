import math
import random
import tomllib
from dataclasses import astuple, replace
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import Calibration, WeighConfig
from aimo2.errors import InputError
from aimo2.evals.calibration import (
    agreement_of_wrong,
    as_config,
    cross_fit,
    fit,
    fold_of,
    plot,
    read_calibration,
    reliability,
)
from aimo2.evals.recorded import ReplayedProblem, Sample
from aimo2.policy.calibrate import log_odds, probability
from aimo2.policy.signals import Signals
from aimo2.policy.vote import tally
from aimo2.policy.weigh import weigh
from aimo2.presets import Layer, file_layer, resolve
from tests.evals.recorded import problem


def drawn(problems: int, samples: int = 8, seed: int = 0) -> list[ReplayedProblem]:
    """Traces that are right with log-odds 1.5 where code agrees and -1 where it does not."""
    generator = random.Random(seed)
    made = []
    for number in range(problems):
        rows = []
        for at in range(samples):
            agrees = generator.random() < 0.5
            right = generator.random() < probability(1.5 if agrees else -1.0)
            answer = "a" if right else generator.choice("bcdef")
            signals = Signals(at, answer, num_tokens=generator.randint(50, 500), code_agrees=agrees)
            rows.append(Sample(signals, right, signals.num_tokens))
        made.append(ReplayedProblem(f"p{number}", "", tuple(rows), "a"))
    return made


def test_the_fit_finds_the_odds_that_made_the_traces() -> None:
    model = fit(drawn(400))
    yes, no = log_odds(
        model, [Signals(0, "a", num_tokens=200, code_agrees=x) for x in (True, False)]
    )
    assert (yes, no) == pytest.approx((1.5, -1.0), abs=0.15)
    assert (model.num_traces, model.num_problems) == (3200, 400)
    assert model.shift == pytest.approx(-math.log(0.2), abs=0.05)
    assert "no_logprob" not in model.coefficients


def test_the_fit_is_at_the_minimum_of_its_loss() -> None:
    problems = drawn(60)
    model = fit(problems, ridge=2.0)

    def loss(changed: Calibration) -> float:
        total = 0.0
        for each in problems:
            odds = log_odds(changed, [s.signals for s in each.samples])
            for z, s in zip(odds, each.samples, strict=True):
                total += float(numpy.logaddexp(0, z)) - z * s.correct
        return total + sum(value**2 for value in changed.coefficients.values())

    best = loss(model)
    for name, value in model.coefficients.items():
        for step in (-0.01, 0.01):
            moved = {**model.coefficients, name: value + step}
            assert loss(model.model_copy(update={"coefficients": moved})) > best
    for step in (-0.01, 0.01):
        assert loss(model.model_copy(update={"intercept": model.intercept + step})) > best


def test_predictions_for_unseen_problems_are_calibrated_and_better_than_the_mean() -> None:
    problems = drawn(300)
    found = reliability(problems, cross_fit(problems))
    assert found.brier < found.brier_constant - 0.03
    assert found.error < 0.05
    assert found.ranking == pytest.approx(0.78, abs=0.05)
    assert sum(each.num_traces for each in found.bins) == found.num_traces == 2400
    assert all(b.low <= b.predicted <= b.high for b in found.bins)


def test_bins_are_as_sure_as_their_problems_and_not_as_their_traces() -> None:
    """The same ten traces of a problem again and again are no more evidence."""
    problems = [problem("a" * 10 if n % 3 else "b" * 10, name=f"p{n}") for n in range(30)]
    model = Calibration(intercept=0.0, coefficients={}, means={}, scales={})
    (once,) = reliability([replace(p, samples=p.samples[:1]) for p in problems], [model]).bins
    (often,) = reliability(problems, [model]).bins
    assert (once.num_traces, often.num_traces) == (30, 300)
    assert astuple(often.right) == pytest.approx(astuple(once.right))
    assert once.right.high - once.right.low > 0.2
    (alone,) = reliability(problems[:1], [model]).bins
    assert math.isnan(alone.right.low)


def test_a_problem_is_predicted_by_a_model_that_has_not_seen_it() -> None:
    problems = drawn(40)
    models = cross_fit(problems, folds=4)
    for fold, model in enumerate(models):
        without = [p for p in problems if fold_of(p.problem_id, 4) != fold]
        assert model.num_problems == len(without) < 40


def test_separable_traces_do_not_break_the_fit() -> None:
    rows = [
        ReplayedProblem(
            f"p{n}",
            "",
            (
                Sample(Signals(0, "a", num_tokens=9, code_agrees=True), True, 9),
                Sample(Signals(1, "b", num_tokens=9, code_agrees=False), False, 9),
            ),
            "a",
        )
        for n in range(20)
    ]
    model = fit(rows)
    assert all(math.isfinite(value) for value in model.coefficients.values())
    assert reliability(rows, cross_fit(rows)).ranking == 1.0


def test_unknown_figures_count_as_the_mean_one() -> None:
    model = Calibration(
        intercept=0.5,
        coefficients={"mean_logprob": 2.0},
        means={"mean_logprob": -0.3},
        scales={"mean_logprob": 0.1},
    )
    assert log_odds(model, [Signals(0, "1")]) == [0.5]


def test_calibrated_weights_make_a_better_vote_than_plain_ones() -> None:
    train, held_out = drawn(200, seed=1), drawn(300, samples=5, seed=2)
    model = fit(train)
    right = {"count": 0, "calibrated": 0}
    for each in held_out:
        signals = [sample.signals for sample in each.samples]
        plain = tally(weigh(WeighConfig(), signals)).leader
        config = WeighConfig(rule="calibrated", calibration=model)
        weighed = tally(weigh(config, signals)).leader
        right["count"] += plain == "a"
        right["calibrated"] += weighed == "a"
    assert right["calibrated"] > right["count"]


def test_a_source_that_the_model_knows_is_not_held_against_the_vote_twice() -> None:
    model = Calibration(
        intercept=1.0, coefficients={"forced": 0.5}, means={"forced": 0.0}, scales={"forced": 1.0}
    )
    forced, output = weigh(
        WeighConfig(rule="calibrated", calibration=model),
        [Signals(0, "1", "forced"), Signals(1, "1", "output")],
    )
    assert (forced.weight, forced.count) == (1.5, 0.25)
    assert (output.weight, output.count) == (0.25, 0.25)


def test_agreement_of_wrong_answers() -> None:
    none = [problem("aaa")]
    assert agreement_of_wrong(none) == pytest.approx(0.2)
    same, apart = [problem("b" * 50)], [problem([str(n) for n in range(50)])]
    assert agreement_of_wrong(same) > 0.99
    assert agreement_of_wrong(apart) < 0.01


@given(st.text(), st.integers(2, 9), st.integers())
def test_folds_depend_on_the_problem_alone(problem_id: str, folds: int, seed: int) -> None:
    assert 0 <= fold_of(problem_id, folds, seed) < folds
    assert fold_of(problem_id, folds, seed) == fold_of(problem_id, folds, seed)


def test_folds_are_of_similar_size() -> None:
    sizes = [0] * 5
    for number in range(1000):
        sizes[fold_of(f"p{number}", 5)] += 1
    assert min(sizes) > 150


@given(st.floats(-2000, 2000))
def test_probability_is_symmetric_and_bounded(odds: float) -> None:
    assert 0 <= probability(odds) <= 1
    assert probability(odds) + probability(-odds) == pytest.approx(1)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(InputError, match="needs 10 problems with answers, not 3"):
        fit(drawn(3))
    with pytest.raises(InputError, match="every one of the 40 traces is right"):
        fit([problem("aa", name=f"p{n}") for n in range(20)])
    with pytest.raises(InputError, match="every one of the 20 traces is wrong"):
        fit([problem("b", name=f"p{n}") for n in range(20)])


def test_a_calibration_survives_its_file_and_is_a_configuration(tmp_path: Path) -> None:
    model = fit(drawn(30))
    path = tmp_path / "c.toml"
    path.write_text(as_config(model, "from drawn traces"))
    assert read_calibration(path) == model
    layer, preset = file_layer(path)
    config = resolve([layer])
    assert preset is None
    assert config.weigh == WeighConfig(rule="calibrated", calibration=model)
    assert config.sampling.logprobs is False


def test_a_model_that_needs_log_probabilities_asks_for_them() -> None:
    model = Calibration(
        intercept=0.0,
        coefficients={"tail_logprob": 1.0},
        means={"tail_logprob": 0.0},
        scales={"tail_logprob": 1e-5},
    )
    values = tomllib.loads(as_config(model, "x"))
    assert values["sampling"] == {"logprobs": True}
    assert resolve([Layer("", values)]).weigh.calibration == model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no file of"),
        ("{}", "is no file of"),
        ("weigh = 3", "is no file of"),
        ("[weigh.calibration]\nshift = 1.0", "weigh.calibration.intercept: field required"),
    ],
)
def test_other_files_are_no_calibrations(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_calibration(path)


def test_a_missing_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_calibration(tmp_path / "none.toml")


def test_the_reliability_is_drawn(tmp_path: Path) -> None:
    problems = drawn(40)
    found = reliability(problems, cross_fit(problems, folds=2))
    plot(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="--plot"):
        plot(found, tmp_path / "none" / "a.png")
