"""How probable it is that a trace is right: features of a trace, and the fitted logistic model.

Pure. Knows no models and no golds: the fit is in `evals.calibration`.
"""

import math
from collections.abc import Sequence

from aimo2.config import Calibration
from aimo2.policy.signals import Signals

Features = dict[str, float | None]
"""By name; `None` where a figure is unknown, and then an indicator `no_...` is 1."""


def features(signals: Sequence[Signals]) -> list[Features]:
    """Named figures for each of a question's rollouts.

    Lengths are relative to the siblings that have answered, so the set matters, not its order.
    Log-probabilities are means over all sampled tokens, the last 2,048, and the lowest 64 in a row.
    """
    lengths = [math.log(one.num_tokens) for one in signals if one.votes and one.num_tokens > 0]
    middle = math.fsum(lengths) / len(lengths) if lengths else 0.0
    return [_features(one, middle) for one in signals]


def _features(one: Signals, mean_log_length: float) -> Features:
    stats = one.stats
    answer = one.answer or ""
    length = math.log(one.num_tokens) if one.num_tokens > 0 else None
    digits = answer.removeprefix("-")
    return {
        "code_agrees": float(one.code_agrees is True),
        "code_differs": float(one.code_agrees is False),
        "code_errors": math.log1p(one.num_code_errors),
        "repairs": float(one.num_repairs > 0),
        "log_tokens": length,
        "log_relative_tokens": None if length is None else length - mean_log_length,
        "mean_logprob": stats.mean_logprob if stats else None,
        "tail_logprob": stats.tail_logprob if stats else None,
        "min_logprob": stats.min_window_logprob if stats else None,
        "no_logprob": float(stats is None),
        "stability": one.stability,
        "no_stability": float(one.stability is None),
        "small_answer": float(answer.isdecimal() and len(answer) <= 2 and int(answer) <= 20),
        "integer_answer": float(digits.isdecimal()),
        "score": one.score,
        "no_score": float(one.score is None),
        "forced": float(one.source == "forced"),
        "from_output": float(one.source == "output"),
        "guessed": float(one.source == "guessed"),
    }


SOURCE_FEATURES = {"forced": "forced", "output": "from_output", "guessed": "guessed"}
"""Answer sources that a feature stands for."""


def log_odds(calibration: Calibration, signals: Sequence[Signals]) -> list[float]:
    """The log-odds that each rollout's answer is right; an unknown figure counts as the mean one.

    Raises `ValueError` where the calibration has a feature that this version does not know.
    """
    result = []
    for row in features(signals):
        if unknown := set(calibration.coefficients) - set(row):
            raise ValueError(f"the calibration has unknown features: {', '.join(sorted(unknown))}")
        terms = [
            coefficient * (value - calibration.means[name]) / calibration.scales[name]
            for name, coefficient in calibration.coefficients.items()
            if (value := row[name]) is not None
        ]
        result.append(calibration.intercept + math.fsum(terms))
    return result


def probability(odds: float) -> float:
    """Of log-odds; no overflow for large ones."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else 1.0 - 1.0 / (1.0 + math.exp(odds))
