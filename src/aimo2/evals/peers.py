"""Samples of other harnesses: read for comparison, written for their viewers and tools.

- lm-evaluation-harness: `samples_TASK_DATE.jsonl` of `--log_samples`, a row a problem and filter,
  with `doc`, `target`, `resps`, `filtered_resps` and the metrics' values.
- inspect_ai: `.eval` (a zip of `header.json` and `samples/ID_epoch_N.json`) and `.json` logs, with
  `input`, `target`, `output`, `scores` and, per epoch, one sample.

A verdict is the harness's own, where it gives one a sample; where it gives only a mean over several
answers, they are compared with the target by exact arithmetic. Knows no models.
"""

import io
import json
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from aimo2.answers import extract_boxed, same
from aimo2.errors import InputError
from aimo2.evals.compare import Results
from aimo2.evals.datasets import Item
from aimo2.evals.figures import ProblemResult, problem_result, results_of, total_tokens
from aimo2.evals.samples import Sample
from aimo2.evals.store import LoadedRun, read_run, read_traces
from aimo2.types import Outcome, Problem, Trace

Format = Literal["lm-eval", "inspect"]

_ZSTD = 93
"""The zip method of newer `.eval` files; Python reads it from 3.14 on, pyarrow everywhere."""
_STATEMENTS = ("problem", "question", "input", "query", "prompt", "Problem", "Question")
_METRICS = ("exact_match", "math_verify", "acc", "correct")
_OWN = "aimo2_correct"
"""Our extension of a harness row: the verdict of each response."""
_TRUE = {"C": True, "I": False, "N": False, "P": False, "correct": True, "incorrect": False}


def read_results(path: Path, *, metric: str | None = None) -> Results:
    """A run's folder of ours, a `samples_*.jsonl` file, or a log of inspect_ai.

    `metric`: the harness's metric or scorer that says what is right; `None` takes the first known.
    Raises `InputError` that names the file and what was expected.
    """
    if path.is_dir():
        if (path / "run.json").exists():
            run = read_run(path)
            return Results(path.name, run.items, results_of(run), run.record.config.mode)
        found = sorted(path.glob("samples_*.jsonl")) or sorted(path.glob("*.eval"))
        if len(found) != 1:
            raise InputError(
                f"{path} is no run of aimo2 and holds {len(found)} files of samples; name one file"
            )
        path = found[0]
    if not path.exists():
        raise InputError(f"{path}: there is no such run or file")
    if path.suffix == ".eval":
        return _from_inspect(path, _zip_samples(path), metric)
    if path.suffix == ".json":
        return _from_inspect(path, _json_samples(path), metric)
    if path.suffix == ".jsonl":
        return _from_lm_eval(path, metric)
    raise InputError(
        f"{path}: give a run's folder, samples_*.jsonl of lm-evaluation-harness, or a .eval or"
        " .json log of inspect_ai"
    )


def _from_lm_eval(path: Path, metric: str | None) -> Results:
    rows = list(_lines(path))
    if not rows or not all("doc" in row and "target" in row for row in rows):
        raise InputError(f"{path}: no samples of lm-evaluation-harness (doc, target, resps)")
    wanted = rows[0].get("filter")
    chosen = metric or _metric_of(rows[0], path)
    items: list[Item] = []
    problems: list[ProblemResult] = []
    for row in rows:
        if row.get("filter") != wanted:
            continue  # Each filter repeats every problem: the first one counts.
        problem = Problem(
            id=str(row.get("doc_id", len(items))),
            statement=_statement(row),
            gold=str(row["target"]),
        )
        items.append(Item(problem, {}))
        answers = _flat(row.get("filtered_resps") or [])
        verdicts = _verdicts(row, answers, chosen, path)
        texts = _flat(row.get("resps") or [])
        problems.append(_result(problem, answers, verdicts, texts))
    return Results(path.stem, items, problems)


def _metric_of(row: Mapping[str, Any], path: Path) -> str:
    names = [str(name) for name in row.get("metrics") or ()] or list(row)
    for name in (*_METRICS, *names):
        if name in names and isinstance(row.get(name), bool | int | float):
            return name
    raise InputError(f"{path}: no metric with a value a sample; name one with --metric")


def _statement(row: Mapping[str, Any]) -> str:
    doc = row["doc"]
    if isinstance(doc, str):
        return doc
    for name in _STATEMENTS:
        if isinstance(text := doc.get(name), str) and text.strip():
            return text
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0", {}).get("arg_0", "") if isinstance(arguments, dict) else ""
    return str(first)


def _flat(value: Any) -> list[str | None]:
    """`[[a, b]]`, `[a, b]` or `a` to a list of texts; empty texts are no answers."""
    if isinstance(value, list | tuple):
        return [text for part in value for text in _flat(part)]
    text = None if value is None else str(value).strip()
    return [None if text in ("", "[invalid]", "None") else text]


def _verdicts(
    row: Mapping[str, Any], answers: Sequence[str | None], metric: str, path: Path
) -> list[bool]:
    own = row.get(_OWN)
    if isinstance(own, list) and len(own) == len(answers):
        return [bool(each) for each in own]
    value = row.get(metric)
    if not isinstance(value, bool | int | float):
        raise InputError(f"{path}: doc {row.get('doc_id')}: no number under metric {metric}")
    if len(answers) == 1 or value in (0, 1):
        return [value >= 0.5] * len(answers)
    target = str(row["target"])
    return [answer is not None and same(answer, target) is True for answer in answers]


def _from_inspect(path: Path, samples: Iterable[Mapping[str, Any]], metric: str | None) -> Results:
    by_problem: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        if "id" not in sample or "target" not in sample:
            raise InputError(f"{path}: a sample without id or target: no log of inspect_ai?")
        by_problem[str(sample["id"])].append(sample)
    if not by_problem:
        raise InputError(f"{path}: the log holds no samples")
    items, problems = [], []
    for name, epochs in by_problem.items():
        epochs.sort(key=lambda sample: int(sample.get("epoch", 1)))
        problem = Problem(id=name, statement=_input(epochs[0]), gold=_target(epochs[0]))
        meta = epochs[0].get("metadata") or {}
        scalars = {k: v for k, v in meta.items() if isinstance(v, str | int | float | bool)}
        items.append(Item(problem, scalars))
        scored = [_score(sample, metric, path) for sample in epochs]
        problems.append(
            _result(
                problem,
                [answer for answer, _ in scored],
                [verdict for _, verdict in scored],
                [str((sample.get("output") or {}).get("completion", "")) for sample in epochs],
                [_output_tokens(sample) for sample in epochs],
                [float(sample.get("total_time") or 0.0) for sample in epochs],
            )
        )
    return Results(path.stem, items, problems)


def _input(sample: Mapping[str, Any]) -> str:
    given = sample.get("input", "")
    if isinstance(given, str):
        return given
    users = [part for part in given if part.get("role") == "user"]
    content = users[-1].get("content", "") if users else ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _target(sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    return ", ".join(map(str, target)) if isinstance(target, list) else str(target)


def _score(sample: Mapping[str, Any], metric: str | None, path: Path) -> tuple[str | None, bool]:
    """The answer that a scorer saw, and whether it was right; an errored sample is wrong."""
    scores = sample.get("scores") or {}
    if not scores:
        return None, False
    name = metric or next(iter(scores))
    if name not in scores:
        raise InputError(f"{path}: no scorer {name}; the log has {', '.join(scores)}")
    score = scores[name]
    value = score.get("value")
    if isinstance(value, str) and value in _TRUE:
        verdict = _TRUE[value]
    elif isinstance(value, bool | int | float):
        verdict = value >= 0.5
    else:
        raise InputError(f"{path}: scorer {name}: {value!r} is neither right nor wrong")
    completion = str((sample.get("output") or {}).get("completion", ""))
    answer = score.get("answer") or extract_boxed(completion)
    return (str(answer).strip() or None) if answer is not None else None, verdict


def _output_tokens(sample: Mapping[str, Any]) -> int:
    usage = sample.get("model_usage") or {}
    return sum(int(each.get("output_tokens", 0)) for each in usage.values())


def _result(
    problem: Problem,
    answers: Sequence[str | None],
    verdicts: Sequence[bool],
    texts: Sequence[str | None],
    tokens: Sequence[int] = (),
    seconds: Sequence[float] = (),
) -> ProblemResult:
    samples = [
        Sample(
            problem_id=problem.id,
            rollout=at,
            answer=answer,
            correct=verdict,
            note=None,
            num_tokens=tokens[at] if at < len(tokens) else 0,
            seconds=seconds[at] if at < len(seconds) else 0.0,
            num_code_runs=0,
            num_code_errors=0,
            num_repaired=0,
            code_used="none",
            stop_reason="answered" if answer is not None else "no_answer",
            answer_source=None,
            opening="plain",
            mean_logprob=None,
            confidence=None,
            parent=None,
            weight=None,
            error=None,
        )
        for at, (answer, verdict) in enumerate(zip(answers, verdicts, strict=True))
    ]
    votes: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.answer is not None:
            votes[sample.answer].append(sample)
    # A single sample counts by its verdict, whether or not its answer was kept in the log.
    most = max(votes.values(), key=len, default=samples)
    voted = bool(most[0].correct) if votes or len(samples) == 1 else False
    outcome = Outcome(
        id=problem.id,
        answer=most[0].answer if votes else None,
        votes={answer: float(len(each)) for answer, each in votes.items()},
        stop_reason="exhausted",
        num_rollouts=len(samples),
        num_sampled_tokens=sum(sample.num_tokens for sample in samples),
        num_code_runs=0,
        seconds=max((sample.seconds for sample in samples), default=0.0),
        gold=problem.gold,
        correct=voted,
    )
    return problem_result(outcome, samples, None)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path} line {number}: not valid JSON; delete the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: not a JSON object")
        yield row


def _json_samples(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as a log of inspect_ai: {error}") from error
    if not isinstance(log, dict) or not isinstance(log.get("samples"), list):
        raise InputError(f"{path}: no log of inspect_ai with samples")
    yield from log["samples"]


def _zip_samples(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # A sample that was written again stands there twice: the later one counts.
            members = {one.filename: one for one in archive.infolist()}
            names = [name for name in members if name.startswith("samples/")]
            for name in names:
                yield json.loads(_member(archive, members[name]))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path} as a log of inspect_ai: {error}") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type != _ZSTD:
        return archive.read(member)
    import pyarrow

    file = archive.fp
    assert file is not None
    file.seek(member.header_offset)
    # The local header's lengths of name and extra field may differ from the directory's.
    name_length, extra_length = struct.unpack("<HH", file.read(30)[26:30])
    file.seek(name_length + extra_length, io.SEEK_CUR)
    packed = pyarrow.BufferReader(file.read(member.compress_size))
    with pyarrow.CompressedInputStream(packed, "zstd") as stream:
        return bytes(stream.read())


# Writing


def export(folder: Path, to: Format, out: Path) -> int:
    """Write the samples of a run's folder; returns how many there are.

    lm-eval: one row a problem, all its samples as responses, `exact_match` their mean. inspect:
    a log, as `.json` or `.eval` by the name of `out`; a sample is an epoch of its problem.
    Raises `InputError`.
    """
    run = read_run(folder)
    if not run.samples:
        raise InputError(f"{folder} holds no graded samples yet; let `aimo2 eval` run first")
    traces = {(one.problem_id, one.rollout): one for one in read_traces(folder / "traces.jsonl")}
    try:
        if to == "lm-eval":
            out.write_text("".join(_lm_eval_rows(run, traces)), encoding="utf-8")
        elif out.suffix == ".eval":
            _write_zip(out, _inspect_log(run, traces))
        else:
            text = json.dumps(_inspect_log(run, traces), ensure_ascii=False, indent=1)
            out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    return len(run.samples)


def _of_problem(run: LoadedRun, problem_id: str) -> list[Sample]:
    found = [sample for key, sample in run.samples.items() if key[0] == problem_id]
    return sorted(found, key=lambda sample: sample.rollout)


def _lm_eval_rows(run: LoadedRun, traces: Mapping[tuple[str, int], Trace]) -> Iterator[str]:
    for number, item in enumerate(run.items):
        samples = _of_problem(run, item.problem.id)
        if not samples:
            continue
        doc = {
            **item.meta,
            "id": item.problem.id,
            "problem": item.problem.statement,
            "answer": item.problem.gold,
        }
        verdicts = [bool(sample.correct) for sample in samples]
        texts = [traces[sample.problem_id, sample.rollout].text for sample in samples]
        target = item.problem.gold or ""
        row = {
            "doc_id": number,
            "doc": doc,
            "target": target,
            "arguments": {
                "gen_args_0": {
                    "arg_0": item.problem.statement,
                    "arg_1": _generation(run),
                }
            },
            "resps": [texts],
            "filtered_resps": [[sample.answer or "" for sample in samples]],
            "filter": "none",
            "metrics": ["exact_match"],
            "doc_hash": _hash(json.dumps(doc, ensure_ascii=False)),
            "prompt_hash": _hash(item.problem.statement),
            "target_hash": _hash(target),
            "exact_match": sum(verdicts) / len(verdicts),
            _OWN: verdicts,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _generation(run: LoadedRun) -> dict[str, Any]:
    sampling = run.record.config.solve.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_gen_toks": run.record.config.solve.rollout.max_tokens,
        "do_sample": sampling.temperature > 0,
    }


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _inspect_log(run: LoadedRun, traces: Mapping[tuple[str, int], Trace]) -> dict[str, Any]:
    config = run.record.config
    model = f"aimo2/{config.model or 'unknown'}"
    samples = [
        _inspect_sample(item, sample, traces[sample.problem_id, sample.rollout], model)
        for item in run.items
        for sample in _of_problem(run, item.problem.id)
    ]
    right = [sample["scores"]["aimo2"]["value"] == "C" for sample in samples]
    accuracy = sum(right) / len(right)
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": _hash(run.record.model_dump_json())[:22],
            "run_id": _hash(run.record.created)[:22],
            "created": run.record.created,
            "task": config.dataset,
            "task_id": config.dataset,
            "task_version": 0,
            "dataset": {
                "name": config.dataset,
                "location": run.record.source,
                "samples": len(run.items),
                "sample_ids": [item.problem.id for item in run.items],
                "shuffled": False,
            },
            "model": model,
            "model_generate_config": {
                "temperature": config.solve.sampling.temperature,
                "top_p": config.solve.sampling.top_p,
                "max_tokens": config.solve.rollout.max_tokens,
                "seed": config.solve.seed,
            },
            "config": {"epochs": config.samples},
            "packages": {"aimo2": run.record.versions.get("aimo2", "")},
            "metadata": {"dataset_sha256": config.dataset_sha256, "mode": config.mode},
            "scorers": [{"name": "aimo2"}],
        },
        "plan": {"name": "plan", "steps": [{"solver": "aimo2", "params": {}}]},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [
                {
                    "name": "aimo2",
                    "scorer": "aimo2",
                    "params": {},
                    "metrics": {"accuracy": {"name": "accuracy", "value": accuracy}},
                }
            ],
        },
        "stats": {
            "started_at": run.record.created,
            "completed_at": run.record.created,
            "model_usage": {model: _usage(total_tokens(run))},
        },
        "samples": samples,
    }


def _usage(tokens: int) -> dict[str, int]:
    return {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}


def _inspect_sample(item: Item, sample: Sample, trace: Trace, model: str) -> dict[str, Any]:
    length = sample.stop_reason in ("max_tokens", "max_context")
    message = {"role": "assistant", "content": trace.text, "source": "generate", "model": model}
    return {
        "id": item.problem.id,
        "epoch": sample.rollout + 1,
        "input": item.problem.statement,
        "target": item.problem.gold or "",
        "messages": [{"role": "user", "content": item.problem.statement}, message],
        "output": {
            "model": model,
            "choices": [{"message": message, "stop_reason": "max_tokens" if length else "stop"}],
            "completion": trace.text,
            "usage": _usage(sample.num_sampled_tokens),
            "time": sample.seconds,
        },
        "scores": {
            "aimo2": {
                "value": "C" if sample.correct else "I",
                "answer": sample.answer or "",
                "explanation": sample.note or f"stopped: {sample.stop_reason}",
            }
        },
        "metadata": {
            **item.meta,
            "stop_reason": sample.stop_reason,
            "num_code_runs": sample.num_code_runs,
            "num_code_errors": sample.num_code_errors,
        },
        "model_usage": {model: _usage(sample.num_sampled_tokens)},
        "total_time": sample.seconds,
    }


def _write_zip(out: Path, log: Mapping[str, Any]) -> None:
    header = {name: value for name, value in log.items() if name != "samples"}
    summaries = [
        {
            name: sample[name]
            for name in ("id", "epoch", "input", "target", "metadata", "scores", "model_usage")
        }
        | {"completed": True}
        for sample in log["samples"]
    ]
    start = {"version": log["version"], "eval": log["eval"], "plan": log["plan"]}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps(start, ensure_ascii=False))
        for sample in log["samples"]:
            name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
            archive.writestr(name, json.dumps(sample, ensure_ascii=False))
        archive.writestr("summaries.json", json.dumps(summaries, ensure_ascii=False))
        archive.writestr("header.json", json.dumps(header, ensure_ascii=False))
