"""Builders of stored traces, and files of them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aimo2.types import CodeRun, Outcome, Trace, Turn


def code_run(output: str = "42", **rest: Any) -> CodeRun:
    given = {"code": "print(42)", "error": None, "seconds": 0.5, "truncated": False}
    return CodeRun(output=output, **{**given, **rest})


def turn(text: str, *, num_tokens: int = 10, **rest: Any) -> Turn:
    given: dict[str, Any] = {"finish_reason": "stop", "run": None, "injected": ""}
    return Turn(text=text, num_tokens=num_tokens, **{**given, **rest})


def trace(
    rollout: int = 0, *turns: Turn, problem_id: str = "p", answer: str | None = "42", **rest: Any
) -> Trace:
    given: dict[str, Any] = {
        "opening": "plain",
        "seed": 0,
        "prefix": "",
        "raw_answer": answer,
        "answer_source": "boxed" if answer is not None else None,
        "stop_reason": "answered" if answer is not None else "no_answer",
        "error": None,
        "seconds": 1.0,
    }
    return Trace(
        problem_id=problem_id,
        rollout=rollout,
        turns=turns or (turn("So \\boxed{42}."),),
        answer=answer,
        **{**given, **rest},
    )


def outcome(id: str = "p", answer: str | None = "42", **rest: Any) -> Outcome:
    given: dict[str, Any] = {
        "votes": {answer: 1.0} if answer is not None else {},
        "stop_reason": "exhausted",
        "num_rollouts": 1,
        "num_sampled_tokens": 10,
        "num_code_runs": 0,
        "seconds": 1.0,
    }
    return Outcome(id=id, answer=answer, **{**given, **rest})


def write_lines(path: Path, records: Iterable[Trace | Outcome | dict[str, Any] | str]) -> Path:
    """JSON lines; a text is written as it stands."""
    lines = []
    for record in records:
        if isinstance(record, str):
            lines.append(record)
        elif isinstance(record, dict):
            lines.append(json.dumps(record) + "\n")
        else:
            lines.append(record.model_dump_json() + "\n")
    path.write_text("".join(lines))
    return path
