"""Runs with drawn samples: a real run folder, but no model behind it."""

import json
import math
import random
from pathlib import Path

from aimo2.config import SolveConfig
from aimo2.evals.datasets import Dataset, Item
from aimo2.evals.samples import Classes, Grade, Sample, outcome_of
from aimo2.evals.store import Mode, RunConfig, RunStore, new_record
from aimo2.types import Problem, TokenStats, Trace, Turn
from tests.saved import code_run, trace, turn

SUBJECTS = ("Algebra", "Geometry", "Numbers & <b>")


def drawn_run(
    folder: Path,
    *,
    problems: int = 12,
    samples: int = 4,
    seed: int = 0,
    skill: float = 0.6,
    longer: float = 1.0,
    with_code: bool = True,
    with_logprobs: bool = True,
    with_gold: bool = True,
    ids: str = "p{}",
    mode: Mode = "samples",
    cut: int = 0,
    done_problems: int | None = None,
) -> Path:
    """A finished run. `skill`: chance of a right sample, less for later problems; `longer`: how
    many times as long a wrong sample is as a right one; `cut`: of each problem's samples the last
    ones, which its vote cut short; `done_problems`: the others have their first sample only.
    """
    draw = random.Random(seed)
    items = [
        Item(
            Problem(id=ids.format(n), statement=f"What is ${n} + {n}$?", gold=_gold(n, with_gold)),
            {"level": 1 + n % 3, "subject": SUBJECTS[n // 2 % 3], "source": "drawn"},
        )
        for n in range(problems)
    ]
    data = Dataset("drawn", "nowhere", "0" * 64, "int", items)
    config = RunConfig(
        dataset="drawn",
        dataset_sha256=data.sha256,
        limit=None,
        mode=mode,
        samples=samples,
        model="a model <b>",
        solve=SolveConfig(num_rollouts=samples, seed=seed),
    )
    with RunStore.open(folder, new_record(config, data, "nothing"), items) as store:
        for n, item in enumerate(items):
            done = []
            for k in range(samples):
                right = draw.random() < skill * (1.2 - n / problems)
                made = _trace(draw, item.problem, n, k, right, longer, with_code, with_logprobs)
                if k >= samples - cut:
                    made = made.model_copy(
                        update={"answer": None, "answer_source": None, "stop_reason": "cancelled"}
                    )
                store.add_trace(made)
                correct = None if not with_gold else right and made.answer is not None
                grade = Grade(problem_id=item.problem.id, rollout=k, correct=correct)
                done.append(store.add_grade(made, grade))
                if n >= (problems if done_problems is None else done_problems):
                    break
            else:
                classes = _classes(item.problem, done)
                ended = outcome_of(item.problem, done, classes)
                rule = "majority" if cut else "exhausted"
                store.add_end(classes, ended.model_copy(update={"stop_reason": rule}))
        store.write_samples()
    return folder


def _gold(n: int, with_gold: bool) -> str | None:
    return str(2 * n) if with_gold else None


def _trace(
    draw: random.Random,
    problem: Problem,
    n: int,
    k: int,
    right: bool,
    longer: float,
    with_code: bool,
    with_logprobs: bool,
) -> Trace:
    answer = str(2 * n) if right else str(2 * n + draw.randint(1, 3))
    if draw.random() < 0.1 and not right:
        answer = ""
    tokens = round((60 + 10 * n + draw.randint(0, 40)) * (1 if right else longer))
    logprob = -0.1 - 0.3 * draw.random() * (1 if right else 2)
    turns: list[Turn] = []
    if with_code and draw.random() < 0.7:
        failed = draw.random() < 0.3
        text = f"Let \\(x = {n}\\).\n```python\nprint({n} + {n})\n```\n"
        run = code_run("NameError: x" if failed else answer, error="name" if failed else None)
        turns.append(turn(text, run=run, num_tokens=tokens // 2, mean_logprob=logprob, seconds=1.0))
    last = f"So it is \\(\\boxed{{{answer}}}\\)." if answer else "I do not know."
    turns.append(
        turn(
            last,
            num_tokens=tokens - tokens // 2 * len(turns),
            mean_logprob=logprob if with_logprobs else None,
            started=float(len(turns)),
            seconds=0.5,
        )
    )
    stats = TokenStats(
        num_tokens=tokens,
        mean_logprob=logprob,
        tail_logprob=logprob,
        min_window_logprob=2 * logprob,
    )
    return trace(
        k,
        *turns,
        problem_id=problem.id,
        answer=answer or None,
        opening="code" if len(turns) > 1 else "plain",
        seconds=math.fsum(one.seconds for one in turns),
        stats=stats if with_logprobs else None,
    )


def _classes(problem: Problem, samples: list[Sample]) -> Classes:
    first: dict[str, int] = {}
    classes = {}
    for one in samples:
        if one.answer is not None:
            classes[one.rollout] = first.setdefault(one.answer, one.rollout)
    return Classes(problem_id=problem.id, classes=classes)


def change_problems(folder: Path, **fields: object) -> None:
    """Set fields in every line of the run's problems."""
    path = folder / "problems.jsonl"
    rows = [json.loads(line) | fields for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
