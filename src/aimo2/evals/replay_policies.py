"""Policies to replay: by name, or a grid of them. Knows no files and no clock.

A name is `STOP[:k=v,...][+WEIGHTS[:k=v,...]][@N[xC]]`: a stopping rule with fields of `StopConfig`,
a rule of weights with fields of `WeighConfig`, N rollouts, C of them at the same time. For
instance `majority`, `k_equal:k=5+short_first@16x8`, `never+calibrated:trivial=0.6`. Or
`preset:NAME[@N[xC]]`: the stopping rule and weights of a preset.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from aimo2.config import Calibration, StopConfig, WeighConfig, WeighRule
from aimo2.errors import ConfigError
from aimo2.evals.calibration import fold_of
from aimo2.evals.recorded import ReplayedProblem
from aimo2.evals.replay import Policy
from aimo2.presets import load_preset
from aimo2.types import StopRule

_NAME = re.compile(
    r"(?P<stop>\w+)(?P<stop_fields>:[^+@]*)?(?:\+(?P<weigh>\w+)(?P<weigh_fields>:[^@]*)?)?"
    r"(?:@(?P<rollouts>\d+)(?:x(?P<concurrency>\d+))?)?"
)
_PRESET = re.compile(r"preset:(?P<preset>[\w.-]+)(?:@(?P<rollouts>\d+)(?:x(?P<concurrency>\d+))?)?")
BASELINE = "never+count"
"""What everything is compared with: all rollouts, plain votes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named policy. More than one where it was fitted: the i-th is for problems of fold i."""

    name: str
    policies: tuple[Policy, ...]

    def policy(self, problem: ReplayedProblem) -> Policy:
        """The one whose fit has not seen the problem."""
        if len(self.policies) == 1:
            return self.policies[0]
        return self.policies[fold_of(problem.problem_id, len(self.policies))]


def parse_policy(
    name: str,
    *,
    num_rollouts: int,
    concurrency: int | None = None,
    calibrations: Sequence[Calibration] = (),
) -> Candidate:
    """The policy of a name. `calibrations`: one, or one a fold, for weights of `calibrated`.

    `num_rollouts`, `concurrency`: where the name gives none; `None` runs all at the same time.
    Raises `ConfigError`.
    """
    found = _PRESET.fullmatch(name.strip()) or _NAME.fullmatch(name.strip())
    if found is None:
        raise ConfigError(f"--policy {name}: write STOP[:k=v][+WEIGHTS[:k=v]][@N[xC]]")
    rollouts = int(found["rollouts"] or num_rollouts)
    streams = int(found["concurrency"] or concurrency or rollouts)
    if rollouts < 1 or streams < 1:
        raise ConfigError(f"--policy {name}: N and C must be 1 or more")
    if "preset" in found.groupdict():
        preset = load_preset(found["preset"])
        return Candidate(name, (Policy(preset.stop, preset.weigh, rollouts, streams),))
    stop, weights = _rules(name, found, calibrations)
    return Candidate(name, tuple(Policy(stop, each, rollouts, streams) for each in weights))


def _rules(
    name: str, found: re.Match[str], calibrations: Sequence[Calibration]
) -> tuple[StopConfig, list[WeighConfig]]:
    """The stopping rule of a name, and its weights, once a calibration where they need one."""
    stop, weights = found["stop"], found["weigh"] or "count"
    _known(name, "stopping rule", stop, get_args(StopRule))
    _known(name, "rule of weights", weights, get_args(WeighRule))
    if weights == "calibrated" and not calibrations:
        raise ConfigError(f"--policy {name}: `calibrated` needs a calibration")
    given: Sequence[Calibration | None] = calibrations if weights == "calibrated" else (None,)
    stop_fields = {"rule": stop, **_fields(name, found["stop_fields"])}
    weigh_fields = {"rule": weights, **_fields(name, found["weigh_fields"])}
    try:
        return StopConfig.model_validate(stop_fields), [
            WeighConfig.model_validate({**weigh_fields, "calibration": calibration})
            for calibration in given
        ]
    except ValidationError as error:
        what = error.errors()[0]
        place = ".".join(map(str, what["loc"])) or "fields"
        raise ConfigError(f"--policy {name}: {place}: {what['msg'].lower()}") from error


def _known(name: str, what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ConfigError(f"--policy {name}: no {what} {given}; take of {', '.join(known)}")


def _fields(name: str, text: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in filter(None, (text or "").removeprefix(":").split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in ("rule", "calibration"):
            raise ConfigError(f"--policy {name}: write {part.strip()} as field=value")
        fields[key] = value
    return fields


STOP_GRID = (
    "never",
    "majority",
    "k_equal:k=3",
    "k_equal:k=4",
    "k_equal:k=5",
    "window:speed=1",
    "window:speed=3",
    "window:speed=5",
    "unassailable",
    "adaptive_consistency:certainty=0.9",
    "adaptive_consistency",
    "adaptive_consistency:certainty=0.99",
)
_SIZES = (2, 4, 8, 16, 32, 64)


def weight_grid(problems: Sequence[ReplayedProblem], *, calibrated: bool) -> list[str]:
    """Weights that can differ from `count` on these samples, `count` first."""
    stats = [
        sample.signals.stats
        for problem in problems
        for sample in problem.samples
        if sample.signals.stats is not None
    ]
    names = ["count", "count:trivial=0.6", "short_first"]
    if stats:
        names += ["mean_confidence", "tail_confidence", "min_confidence"]
        names += ["tail_confidence:keep=0.1", "tail_confidence:keep=0.5"]
        names += ["bottom_confidence:keep=0.1,keep_by=bottom_confidence"]
    if any(each.confidence is not None for each in stats):
        names += ["bottom_confidence"]
    if any(each.entropy is not None for each in stats):
        names += ["inverse_entropy"]
    return [*names, "calibrated"] if calibrated else names


def most_samples(problems: Sequence[ReplayedProblem]) -> int:
    """Samples of the problem with the most of them."""
    return max(len(problem.samples) for problem in problems)


def policy_grid(
    problems: Sequence[ReplayedProblem],
    *,
    concurrency: int | None = None,
    calibrations: Sequence[Calibration] = (),
) -> list[Candidate]:
    """Every rule with all weights, for 2, 4, 8, ... rollouts and for as many as are recorded."""
    most = most_samples(problems)
    sizes = [size for size in _SIZES if size < most] + [most]
    return [
        parse_policy(
            f"{stop}+{weights}@{size}x{min(size, concurrency or size)}",
            num_rollouts=size,
            calibrations=calibrations,
        )
        for size in sizes
        for stop in STOP_GRID
        for weights in weight_grid(problems, calibrated=bool(calibrations))
    ]
