import asyncio
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from aimo2.config import SalvageConfig
from aimo2.errors import DiskFullError, ModelUnavailable, RequestRejected, ServerError
from aimo2.evals.datasets import Dataset
from aimo2.evals.local import done_of
from aimo2.evals.runner import Limit, Plan, Runner, Score
from aimo2.evals.samples import Sample
from aimo2.evals.store import RunStore, read_run
from aimo2.llm import Conversation, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step
from aimo2.sandbox.fake import FakeSandbox
from aimo2.solver import Tools
from aimo2.types import Trace
from tests.evals.exam import Heard, opened, record, sums
from tests.evals.exam_server import reply
from tests.scripted import InstantJudge, config, execute
from tests.virtual import run_virtual


def summing(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
    """Adds, right or wrong by the seed; a token a tenth of a second."""
    found = re.findall(r"What is (\d+) plus (\d+)\?", str(conversation.messages))
    a, b = map(int, found[-1])
    text = reply(a, b, sampling.seed or 0, conversation.reply, 0.5)
    return [Delay(1.0 + (sampling.seed or 0) % 7), text]


class Exam:
    """Runs an exam on a virtual clock, as often as asked, in the same folder."""

    def __init__(self, folder: Path, number: int = 4) -> None:
        self.data: Dataset = sums(folder, number)
        self.folder = folder / "run"
        self.heard = Heard()
        self.model = ScriptedModel(summing)
        self.tools: dict[str, Any] = {}
        """More of `Tools`; its model's name is also the runner's."""
        self.most_open = 0
        self.seconds = 0.0

    def run(
        self,
        *,
        samples: int = 3,
        limit: int = 4,
        interrupt_after: float | None = None,
        patience: float = 600.0,
        failure: str | None = None,
        **rest: Any,
    ) -> RunStore:
        async def main() -> RunStore:
            loop = asyncio.get_running_loop()
            async with FakeSandbox(execute) as sandbox, InstantJudge() as judge:
                with opened(self.folder, self.data, samples, **rest) as store:
                    config = store.record.config
                    runner = Runner(
                        Plan(self.data.items, config.mode, samples, config.solve),
                        Tools(self.model, sandbox, judge, **self.tools),
                        store,
                        self.heard,
                        limit=Limit(limit),
                        done=done_of(store),
                        patience=patience,
                        failure=lambda: failure,
                        model_name=self.tools.get("model_name"),
                    )
                    if interrupt_after is not None:
                        loop.call_later(interrupt_after, runner.interrupt)
                    watching = asyncio.create_task(self._watch())
                    try:
                        await runner.run()
                    finally:
                        watching.cancel()
                        await asyncio.wait([watching])
                        self.seconds = loop.time()
                    assert len(asyncio.all_tasks()) == 1
                    return store

        return run_virtual(main())

    async def _watch(self) -> None:
        while True:
            self.most_open = max(
                self.most_open, sum(call.state == "open" for call in self.model.calls)
            )
            await asyncio.sleep(0.05)


def verdicts(store: RunStore) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What must not depend on when and where a sample ran."""
    return {
        key: (one.answer, one.correct, one.num_tokens, one.opening)
        for key, one in store.samples.items()
    }


def test_every_sample_is_run_graded_and_stored_once(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    store = exam.run()
    assert len(store.samples) == len(exam.heard.samples) == 12
    assert {outcome.id for outcome in exam.heard.outcomes} == {"s0", "s1", "s2", "s3"}
    assert {sample.correct for sample in store.samples.values()} == {True, False}
    assert dict(read_run(exam.folder).samples) == store.samples
    golds = {item.problem.id: item.problem.gold for item in exam.data.items}
    for sample in store.samples.values():
        assert sample.correct == (sample.answer == golds[sample.problem_id])


def test_all_problems_share_one_limit(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.run(limit=5)
    assert exam.most_open == 5
    slow = exam.seconds
    other = Exam(tmp_path)
    other.folder = tmp_path / "wider"
    other.run(limit=12)
    assert other.most_open == 12
    assert other.seconds < slow


@pytest.mark.parametrize("at", [0.5, 2.3, 3.7, 6.2])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, at: float) -> None:
    exam = Exam(tmp_path)
    first = exam.run(interrupt_after=at)
    calls = len(exam.model.calls)
    kept = dict(first.samples)
    assert len(kept) < 12
    second = exam.run()
    assert kept.items() <= second.samples.items()
    whole = Exam(tmp_path)
    whole.folder = tmp_path / "whole"
    assert verdicts(second) == verdicts(whole.run())
    assert len(exam.model.calls) <= calls + 2 * (12 - len(kept))
    assert exam.run().samples == second.samples
    assert len(read_run(exam.folder).outcomes) == 4


def test_a_run_that_is_done_asks_nothing(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.run()
    calls = len(exam.model.calls)
    exam.run()
    assert len(exam.model.calls) == calls


def test_traces_without_grades_are_graded_and_not_run_again(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    before = exam.run()
    calls = len(exam.model.calls)
    for name in ("grades", "classes", "outcomes"):
        (exam.folder / f"{name}.jsonl").unlink()
    after = exam.run()
    assert len(exam.model.calls) == calls
    assert after.samples == before.samples
    assert after.outcomes == before.outcomes


def test_grades_without_an_outcome_are_closed(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    before = exam.run()
    (exam.folder / "outcomes.jsonl").unlink()
    assert exam.run().outcomes == before.outcomes


class Flaky:
    """A server that is away for the calls within a span of time."""

    def __init__(self, away: tuple[float, float], error: Exception) -> None:
        self.away = away
        self.error = error

    def __call__(self, conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        now = asyncio.get_running_loop().time()
        if self.away[0] <= now < self.away[1]:
            return ["It ", self.error]
        return summing(conversation, sampling)


def test_a_server_that_comes_back_costs_no_sample(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.model = ScriptedModel(Flaky((2.0, 90.0), ModelUnavailable("connection refused")))
    store = exam.run()
    assert len(store.samples) == 12
    assert not any(sample.stop_reason == "model_error" for sample in store.samples.values())
    assert "the server is away (connection refused); waiting for it" in exam.heard.notices
    assert "the server answers again" in exam.heard.notices
    whole = Exam(tmp_path)
    whole.folder = tmp_path / "whole"
    assert verdicts(store) == verdicts(whole.run())


def test_a_server_that_stays_away_ends_the_run_which_can_go_on(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.model = ScriptedModel(Flaky((2.5, 1e9), ModelUnavailable("connection refused")))
    with pytest.raises(ServerError, match=r"away for \d+ min .*what has ended is kept"):
        exam.run(patience=100)
    kept = len(read_run(exam.folder).samples)
    assert 0 < kept < 12
    assert 100 < exam.seconds < 200
    exam.model = ScriptedModel(summing)
    assert len(exam.run().samples) == 12


def test_a_server_that_is_gone_for_good_is_not_waited_for(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    exam.model = ScriptedModel(Flaky((0.0, 1e9), ModelUnavailable("gone")))
    with pytest.raises(ServerError, match="the engine died"):
        exam.run(failure="the engine died")
    assert exam.seconds < 20


def test_a_refused_request_is_a_wrong_sample_and_not_an_outage(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 2)
    exam.model = ScriptedModel(Flaky((0.0, 1e9), RequestRejected("no such model")))
    store = exam.run()
    assert [one.stop_reason for one in store.samples.values()] == ["model_error"] * 6
    assert not any(one.correct for one in store.samples.values())
    assert store.outcomes["s0"].answer is None
    assert store.outcomes["s0"].correct is False


@pytest.mark.parametrize("rule", ["never", "unassailable"])
def test_a_question_that_an_outage_took_votes_from_is_solved_again(
    tmp_path: Path, rule: str
) -> None:
    exam = Exam(tmp_path)
    exam.model = ScriptedModel(Flaky((2.5, 60.0), ModelUnavailable("connection refused")))
    solving: dict[str, Any] = {"mode": "solve", "limit": 2, "concurrency": 2, "stop": rule}
    store = exam.run(**solving)
    assert exam.heard.notices == [
        "the server is away (connection refused); waiting for it",
        "the server answers again",
    ]
    whole = Exam(tmp_path)
    whole.folder = tmp_path / "whole"
    other = whole.run(**solving)
    assert verdicts(store) == verdicts(other)
    assert [(one.id, one.votes, one.stop_reason) for one in store.outcomes.values()] == [
        (one.id, one.votes, one.stop_reason) for one in other.outcomes.values()
    ]


def test_a_question_that_its_votes_decided_is_not_solved_again(tmp_path: Path) -> None:
    calls = itertools.count()

    def first_lost(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        return [ModelUnavailable("reset")] if next(calls) == 0 else ["It is $\\boxed{7}$."]

    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(first_lost)
    store = exam.run(mode="solve", stop={"rule": "k_equal", "k": 1})
    assert store.outcomes["s0"].stop_reason == "k_equal"
    assert len(exam.model.calls) == 2
    assert exam.heard.notices == []


def test_a_question_whose_verifier_was_lost_is_solved_again(tmp_path: Path) -> None:
    comparisons = itertools.count()

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "## Solutions" not in str(conversation.messages):
            return [f"It is $\\boxed{{{(sampling.seed or 0) % 5}}}$."]
        return [ModelUnavailable("reset")] if next(comparisons) == 0 else ["So \\boxed{1}."]

    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(script)
    solving: dict[str, Any] = {"stop": {"rule": "window"}, "verify": {"comparisons": 2}}
    store = exam.run(mode="solve", samples=8, **solving)
    assert store.outcomes["s0"].stop_reason == "window"
    assert exam.heard.notices[0] == "the server is away (reset); waiting for it"
    assert next(comparisons) == 4


def forcing(first: list[Step]) -> Callable[[Conversation, Sampling], Iterable[Step]]:
    """Talks without end; what it answers when it is made to: `first` the first time, then 7."""
    forced = itertools.count()

    def script(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if not conversation.reply.endswith("\\boxed{"):
            return [step for n in range(200) for step in (Delay(0.1), f"word{n} and so on, ")]
        return first if next(forced) == 0 else ["7}"]

    return script


def test_an_outage_at_a_forced_answer_costs_no_sample(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(forcing(["1", ModelUnavailable("reset")]))
    store = exam.run(samples=2, max_tokens=5, salvage=SalvageConfig())
    assert [(one.answer, one.stop_reason) for one in store.samples.values()] == [
        ("7", "salvaged"),
        ("7", "salvaged"),
    ]
    assert "the server is away (reset); waiting for it" in exam.heard.notices


def test_a_time_limit_makes_samples_answer_before_it_comes(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(forcing([Delay(0.2), "7}"]))
    limited = config(num_rollouts=2, salvage=SalvageConfig()).model_copy(update={"timeout": 10.0})
    store = exam.run(samples=2, solve=limited)
    for sample in store.samples.values():
        assert (sample.answer, sample.stop_reason) == ("7", "salvaged")
        assert 5 < sample.seconds < 10


def test_without_salvage_the_time_limit_ends_samples(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(forcing([]))
    store = exam.run(samples=1, solve=config().model_copy(update={"timeout": 10.0}))
    assert [one.stop_reason for one in store.samples.values()] == ["deadline"]


def test_a_sample_that_the_server_dies_of_again_and_again_is_kept(tmp_path: Path) -> None:
    def poisoned(conversation: Conversation, sampling: Sampling) -> Iterable[Step]:
        if "print" in conversation.reply:
            return [ModelUnavailable("reset")]
        return ["```python\nprint(3)\n```\n"]

    exam = Exam(tmp_path, 1)
    exam.model = ScriptedModel(poisoned)
    store = exam.run(samples=1, openings=("code",))
    assert [one.stop_reason for one in store.samples.values()] == ["model_error"]
    assert exam.heard.notices[-1] == (
        "s0, sample 0: the server was lost in each of 5 tries (reset); it is kept as it is"
    )
    assert exam.seconds < 30


def test_of_two_models_the_one_that_begins_decides_how_samples_are_asked(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.tools = {"model_name": "qwen2.5-math.gguf", "asked_as": "DeepSeek-R1"}
    exam.run(samples=1)
    alone = Exam(tmp_path, 1)
    alone.folder = tmp_path / "alone"
    alone.tools = {"model_name": "DeepSeek-R1"}
    alone.run(samples=1)
    assert exam.model.calls[0].conversation == alone.model.calls[0].conversation


def test_a_model_whose_template_opens_its_thinking_is_asked_to_think(tmp_path: Path) -> None:
    exam = Exam(tmp_path, 1)
    exam.tools = {"model_name": "checkpoint", "opens_thinking": True}
    exam.run(samples=1)
    assert exam.model.calls[0].conversation.reply.startswith("<think>\n")


def test_a_full_disk_ends_the_run_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RunStore, trace: Trace, grade: Any) -> Sample:
        raise DiskFullError("no room left")

    monkeypatch.setattr(RunStore, "add_grade", full)
    with pytest.raises(DiskFullError, match="no room left"):
        Exam(tmp_path).run()


def test_the_whole_solver_runs_once_a_problem_and_resumes_by_problem(tmp_path: Path) -> None:
    exam = Exam(tmp_path)
    first = exam.run(mode="solve", limit=2, concurrency=2, interrupt_after=9.0)
    assert 0 < len(first.outcomes) < 4
    second = exam.run(mode="solve", limit=2, concurrency=2)
    assert set(second.outcomes) == {"s0", "s1", "s2", "s3"}
    assert first.outcomes.items() <= second.outcomes.items()
    assert exam.most_open <= 2
    assert {key[0] for key in second.samples} == set(second.outcomes)
    whole = Exam(tmp_path)
    whole.folder = tmp_path / "whole"
    answers = {
        one.id: one.answer
        for one in whole.run(mode="solve", limit=2, concurrency=2).outcomes.values()
    }
    assert {one.id: one.answer for one in second.outcomes.values()} == answers


def test_a_running_score_weighs_problems_alike(tmp_path: Path) -> None:
    store = Exam(tmp_path).run()
    score = Score()
    assert score.accuracy() is None
    for sample in store.samples.values():
        score.add(sample)
    found = score.accuracy()
    assert found is not None
    shares = [sum(bool(store.samples[f"s{n}", k].correct) for k in range(3)) / 3 for n in range(4)]
    assert found[0] == pytest.approx(sum(shares) / 4)
    assert found[1] > 0
    assert score.tokens == sum(one.num_tokens for one in store.samples.values())


def test_a_record_says_what_ran(tmp_path: Path) -> None:
    made = record(sums(tmp_path))
    assert made.versions["aimo2"]
    assert made.versions["math-verify"]
    assert made.config.model == "fake"
