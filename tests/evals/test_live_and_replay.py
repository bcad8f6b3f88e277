"""The live solver and the replay decide alike: on the same traces, at the same instant."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from aimo2.config import Calibration, StopConfig, WeighConfig
from aimo2.evals.recorded import ReplayedProblem, read_samples
from aimo2.evals.replay import Policy, Throughput, replay
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.types import StopRule
from tests.scripted import SolverRun, config, run_solver

SECONDS_A_TOKEN = 0.01
SERVER = Throughput(base=SECONDS_A_TOKEN, per_stream=0.0)
ROLLOUTS = 16
CALIBRATION = Calibration(
    intercept=0.2,
    coefficients={"log_relative_tokens": -0.9, "small_answer": -0.4},
    means={"log_relative_tokens": 0.0, "small_answer": 0.3},
    scales={"log_relative_tokens": 0.6, "small_answer": 0.5},
    shift=1.0,
)
WEIGHTS = [
    WeighConfig(),
    WeighConfig(trivial=0.6),
    WeighConfig(rule="short_first"),
    WeighConfig(rule="calibrated", calibration=CALIBRATION),
]


def script(seed: int) -> ScriptedModel:
    """The i-th call is rollout i: a wait, then its answer or none."""
    generator = random.Random(seed)
    answers = [generator.choice(["42", "42", "7", "300", None]) for _ in range(ROLLOUTS)]
    lengths = generator.sample(range(50, 2000), ROLLOUTS)
    calls = iter(range(ROLLOUTS))

    def steps(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        number = next(calls)
        answer = answers[number]
        text = "I do not know." if answer is None else f"\\boxed{{{answer}}}"
        yield Delay(lengths[number] * SECONDS_A_TOKEN)
        yield Chunk(text, lengths[number])

    return ScriptedModel(steps)


def live(seed: int, stop: StopConfig, weigh: WeighConfig, concurrency: int) -> SolverRun:
    settings = config(
        num_rollouts=ROLLOUTS,
        concurrency=concurrency,
        stop=stop,
        weigh=weigh,
        max_tokens=10_000,
    )
    return run_solver(script(seed), settings)


def recorded(seed: int, folder: Path) -> ReplayedProblem:
    """All traces of a run that nothing stopped, by way of their file."""
    run = live(seed, StopConfig(rule="never"), WeighConfig(), ROLLOUTS)
    path = folder / "traces.jsonl"
    path.write_text("".join(trace.model_dump_json() + "\n" for trace in run.solved.traces))
    (problem,) = read_samples([path], {"p": "42"}).problems
    return problem


@pytest.mark.parametrize("concurrency", [1, 3, ROLLOUTS])
@pytest.mark.parametrize(
    "rule", ["majority", "k_equal", "window", "unassailable", "adaptive_consistency", "never"]
)
def test_live_and_replay_decide_alike(rule: StopRule, concurrency: int, tmp_path: Path) -> None:
    stop = StopConfig(rule=rule)
    for seed, weigh in enumerate(WEIGHTS):
        problem = recorded(seed, tmp_path)
        policy = Policy(stop, weigh, ROLLOUTS, concurrency)
        replayed = replay(problem, policy, SERVER, order=range(ROLLOUTS))
        outcome = live(seed, stop, weigh, concurrency).solved.outcome
        assert replayed.answer == outcome.answer
        assert replayed.reason == outcome.stop_reason
        assert replayed.weights == pytest.approx(outcome.votes)
        assert replayed.num_rollouts == outcome.num_rollouts
        assert replayed.seconds == pytest.approx(outcome.seconds)
        assert replayed.correct == outcome.correct


def test_limits_of_votes_hold_in_both(tmp_path: Path) -> None:
    stop = StopConfig(rule="never", max_votes=5)
    replayed = replay(recorded(3, tmp_path), Policy(stop, concurrency=4), SERVER)
    outcome = live(3, stop, WeighConfig(), 4).solved.outcome
    assert replayed.reason == outcome.stop_reason == "max_votes"
    assert replayed.weights == outcome.votes
    assert replayed.num_votes == 5


def test_a_tree_has_the_same_votes_and_tokens_in_both(tmp_path: Path) -> None:
    code = "```python\nx = 6 * 7\nprint(x)\n```\n"
    answers = iter(["42", "42", "41", "42", "7", "42", "41", "42", "42"])

    def steps(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "```output" not in conversation.reply:
            return [Delay(1.0), code]
        return [Delay(2.0), f"So \\boxed{{{next(answers)}}}."]

    settings = config(num_rollouts=9, concurrency=9, stop="never", branch="bfs")
    run = run_solver(ScriptedModel(steps), settings)
    traces = run.solved.traces
    assert any(trace.parent is not None for trace in traces)
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(trace.model_dump_json() + "\n" for trace in traces))
    (problem,) = read_samples([path], {"p": "42"}).problems
    policy = Policy(StopConfig(rule="never"), num_rollouts=9, concurrency=9)
    replayed, outcome = replay(problem, policy, SERVER), run.solved.outcome
    assert replayed.answer == outcome.answer
    assert replayed.weights == pytest.approx(outcome.votes)
    assert replayed.num_tokens == outcome.num_sampled_tokens
    assert replayed.num_rollouts == outcome.num_rollouts
    assert sum(replayed.weights.values()) < 9
