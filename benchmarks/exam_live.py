"""Sit random exams with the exam itself, recorded samples as the model, on a virtual clock.

`python benchmarks/exam_live.py TRACES... --orders 1000 --part 0.5 --policy value`: score, time used
and overshoot beside those of the simulation (`aimo2 exam simulate`) for the same exams.
"""

import argparse
import statistics
from pathlib import Path

from aimo2.evals.exams import courses, hall, sit
from aimo2.evals.recorded import read_samples
from aimo2.evals.replay import Policy
from aimo2.policy.budget import BudgetConfig
from tests.exam.courses import live


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--part", type=float, default=0.5)
    parser.add_argument("--policy", default="value")
    args = parser.parse_args()
    problems = read_samples(args.traces).problems
    drawn = hall(courses(problems, Policy()), None, num_exams=args.orders)
    config = BudgetConfig.model_validate({"policy": args.policy})
    total = args.part * drawn.need
    rows = []
    for paths, lessons in zip(drawn.exams, drawn.lessons, strict=True):
        simulated = sit(paths, total, config, lessons)
        rows.append((*live(paths, total, config, lessons), simulated.score, simulated.used))
    right, used, expected, planned = (list(column) for column in zip(*rows, strict=True))
    print(f"{args.orders} exams of {total:.0f} s under {args.policy}")
    print(f"score: exam {statistics.fmean(right):.2f}, simulation {statistics.fmean(expected):.2f}")
    print(
        f"used: exam {statistics.fmean(used):.0f} s, simulation {statistics.fmean(planned):.0f} s"
    )
    print(f"largest overshoot: {max(0.0, max(used) - total):g} s")


if __name__ == "__main__":
    main()
