"""How often do 95 % intervals over problems hold the truth? Simulated with a fixed seed.

    uv run python -m benchmarks.coverage_of_intervals

Each exam: n problems whose chances of a right sample are drawn from a Beta distribution, K samples
each. The truth is the mean chance. Then rates near none and all: n problems of one chance, and n
pairs of which a few change, two in three for the better.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy

from aimo2.evals import estimators
from aimo2.evals.estimators import DIFFERENCE, SHARE, Estimate

RATES = (0.002, 0.01, 0.05, 0.95, 0.99, 0.998)
"""Of right problems, one sample each; and, below one half, of pairs that differ."""
SHAPES = {"hard": (0.4, 1.2), "middling": (0.8, 0.8), "easy": (2.0, 0.6)}
METHODS: dict[str, Callable[[Sequence[float]], Estimate]] = {
    "expanded percentile": lambda values: estimators.mean_interval(values, within=SHARE),
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


def coverage_of_rate(problems: int, rate: float, exams: int, seed: int) -> tuple[float, float]:
    """The shares of exams whose interval holds a rate of right problems: with known bounds of a
    problem's value, and without.
    """
    rights = numpy.random.default_rng(seed).binomial(problems, rate, size=exams).tolist()
    held: list[float] = []
    for within in (SHARE, None):
        holds = {}
        for right in set(rights):
            values = [1.0] * right + [0.0] * (problems - right)
            found = estimators.mean_interval(values, within=within)
            holds[right] = found.low <= rate <= found.high
        held.append(sum(holds[right] for right in rights) / exams)
    return held[0], held[1]


def coverage_of_change(problems: int, rate: float, exams: int, seed: int) -> tuple[float, float]:
    """The same for the mean difference of pairs, of which `rate` differ."""
    random = numpy.random.default_rng(seed)
    truth = rate / 3
    held = [0, 0]
    for _ in range(exams):
        changes = random.choice(
            [-1.0, 0.0, 1.0], size=problems, p=[rate / 3, 1 - rate, rate * 2 / 3]
        )
        for at, within in enumerate((DIFFERENCE, None)):
            found = estimators.mean_interval(list(changes), within=within)
            held[at] += found.low <= truth <= found.high
    return held[0] / exams, held[1] / exams


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
    print("\n| problems | rate | right problems | plain | changed pairs | plain |")
    print("|---|---|---|---|---|---|")
    for problems in (30, 100, 500):
        for rate in RATES:
            shares = [*coverage_of_rate(problems, rate, chosen.exams, chosen.seed)]
            if rate < 0.5:
                shares += coverage_of_change(problems, rate, chosen.exams, chosen.seed)
            cells = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {problems} | {rate:.1%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
