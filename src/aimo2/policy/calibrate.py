"""How probable it is that a trace is right: features of a trace, and the fitted logistic model.

Pure; the fit itself, which needs gold answers, is `evals.calibration`'s. Knows no models.
"""

import math
from collections.abc import Sequence

from aimo2.config import Calibration
from aimo2.policy.signals import Signals


def features(signals: Sequence[Signals]) -> list[dict[str, float]]:
    """Named figures for each of a question's rollouts; 0 and an indicator where one is unknown.

    Lengths are relative to the siblings that have answered, so the set matters, not its order.
    """
    lengths = [math.log(one.num_tokens) for one in signals if one.votes and one.num_tokens > 0]
    middle = math.fsum(lengths) / len(lengths) if lengths else 0.0
    return [_features(one, middle) for one in signals]


def _features(one: Signals, mean_log_length: float) -> dict[str, float]:
    stats = one.stats
    answer = one.answer or ""
    return {
        "code_agrees": float(one.code_agrees is True),
        "code_differs": float(one.code_agrees is False),
        "code_errors": math.log1p(one.num_code_errors),
        "repairs": float(one.num_repairs > 0),
        "log_tokens": math.log(max(1, one.num_tokens)),
        "log_relative_tokens": (
            math.log(one.num_tokens) - mean_log_length if one.num_tokens > 0 else 0.0
        ),
        "confidence": stats.mean_logprob if stats else 0.0,
        "tail_confidence": stats.tail_logprob if stats else 0.0,
        "min_confidence": stats.min_window_logprob if stats else 0.0,
        "no_confidence": float(stats is None),
        "stability": 0.0 if one.stability is None else one.stability,
        "no_stability": float(one.stability is None),
        "small_answer": float(answer.isdecimal() and len(answer) <= 2 and int(answer) <= 20),
        "forced": float(one.source == "forced"),
        "from_output": float(one.source == "output"),
    }


def log_odds(calibration: Calibration, signals: Sequence[Signals]) -> list[float]:
    """The log-odds that each rollout's answer is right.

    Raises `ValueError` where the calibration has a feature that this version does not know.
    """
    result = []
    for row in features(signals):
        if unknown := set(calibration.coefficients) - set(row):
            raise ValueError(f"the calibration has unknown features: {', '.join(sorted(unknown))}")
        result.append(
            calibration.intercept
            + math.fsum(
                coefficient * (row[name] - calibration.means[name]) / calibration.scales[name]
                for name, coefficient in calibration.coefficients.items()
            )
        )
    return result
