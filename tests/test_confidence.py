"""The meter agrees with the definitions, however the tokens arrive, and forks by copying."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.confidence import BOTTOM_SHARE, SHORT_WINDOW, WINDOW, ConfidenceMeter
from aimo2.llm import Chunk

LOGPROBS = st.floats(-30, 0)
TOKENS = st.lists(
    st.lists(LOGPROBS, min_size=2, max_size=20).map(lambda top: tuple(sorted(top, reverse=True))),
    max_size=300,
)
WINDOWS = st.sampled_from([1, 3, 64, WINDOW])


def fed(
    tokens: Sequence[tuple[float, ...]], window: int, cuts: Sequence[int] = ()
) -> ConfidenceMeter:
    meter = ConfidenceMeter(window)
    marks = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    for start, end in pairwise(marks):
        part = tuple(tokens[start:end])
        meter.take(Chunk("", len(part), tuple(top[0] for top in part), None, part))
    return meter


def windows(values: Sequence[float], size: int) -> list[float]:
    """All means of `size` values in a row; the mean of all where there are fewer."""
    if len(values) < size:
        return [sum(values) / len(values)]
    return [sum(values[at : at + size]) / size for at in range(len(values) - size + 1)]


def close(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9)


@settings(deadline=None)
@given(TOKENS, WINDOWS, st.lists(st.integers(0, 300), max_size=5))
def test_every_figure_is_what_its_definition_says(
    tokens: list[tuple[float, ...]], window: int, cuts: list[int]
) -> None:
    stats = fed(tokens, window, cuts).stats()
    if not tokens:
        assert stats is None
        return
    assert stats is not None
    logprobs = [top[0] for top in tokens]
    confidences = [-sum(top) / len(top) for top in tokens]
    means = windows(confidences, window)
    lowest = sorted(means)[: max(1, int(len(means) * BOTTOM_SHARE))]
    entropies = [-sum(math.exp(each) * each for each in top[:5]) for top in tokens]
    assert stats.num_tokens == len(tokens)
    assert close(stats.mean_logprob, sum(logprobs) / len(logprobs))
    assert close(stats.tail_logprob, sum(logprobs[-WINDOW:]) / len(logprobs[-WINDOW:]))
    assert close(stats.min_window_logprob, min(windows(logprobs, SHORT_WINDOW)))
    assert close(stats.confidence, sum(confidences) / len(confidences))
    assert close(stats.tail_confidence, sum(confidences[-WINDOW:]) / len(confidences[-WINDOW:]))
    assert close(stats.bottom_confidence, sum(lowest) / len(lowest))
    assert close(stats.min_confidence, min(means))
    assert close(stats.entropy, sum(entropies) / len(entropies))


@settings(deadline=None)
@given(TOKENS, TOKENS, TOKENS, WINDOWS)
def test_a_copy_goes_on_by_itself(
    shared: list[tuple[float, ...]],
    left: list[tuple[float, ...]],
    right: list[tuple[float, ...]],
    window: int,
) -> None:
    parent = fed(shared, window)
    child = parent.copy()
    for meter, rest in ((parent, left), (child, right)):
        for top in rest:
            meter.take(Chunk("", 1, (top[0],), None, (top,)))
    assert parent.stats() == fed([*shared, *left], window).stats()
    assert child.stats() == fed([*shared, *right], window).stats()


def test_long_traces_keep_their_precision() -> None:
    sure, unsure = (-0.1, -6.0), (-1.0, -1.5)
    tokens = [sure] * 50_000 + [unsure] * WINDOW + [sure] * 3_000
    stats = fed(tokens, WINDOW).stats()
    assert stats is not None
    assert close(stats.min_confidence, 1.25)
    assert close(stats.tail_confidence, 3.05)


def test_without_candidates_only_the_logprobs_are_known() -> None:
    meter = ConfidenceMeter()
    meter.take(Chunk("ab", 2, (-0.5, -1.5)))
    stats = meter.stats()
    assert stats is not None
    assert (stats.mean_logprob, stats.confidence, stats.entropy) == (-1.0, None, None)
    assert meter.window_confidence is None
    assert meter.min_confidence is None


def test_without_logprobs_nothing_is_known() -> None:
    meter = ConfidenceMeter()
    meter.take(Chunk("ab", 2))
    assert meter.stats() is None


def test_a_window_counts_only_when_it_is_whole() -> None:
    meter = ConfidenceMeter(window=2)
    meter.take(Chunk("", 1, (-1.0,), None, ((-1.0, -3.0),)))
    assert meter.window_confidence is None
    meter.take(Chunk("", 1, (-1.0,), None, ((-1.0, -1.0),)))
    assert meter.window_confidence == pytest.approx(1.5)
    meter.take(Chunk("", 1, (-1.0,), None, ((-3.0, -3.0),)))
    assert meter.window_confidence == pytest.approx(2.0)
    assert meter.min_confidence == pytest.approx(1.5)


def test_the_newest_tokens_entropy_shows_a_spike() -> None:
    meter = ConfidenceMeter()
    assert meter.last_entropy is None
    even = math.log(0.5)
    meter.take(Chunk("", 1, (even,), None, ((even, even),)))
    assert meter.last_entropy == pytest.approx(math.log(2))
