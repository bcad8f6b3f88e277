"""How often do 95 % intervals over problems hold the truth? Simulated with a fixed seed.

    uv run python -m benchmarks.coverage_of_intervals

Each exam: n problems whose chances of a right sample are drawn from a Beta distribution, K samples
each. The truth is the mean chance, or for the vote the mean chance that K samples' vote is right.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy

from aimo2.evals import estimators
from aimo2.evals.estimators import Estimate

SHAPES = {"hard": (0.4, 1.2), "middling": (0.8, 0.8), "easy": (2.0, 0.6)}
METHODS: dict[str, Callable[[Sequence[float]], Estimate]] = {
    "expanded percentile": estimators.mean_interval,
    "percentile": lambda values: _plain(values),
    "BCa": estimators.bca_interval,
}


def _plain(values: Sequence[float]) -> Estimate:
    drawn = estimators._resampled_means(numpy.asarray(values, float)[:, None])[:, 0]
    low, high = numpy.quantile(drawn, [0.025, 0.975])
    return Estimate(float(numpy.mean(values)), float(low), float(high))


def coverage(
    method: Callable[[Sequence[float]], Estimate],
    problems: int,
    samples: int,
    shape: tuple[float, float],
    exams: int,
    seed: int,
) -> float:
    """The share of simulated exams whose interval holds the true mean."""
    random = numpy.random.default_rng(seed)
    truth = shape[0] / sum(shape)
    held = 0
    for _ in range(exams):
        chances = random.beta(*shape, size=problems)
        found = method(list(random.binomial(samples, chances) / samples))
        held += found.low <= truth <= found.high
    return held / exams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exams", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    estimators.RESAMPLES = chosen.resamples
    print(f"{chosen.exams} exams each, {chosen.resamples} resamples, seed {chosen.seed}")
    print("| problems | samples | chances | " + " | ".join(METHODS) + " |")
    print("|---|---|---|" + "---|" * len(METHODS))
    for problems in (30, 100, 500):
        for samples in (1, 8):
            for name, shape in SHAPES.items():
                shares = [
                    coverage(method, problems, samples, shape, chosen.exams, chosen.seed)
                    for method in METHODS.values()
                ]
                cells = " | ".join(f"{share:.1%}" for share in shares)
                print(f"| {problems} | {samples} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
