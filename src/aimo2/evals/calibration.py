"""Fit the probability that a trace is right to recorded samples, and say how good it is.

A ridge logistic regression on the features of `policy.calibrate`. What is reported was predicted
for problems that the fit did not see. Knows no terminal.
"""

import hashlib
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from aimo2.config import Calibration
from aimo2.errors import InputError
from aimo2.evals.estimators import SHARE, Estimate, ratio_interval
from aimo2.evals.recorded import ReplayedProblem
from aimo2.policy.calibrate import features, log_odds, probability

Floats = NDArray[numpy.float64]

RIDGE = 1.0
"""Penalty on the squared coefficients of standardised features; the intercept goes free."""
FOLDS = 5
LEAST_PROBLEMS = 10
"""With both right and wrong traces among them; fewer say nothing."""
_BINS = 10
_PRIOR_AGREE = 0.2
_PRIOR_PAIRS = 10.0
"""The probability that two wrong traces agree is drawn towards 0.2 as by ten pairs."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Traces whose predicted probability lies in one tenth of 0 ... 1."""

    low: float
    high: float
    num_traces: int
    predicted: float
    """Mean prediction."""
    right: Estimate
    """Part that was right; the interval is over problems, whose traces go together."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How good the predictions for unseen problems were.

    `brier`: mean squared difference between prediction and truth (0 is perfect); `brier_constant`:
    the same for always predicting the mean. `log_loss` in nats. `error`: expected calibration
    error, the bins' mean distance between prediction and truth, by traces. `ranking`: the chance
    that a right trace is rated above a wrong one (area under the curve).
    """

    num_traces: int
    num_problems: int
    brier: float
    brier_constant: float
    log_loss: float
    error: float
    ranking: float
    bins: tuple[Bin, ...]


def fold_of(problem_id: str, folds: int, seed: int = 0) -> int:
    """Which fold a problem is in: the same for all its samples and runs, and everywhere."""
    digest = hashlib.sha256(f"{seed}\0{problem_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) % folds


def fit(problems: Sequence[ReplayedProblem], ridge: float = RIDGE) -> Calibration:
    """The model of the traces that vote. Features that never vary are left out.

    Raises `InputError` where there are too few problems, or only right or only wrong traces.
    """
    rows, right, ids = _rows(problems)
    if len(set(ids)) < LEAST_PROBLEMS:
        raise InputError(
            f"a calibration needs {LEAST_PROBLEMS} problems with answers, not {len(set(ids))}"
        )
    if right.all() or not right.any():
        kind = "right" if right.all() else "wrong"
        raise InputError(f"every one of the {len(right)} traces is {kind}: nothing to tell apart")
    means, scales, names, standard = _standardised(rows)
    weights = _newton(standard, right.astype(float), ridge)
    return Calibration(
        intercept=float(weights[0]),
        coefficients=dict(zip(names, map(float, weights[1:]), strict=True)),
        means=means,
        scales=scales,
        shift=-math.log(agreement_of_wrong(problems)),
        num_traces=len(right),
        num_problems=len(set(ids)),
    )


def agreement_of_wrong(problems: Sequence[ReplayedProblem]) -> float:
    """The probability that two wrong traces of a problem have the same answer, above 0.

    Smoothed, so that a few pairs say little.
    """
    agree = pairs = 0
    for problem in problems:
        wrong = [s.signals.answer for s in problem.samples if s.signals.votes and not s.correct]
        pairs += len(wrong) * (len(wrong) - 1)
        agree += sum(wrong.count(answer) - 1 for answer in wrong)
    return (agree + 2 * _PRIOR_AGREE * _PRIOR_PAIRS) / (pairs + 2 * _PRIOR_PAIRS)


def cross_fit(
    problems: Sequence[ReplayedProblem], folds: int = FOLDS, ridge: float = RIDGE, seed: int = 0
) -> list[Calibration]:
    """For each fold, the model of the problems in the other ones. Raises `InputError` as `fit`."""
    try:
        return [
            fit([each for each in problems if fold_of(each.problem_id, folds, seed) != fold], ridge)
            for fold in range(folds)
        ]
    except InputError as error:
        raise InputError(f"without one of {folds} parts of the problems: {error}") from error


def reliability(
    problems: Sequence[ReplayedProblem], models: Sequence[Calibration], seed: int = 0
) -> Reliability:
    """Of each fold's model on its own fold; `models` as `cross_fit` gives them."""
    predicted, truth, ids = [], [], []
    for problem in problems:
        model = models[fold_of(problem.problem_id, len(models), seed)]
        voters = [each for each in problem.samples if each.signals.votes]
        predicted += [probability(o) for o in log_odds(model, [s.signals for s in voters])]
        truth += [float(each.correct) for each in voters]
        ids += [problem.problem_id] * len(voters)
    p, y = numpy.array(predicted), numpy.array(truth)
    clipped = numpy.clip(p, 1e-12, 1 - 1e-12)
    bins = tuple(_bins(p, y, numpy.array(ids, dtype=object)))
    return Reliability(
        num_traces=len(p),
        num_problems=len({each.problem_id for each in problems}),
        brier=float(numpy.mean((p - y) ** 2)),
        brier_constant=float(numpy.mean((y.mean() - y) ** 2)),
        log_loss=float(-numpy.mean(y * numpy.log(clipped) + (1 - y) * numpy.log(1 - clipped))),
        error=sum(b.num_traces * abs(b.predicted - b.right.value) for b in bins) / len(p),
        ranking=_ranking(p, y),
        bins=bins,
    )


def _bins(p: Floats, y: Floats, ids: NDArray[numpy.object_]) -> list[Bin]:
    place = numpy.minimum((p * _BINS).astype(int), _BINS - 1)
    return [
        Bin(
            low=index / _BINS,
            high=(index + 1) / _BINS,
            num_traces=int(inside.sum()),
            predicted=float(p[inside].mean()),
            right=_share(y[inside], ids[inside]),
        )
        for index in range(_BINS)
        if (inside := place == index).any()
    ]


def _share(y: Floats, ids: NDArray[numpy.object_]) -> Estimate:
    """Part of the traces that is right, its interval over the problems `ids`."""
    _, problem = numpy.unique(ids, return_inverse=True)
    found = ratio_interval(
        numpy.bincount(problem, weights=y).tolist(),
        numpy.bincount(problem).tolist(),
        within=SHARE,
    )
    assert found is not None
    return found


def _ranking(p: Floats, y: Floats) -> float:
    """By ranks, ties half; `nan` where one kind is missing."""
    good, bad = numpy.sort(p[y == 1]), numpy.sort(p[y == 0])
    if not len(good) or not len(bad):
        return math.nan
    below = numpy.searchsorted(bad, good, side="left")
    up_to = numpy.searchsorted(bad, good, side="right")
    return float((below + up_to).sum() / 2 / (len(good) * len(bad)))


def _rows(
    problems: Sequence[ReplayedProblem],
) -> tuple[list[dict[str, float | None]], NDArray[numpy.bool_], list[str]]:
    rows, right, ids = [], [], []
    for problem in problems:
        voters = [each for each in problem.samples if each.signals.votes]
        rows += features([each.signals for each in voters])
        right += [each.correct for each in voters]
        ids += [problem.problem_id] * len(voters)
    return rows, numpy.array(right, dtype=bool), ids


def _standardised(
    rows: Sequence[dict[str, float | None]],
) -> tuple[dict[str, float], dict[str, float], list[str], Floats]:
    """Means, scales and names of the features that vary, and the matrix; unknown figures are 0."""
    means, scales, columns = {}, {}, []
    for name in rows[0]:
        column = numpy.array([math.nan if r[name] is None else r[name] for r in rows], dtype=float)
        known = column[~numpy.isnan(column)]
        if not len(known) or known.std() < 1e-9:
            continue
        means[name], scales[name] = float(known.mean()), float(known.std())
        columns.append(numpy.nan_to_num((column - means[name]) / scales[name]))
    matrix = numpy.column_stack(columns) if columns else numpy.zeros((len(rows), 0))
    return means, scales, list(means), matrix


def _newton(x: Floats, y: Floats, ridge: float) -> Floats:
    """Intercept and coefficients that minimise the log loss plus ridge / 2 times their squares.

    Newton's method with halved steps where a full one does not improve (the loss is convex).
    """
    design = numpy.column_stack([numpy.ones(len(x)), x])
    penalty = numpy.full(design.shape[1], ridge)
    penalty[0] = 0.0
    weights = numpy.zeros(design.shape[1])
    loss = _loss(design, y, penalty, weights)
    for _ in range(100):
        p = 1.0 / (1.0 + numpy.exp(-numpy.clip(design @ weights, -500, 500)))
        gradient = design.T @ (p - y) + penalty * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + numpy.diag(penalty + 1e-9)
        step = numpy.linalg.solve(hessian, gradient)
        scale = 1.0
        while (new := _loss(design, y, penalty, weights - scale * step)) > loss and scale > 1e-6:
            scale /= 2
        weights = weights - scale * step
        if loss - new < 1e-10 * (1 + abs(loss)):
            break
        loss = new
    return weights


def _loss(design: Floats, y: Floats, penalty: Floats, weights: Floats) -> float:
    odds = design @ weights
    return float(numpy.sum(numpy.logaddexp(0, odds) - y * odds) + penalty @ weights**2 / 2)


def as_config(model: Calibration, about: str) -> str:
    """TOML for `--config`: votes weighed by the model, and log-probabilities asked for where it
    needs them. `about`: one line on where it comes from.
    """
    lines = [f"# {about}", "", "[weigh]", 'rule = "calibrated"', "", "[weigh.calibration]"]
    plain = ("intercept", "shift", "num_traces", "num_problems")
    lines += [f"{name} = {getattr(model, name)!r}" for name in plain]
    for name in ("coefficients", "means", "scales"):
        lines += ["", f"[weigh.calibration.{name}]"]
        lines += [f"{feature} = {value!r}" for feature, value in getattr(model, name).items()]
    if any("logprob" in feature for feature in model.coefficients):
        lines += ["", "[sampling]", "logprobs = true"]
    return "\n".join(lines) + "\n"


def read_calibration(path: Path) -> Calibration:
    """The model in a file that `aimo2 calibrate -o` wrote. Raises `InputError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        weigh = values.get("weigh")
        return Calibration.model_validate(weigh.get("calibration") if weigh else None)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        what = error.errors()[0]
        place = ".".join(map(str, ("weigh.calibration", *what["loc"])))
        problem = f"{place}: {what['msg'].lower()}"
    except (ValueError, AttributeError) as error:
        problem = str(error)
    raise InputError(f"{path} is no file of `aimo2 calibrate -o` ({problem})")


def plot(found: Reliability, path: Path) -> None:
    """Predicted against observed, and how many traces there are, as PNG, SVG or PDF.

    Raises `InputError` where the file cannot be written or has another suffix.
    """
    import matplotlib  # half a second, and few runs want a plot

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(5, 6), height_ratios=(3, 1), sharex=True, constrained_layout=True
    )
    predicted = [each.predicted for each in found.bins]
    rights = [each.right for each in found.bins]
    errors = [
        [each.value - each.low for each in rights],
        [each.high - each.value for each in rights],
    ]
    above.plot([0, 1], [0, 1], color="grey", linewidth=1)
    shares = [each.value for each in rights]
    above.errorbar(predicted, shares, yerr=errors, marker="o", capsize=3)
    above.set(ylabel="right", xlim=(0, 1), ylim=(0, 1))
    above.set_title(f"Brier {found.brier:.3f} (constant: {found.brier_constant:.3f})")
    below.bar(
        [(each.low + each.high) / 2 for each in found.bins],
        [each.num_traces for each in found.bins],
        width=0.09,
    )
    below.set(xlabel="predicted probability, unseen problems", ylabel="traces")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"--plot {path}: {error}; give a .png, .svg or .pdf file") from error
    finally:
        pyplot.close(figure)
