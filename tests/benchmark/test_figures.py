"""Figures from calls whose tokens arrived at known instants."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.benchmark.figures import (
    Code,
    Figures,
    Machine,
    code_of,
    judged,
    limiting,
    measure,
    prefix_hits,
    quantile,
    speed,
    spread,
)
from aimo2.benchmark.meter import Call, Cell
from aimo2.llm import PromptUse


def call(begun: float, *arrivals: tuple[float, int], state: str = "finished") -> Call:
    last = arrivals[-1][0] if arrivals else begun
    return Call(
        begun,
        last,
        state,  # type: ignore[arg-type]
        "boom" if state == "failed" else "",
        None,
        array("d", [instant for instant, _ in arrivals]),
        array("l", [count for _, count in arrivals]),
    )


def figures(*calls: Call, begin: float = 0, end: float = 10) -> Figures:
    return measure(calls, begin, end, workload="decode", concurrent=2, limit=8)


def test_only_tokens_of_the_window_count() -> None:
    seen = figures(call(-1, (-0.5, 7), (1, 3), (9, 2), (11, 5)))
    assert seen.num_tokens == 5
    assert seen.tokens_per_second == 0.5


def test_slices_add_up_to_the_whole() -> None:
    seen = figures(call(0, (0.0, 4), (4.9, 6), (10.0, 10)))
    assert sum(seen.slices) * 1.0 == pytest.approx(20)
    assert seen.slices[0] == 4
    assert seen.slices[-1] == 10


def test_a_steady_rate_has_no_error_and_a_burst_has_one() -> None:
    steady = figures(call(0, *[(0.5 + second, 10) for second in range(10)]))
    burst = figures(call(0, (5.5, 100)))
    assert steady.standard_error == 0
    assert burst.standard_error > 5


def test_time_to_the_first_token_is_from_the_request() -> None:
    seen = figures(call(1, (1.5, 1)), call(2, (2.7, 1)))
    assert seen.first_token is not None
    assert seen.first_token.median == pytest.approx(0.6)


def test_a_read_of_many_tokens_counts_as_many_gaps() -> None:
    # Nine tokens together after 0.9 s, then one after 10 s: nine gaps of 0.1 s and one of 10 s.
    seen = figures(call(0, (1, 1), (1.9, 9), (11.9, 1)), end=20)
    assert seen.between_tokens is not None
    assert seen.between_tokens.median == pytest.approx(0.1)
    assert seen.between_tokens.p99 == pytest.approx(10)


def test_dropped_tokens_are_not_useful_and_no_tokens_are_not_useless() -> None:
    calls = [call(0, (1, 8))]
    options = {"workload": "tir", "concurrent": 1, "limit": 8}
    assert measure(calls, 0, 10, **options, dropped=2).useful_share == 0.75  # type: ignore[arg-type]
    assert measure(calls, 0, 10, **options).useful_share == 1  # type: ignore[arg-type]
    assert measure([], 0, 10, **options, dropped=2).useful_share == 1  # type: ignore[arg-type]


def test_code_is_what_ended_in_the_window_and_its_share_counts_what_is_open() -> None:
    cells = [
        Cell(begun=-3, ended=-1, seconds=2, done=True),
        Cell(begun=1, ended=3, seconds=1.5, done=True, failed=True),
        Cell(begun=-1, ended=2, seconds=3, done=True),
        Cell(begun=9),
    ]
    code = code_of(cells, [call(0, (5, 1)), Call(begun=8)], 0, 10)
    assert (code.num_runs, code.num_failed, code.running, code.waiting) == (2, 1, 4.5, 0.5)
    assert code.share == pytest.approx(5 / (5 + 7))
    assert code_of([], [call(0, (5, 1))], 0, 10).share == 0


def test_the_speed_of_a_stream_leaves_its_first_read_out() -> None:
    assert speed(call(0, (5, 8), (6, 8), (7, 8))) == 8
    assert speed(call(0, (5, 8))) is None


def test_failures_are_counted_and_one_is_told() -> None:
    seen = figures(call(0, (1, 1)), call(0, (2, 1), state="failed"))
    assert (seen.num_calls, seen.num_failed, seen.failure) == (2, 1, "boom")


def test_an_empty_window_is_an_error_and_an_empty_load_is_not() -> None:
    with pytest.raises(ValueError, match="empty"):
        figures(begin=3, end=3)
    assert figures().tokens_per_second == 0
    assert figures().first_token is None


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1))
def test_quantiles_lie_between_the_ends_and_grow(values: list[float], share: float) -> None:
    ordered = sorted(values)
    assert ordered[0] <= quantile(ordered, share) <= ordered[-1]
    assert quantile(ordered, share) <= quantile(ordered, 1)
    found = spread(values)
    assert found is not None
    assert found.median <= found.p99


def seen_by(machine: Machine, code: Code | None = None, slots: int = 1) -> tuple[str, str]:
    found = figures(call(0, (1, 1))).model_copy(update={"machine": machine, "code": code})
    return limiting(found, slots=slots)


@pytest.mark.parametrize(
    ("machine", "code", "limit"),
    [
        (Machine(client_cpu=0.97), None, "client"),
        (Machine(client_cpu=0.6, stall_p99=0.3), None, "client"),
        (Machine(client_cpu=0.2), Code(num_runs=9, num_failed=0, running=1, waiting=5, share=0.3),
         "sandbox"),
        (Machine(client_cpu=0.2), Code(num_runs=9, num_failed=0, running=9, waiting=1, share=0.6),
         "sandbox"),
        (Machine(client_cpu=0.2, most_waiting=7), None, "engine"),
        (Machine(client_cpu=0.2), None, "engine"),
        (Machine(client_cpu=0.2, stall_p99=0.3), None, "engine"),
        (Machine(client_cpu=0.2, gpu_busy=0.97), None, "engine"),
    ],
)  # fmt: skip
def test_what_limits_follows_from_what_was_busy(
    machine: Machine, code: Code | None, limit: str
) -> None:
    found, why = seen_by(machine, code)
    assert found == limit
    assert why


def test_an_idle_gpu_with_free_slots_asks_for_more_load() -> None:
    assert seen_by(Machine(client_cpu=0.1, gpu_busy=0.3), slots=256)[0] == "load"
    others = Machine(client_cpu=0.1, gpu_busy=0.3, other_cards=True)
    assert seen_by(others, slots=256)[0] == "unknown"


def test_a_busy_gpu_alone_does_not_tell_engine_from_load() -> None:
    assert seen_by(Machine(client_cpu=0.1, gpu_busy=0.99), slots=256)[0] == "unknown"


def test_a_sweep_tells_engine_from_load() -> None:
    rates = {1: 260, 16: 5_400, 100: 21_400, 256: 22_400, 512: 23_300}  # one H100, 1.5B
    sweep = [
        figures(call(0, (1, rate))).model_copy(
            update={"concurrent": streams, "machine": Machine(client_cpu=0.2, gpu_busy=0.99)}
        )
        for streams, rate in rates.items()
    ]
    limits = [each.limit for each in judged(sweep, 512)]
    assert limits == ["load", "load", "engine", "engine", "engine"]
    assert judged(sweep[:2], 512)[1].limit == "load"
    assert [each.limit for each in judged([sweep[1], sweep[4]], 512)] == ["load", "engine"]
    assert judged(sweep, 512)[0].why == "16 streams gave 20.77 times the tokens of 1"
    other = sweep[1].model_copy(update={"workload": "tir"})
    assert judged([sweep[0], other], 512)[0].limit == "unknown"


def test_the_error_of_no_slices_is_unknown() -> None:
    assert math.isnan(figures().model_copy(update={"slices": ()}).standard_error)


def test_prefix_hits_are_over_the_prompts_that_ended_in_the_window_and_were_told() -> None:
    calls = [
        Call(begun=0, ended=1, prompt=PromptUse(100, 80)),
        Call(begun=0, ended=2, prompt=PromptUse(300, 0)),
        Call(begun=0, ended=9, prompt=PromptUse(50, 50)),
        Call(begun=0, ended=2),
    ]
    assert prefix_hits(calls, 0, 5) == pytest.approx(0.2)
    assert prefix_hits(calls[3:], 0, 5) is None
