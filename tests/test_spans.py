from hypothesis import given
from hypothesis import strategies as some

from aimo2.config import SamplingConfig
from aimo2.llm import Chunk
from aimo2.llm.fake import ScriptedModel
from aimo2.spans import LARGEST_SURPRISE, SpanMeter
from tests.scripted import config, run_rollout


def spans_of(*chunks: Chunk, kept: int = 1000) -> tuple[tuple[int, int], ...] | None:
    meter = SpanMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter.spans(kept)


def test_a_span_a_piece_with_its_mean_surprise() -> None:
    assert spans_of(Chunk("abc", 1, (-0.5,)), Chunk("de", 2, (-1.0, -3.0))) == ((3, 50), (2, 200))
    assert spans_of(Chunk("a", 1, (-99.0,))) == ((1, LARGEST_SURPRISE),)


def test_text_that_comes_apart_from_its_probabilities_stays_with_them() -> None:
    parts = (Chunk("", 1, (-1.0,)), Chunk("ab", 1, (-2.0,)), Chunk("c", 0), Chunk("", 0))
    assert spans_of(*parts) == ((3, 150),)


def test_text_without_any_probability_has_no_spans() -> None:
    assert spans_of(Chunk("a", 1), Chunk("b", 1, (-1.0,))) is None
    assert spans_of() is None


@given(some.lists(some.tuples(some.text(max_size=4), some.booleans()), max_size=12), some.data())
def test_spans_cover_what_was_kept_and_no_more(
    pieces: list[tuple[str, bool]], data: some.DataObject
) -> None:
    chunks = [Chunk(text, 1, (-0.1,) if known else ()) for text, known in pieces]
    total = sum(len(text) for text, _ in pieces)
    kept = data.draw(some.integers(0, total))
    found = spans_of(*chunks, kept=kept)
    if found is not None:
        assert sum(length for length, _ in found) == kept


def scripted() -> ScriptedModel:
    chunks = [Chunk("So ", 1, (-0.2,)), Chunk("\\boxed{42}", 4, (-1.0,) * 4), Chunk(" tail", 1, ())]
    return ScriptedModel(lambda conversation, sampling: chunks)


def test_a_trace_has_spans_only_where_they_were_asked_for() -> None:
    asked = config(sampling=SamplingConfig(logprobs=True, token_spans=True))
    (turn,) = run_rollout(scripted(), asked).trace.turns
    assert turn.token_spans is not None
    assert turn.token_spans[0] == (3, 20)
    assert sum(length for length, _ in turn.token_spans) == len(turn.text)
    (turn,) = run_rollout(scripted(), config(sampling=SamplingConfig(logprobs=True))).trace.turns
    assert turn.token_spans is None
