"""Builders of recorded samples and of files that hold them."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aimo2.evals.recorded import ReplayedProblem, Sample
from aimo2.policy.signals import Signals


def sample(number: int, answer: str | None, tokens: int, right: str = "a", **more: Any) -> Sample:
    code_seconds = more.pop("code_seconds", 0.0)
    own = more.pop("own", tokens)
    return Sample(
        Signals(number, answer, num_tokens=tokens, **more), answer == right, own, code_seconds
    )


def problem(
    answers: Sequence[str | None], tokens: Sequence[int] | int = 100, name: str = "p"
) -> ReplayedProblem:
    lengths = [tokens] * len(answers) if isinstance(tokens, int) else tokens
    samples = [sample(n, a, t) for n, (a, t) in enumerate(zip(answers, lengths, strict=True))]
    right = "a" if any(each.correct for each in samples) else None
    return ReplayedProblem(name, "run", tuple(samples), right)


def row(problem_id: str = "p", answer: str | None = "7", **more: Any) -> dict[str, Any]:
    values = {"problem_id": problem_id, "answer": answer, "correct": answer == "7"}
    return {**values, "n_tokens": 10, **more}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(each) + "\n" for each in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
