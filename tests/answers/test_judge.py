import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.answers import Judge, Verdict, canonical, extract, group
from aimo2.deadline import Deadline
from tests.answers import hostile

T = TypeVar("T")
ENDLESS = (r"\prod_{k=1}^{10^{8}}(1+k)", r"\sum_{k=1}^{10^{12}}\frac{1}{k^{2}}")

EQUAL = [
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\sqrt{5+2\sqrt6}", r"\sqrt2+\sqrt3"),
    (r"\frac{9 \sqrt{3}}{20}", r"0.45\sqrt{3}"),
    (r"\log_2 1024", "10"),
    (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\ln 2}{\ln(2/3)}"),
    (r"\sin(\pi/2)", "1"),
    ("6 - 5i", "-5i+6"),
    ("(1+i)^2", "2i"),
    ("x^3+3x-6", "3x-6+x^3"),
    ("(x-1)^2", "x^2-2x+1"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("p - q", "-q+p"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    (r"\frac{d !}{2 k(d-k) !}", r"\frac{d!}{2k\cdot (d-k)!}"),
    ("5x-7y+11z+4=0", "-5x+7y-11z-4=0"),
    ("y=2x+3", "2x-y+3=0"),
    ("y = x", "x = y"),
    ("2y<x", "x>2y"),
    (r"(1, \sqrt{8})", r"(1, 2\sqrt{2})"),
    (r"\{\sqrt{8}, 1\}", r"\{1, 2\sqrt{2}\}"),
    (r"(-\sqrt{12}, 2\sqrt{3})", r"(-2\sqrt{3}, \sqrt{12})"),
    (
        r"\frac{8}{49} \begin{pmatrix} 2 \\ 6 \end{pmatrix}",
        r"\begin{pmatrix} 16/49 \\ 48/49 \end{pmatrix}",
    ),
    ("2(3)(x)", "6x"),
    (r"2\frac{5}{3}x", r"2\frac{5}{3}x"),
]
UNEQUAL = [
    (r"\sqrt{2}", "1.41421356237309504880168872420969807856967187537694807317667973799"),
    (r"\sqrt{10^{40}+1}", "10^{20}"),
    (r"e^{\pi\sqrt{163}}", "262537412640768744"),
    ("x+10^{-30}", "x"),
    ("x^2", "x^3"),
    ("5x+1", "5y+1"),
    ("x = 5", "y = 5"),
    ("2y<x", "x<2y"),
    ("2y<x", r"2y \leq x"),
    ("x^2=1", "x=1"),
    ("x^2+1=0", "x^2+2=0"),
    (r"(1, \sqrt{8})", r"(1, 3\sqrt{2})"),
    (r"\{1, \sqrt{8}, \sqrt{2}\}", r"\{\sqrt{2}, \sqrt{8}, \sqrt{3}\}"),
    ("2(x+1)", "2x+1"),
    ("R^2-r^2", "0"),
    ("6", "2(3)x"),
    (r"\begin{pmatrix} 1 \\ x \end{pmatrix}", r"\begin{pmatrix} 1 \\ y \end{pmatrix}"),
    ("x - x + 1", "2"),
    ("5t", "5"),
    ("3c", "3d"),
    (r"\frac{1}{2}h", r"\frac{1}{2}"),
    ("2x + 5g", "2x + 5"),
    (r"73 \ldots", "73"),
    ("73 ... x", "73x"),
    ("x'", "x"),
    ("(x)_{2}", "x(x-1)"),
    ("2;x", "2x"),
    ("__import__('os')", "1"),
]


def judged(ask: Callable[[Judge], Awaitable[T]], **options: int) -> T:
    async def run() -> T:
        async with Judge(**options) as judge:
            return await ask(judge)

    return asyncio.run(run())


def workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "worker.py" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], bool]:
    """All pairs, judged both ways round by one judge each."""

    async def ask(judge: Judge) -> dict[tuple[str, str], bool]:
        return {pair: await judge.equal(*pair, timeout=30) for pair in [*EQUAL, *UNEQUAL]}

    async def ask_mirrored(judge: Judge) -> dict[tuple[str, str], bool]:
        return {(b, a): await judge.equal(b, a, timeout=30) for a, b in [*EQUAL, *UNEQUAL]}

    return judged(ask) | judged(ask_mirrored)


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_algebra_finds_equal_what_is_equal(
    verdicts: dict[tuple[str, str], bool], a: str, b: str
) -> None:
    assert verdicts[a, b]
    assert verdicts[b, a]


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_algebra_accepts_nothing_unequal(
    verdicts: dict[tuple[str, str], bool], a: str, b: str
) -> None:
    assert not verdicts[a, b]
    assert not verdicts[b, a]


@pytest.mark.parametrize(
    ("raw", "modulus", "value", "note"),
    [
        (r"\log_2 1024", None, "10", None),
        (r"\sum_{k=1}^{10} k", None, "55", None),
        (r"\sum_{k=1}^{100} k", 1000, "50", "reduced modulo 1000 from 5050"),
        (r"\gcd(12, 18)", None, "6", None),
        (r"(\sqrt{2}+1)(\sqrt{2}-1)", None, "1", None),
        (r"\int_0^1 2x dx", None, "1", None),
        (r"\cos(\pi)", 1000, "999", "reduced modulo 1000 from -1"),
        (r"\sin(\pi/6)", None, None, "not an integer: 1/2"),
        (r"\sqrt{2}", None, None, r"not an integer: \sqrt{2}"),
        ("x+1", None, None, "not a number: x+1"),
        ("(1,234)", None, None, "not a number: (1,234)"),
        ("5 6", None, None, "not a number: 5 6"),
        ("73", 1000, "73", None),
    ],
)
def test_an_integer_may_need_algebra(
    raw: str, modulus: int | None, value: str | None, note: str | None
) -> None:
    result = judged(lambda judge: judge.canonicalise(raw, "int", modulus, timeout=30))
    assert result.value == value
    assert result.note == note or (value is None and result.note is not None)
    assert result.question is None


def test_easy_questions_start_no_worker() -> None:
    async def ask(judge: Judge) -> bool:
        assert await judge.equal("1/2", "0.5")
        assert not await judge.equal("(1, 2)", "(2, 1)")
        assert (await judge.canonicalise("2^{10}", "int", 1000)).value == "24"
        return workers() == []

    assert judged(ask)


def test_a_hung_worker_is_replaced_and_its_question_is_not_accepted() -> None:
    async def ask(judge: Judge) -> None:
        await judge.warm()
        (first,) = workers()
        verdict = await judge.verdict(ENDLESS[0], "73x", timeout=0.2)
        assert verdict == Verdict(False, "not decided in 0.2 s")
        assert not first.is_running()
        result = await judge.canonicalise(ENDLESS[1], "int", 1000, timeout=0.2)
        assert result.value is None
        assert result.note is not None
        assert result.note.startswith("not decided in 0.2 s")
        assert await judge.equal(*EQUAL[0], timeout=30)
        assert len(workers()) == 1

    judged(ask)


def test_an_undecided_pair_is_asked_again_only_with_more_time_and_late_ones_at_once() -> None:
    asked: list[float] = []

    class Slow(Judge):
        async def ask(
            self, request: dict[str, Any], timeout: float, deadline: Deadline
        ) -> dict[str, Any]:
            if deadline.passed():
                return await super().ask(request, timeout, deadline)
            asked.append(timeout)
            return {"note": "not decided"}

    async def run() -> None:
        async with Slow() as judge:
            late = await judge.verdict("x+1", "1+x", deadline=Deadline.after(0))
            assert late == Verdict(False, "not decided before the deadline")
            for timeout in (3.0, 2.0, 3.0, 5.0, 3.0):
                verdict = await judge.verdict("x+1", "1+x", timeout=timeout)
                assert verdict == Verdict(False, "not decided")
            assert await judge.verdict("1+x", "x+1", timeout=1) == Verdict(False, "not decided")

    asyncio.run(run())
    assert asked == [3.0, 5.0]
    assert workers() == []


def test_a_dead_worker_is_replaced_and_its_question_is_not_accepted() -> None:
    async def ask(judge: Judge) -> None:
        await judge.warm()
        (first,) = workers()
        first.kill()
        verdict = await judge.verdict(*EQUAL[0])
        assert verdict == Verdict(False, "not decided: the worker died")
        assert await judge.equal(*EQUAL[0], timeout=30)

    judged(ask)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is the address space limited")
def test_memory_is_limited_and_running_out_of_it_is_no_verdict() -> None:
    async def ask(judge: Judge) -> None:
        await judge.warm()
        (process,) = workers()
        assert process.rlimit(psutil.RLIMIT_AS)[0] == 2**20
        assert not await judge.equal(*EQUAL[0], timeout=30)

    judged(ask, memory_mib=1)


def test_a_worker_sees_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret-73")

    async def ask(judge: Judge) -> None:
        await judge.warm()
        (process,) = workers()
        assert "secret-73" not in str(process.environ())

    judged(ask)


def test_leaving_the_judge_ends_its_workers() -> None:
    async def ask(judge: Judge) -> list[psutil.Process]:
        await asyncio.gather(judge.warm(), judge.warm(), judge.warm())
        return workers()

    ended = judged(ask, workers=2)
    assert len(ended) == 2
    assert not any(process.is_running() for process in ended)


def test_cancelling_a_question_ends_its_worker_and_leaves_the_judge_usable() -> None:
    async def ask(judge: Judge) -> None:
        await judge.warm()
        (first,) = workers()
        task = asyncio.create_task(judge.equal(ENDLESS[0], "73x", timeout=60))
        await asyncio.wait([task], timeout=0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not first.is_running()
        assert await judge.equal(*EQUAL[0], timeout=30)

    judged(ask)


def test_a_deadline_bounds_the_start_of_a_worker_too() -> None:
    async def ask(judge: Judge) -> Verdict:
        deadline = Deadline.after(0)
        return await judge.verdict(*EQUAL[0], timeout=60, deadline=deadline)

    assert judged(ask) == Verdict(False, "not decided before the deadline")


def test_questions_share_the_workers() -> None:
    async def ask(judge: Judge) -> None:
        answers = await asyncio.gather(*(judge.equal(*pair, timeout=60) for pair in EQUAL))
        assert all(answers)
        assert len(workers()) == 2

    judged(ask, workers=2)


def test_it_works_on_uvloop() -> None:
    async def run() -> bool:
        async with Judge() as judge:
            return await judge.equal(*EQUAL[0], timeout=30)

    assert uvloop.run(run())


def test_a_judge_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="1 or more workers, not 0"):
        Judge(workers=0)


PARENT = """
import asyncio, os, signal, psutil
from aimo2.answers import Judge

async def main():
    async with Judge() as judge:
        await judge.warm()
        print(psutil.Process().children()[0].pid, flush=True)
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
        await judge.equal(r"\\prod_{k=1}^{10^{8}}(1+k)", "73x", timeout=60)

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_worker_dies_with_its_parent() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT], capture_output=True, text=True, check=False
    )
    assert parent.returncode == -9
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(int(parent.stdout))
        psutil.wait_procs([worker], timeout=20)
        assert worker.status() == psutil.STATUS_ZOMBIE


def test_answers_are_grouped_by_value_in_order_of_arrival() -> None:
    answers = ["1/2", r"\sqrt{8}", "0.5", "3", r"2\sqrt{2}", "50%", "3.0", "1/2", "(1,2)", "(2,1)"]
    assert judged(lambda judge: group(answers, judge)) == [0, 1, 0, 3, 1, 0, 3, 0, 8, 9]
    assert judged(lambda judge: group([], judge)) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.fractions(max_denominator=3, min_value=-2, max_value=2), max_size=8))
def test_groups_of_fractions_are_their_values(fractions: list[object]) -> None:
    classes = judged(lambda judge: group([str(fraction) for fraction in fractions], judge))
    assert classes == [fractions.index(fraction) for fraction in fractions]


@pytest.fixture(scope="module")
def hostile_verdicts() -> dict[str, tuple[Verdict, str | None]]:
    async def ask(judge: Judge) -> dict[str, tuple[Verdict, str | None]]:
        return {text: await one(judge, text) for text in hostile.texts()}

    async def one(judge: Judge, text: str) -> tuple[Verdict, str | None]:
        verdict = await judge.verdict(text, "73", timeout=0.2)
        return verdict, (await judge.canonicalise(text, "int", 10**30, timeout=0.2)).value

    return judged(ask)


def test_there_are_two_hundred_hostile_texts() -> None:
    assert len(set(hostile.texts())) >= 200


def test_no_hostile_text_is_accepted(
    hostile_verdicts: dict[str, tuple[Verdict, str | None]],
) -> None:
    accepted = {
        text: result
        for text, result in hostile_verdicts.items()
        if result[0].equal or result[1] == "73"
    }
    assert accepted == {}


def test_hostile_code_is_never_run(
    hostile_verdicts: dict[str, tuple[Verdict, str | None]], tmp_path: Path
) -> None:
    assert hostile_verdicts
    target = tmp_path / "written"
    texts = [text for text in hostile.texts() if "{0}" in text]

    async def ask(judge: Judge) -> None:
        for text in texts:
            await judge.equal(text.replace("{0}", str(target)), "73+x")

    judged(ask)
    assert texts
    assert not target.exists()


@pytest.mark.parametrize("answer_type", ["int", "expr"])
def test_hostile_texts_in_boxes_are_read_in_this_process(answer_type: str) -> None:
    for text in hostile.texts():
        found = extract(f"\\boxed{{{text}}}")
        if found is not None:
            result = canonical(found.raw, answer_type)  # type: ignore[arg-type]
            assert result.value != "73"
