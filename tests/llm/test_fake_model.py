"""The scripted model behaves as a server does: limits, stop strings, errors, closing, time."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import DeadlinePassed, ModelUnavailable
from aimo2.llm import Chunk, Conversation, Message, Model, Sampling
from aimo2.llm.fake import Delay, ScriptedModel, Step

ASKED = Conversation((Message("user", "1+1?"),))


def model(*steps: Step) -> ScriptedModel:
    return ScriptedModel(lambda conversation, sampling: steps)


async def drain(
    scripted: Model, sampling: Sampling | None = None, deadline: Deadline = NEVER
) -> list[Chunk]:
    sampling = sampling or Sampling()
    return [chunk async for chunk in scripted.stream(ASKED, sampling, deadline)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_text_comes_one_word_a_chunk_and_ends_with_stop() -> None:
    chunks = asyncio.run(drain(model("The answer", " is 2.\n")))
    assert text_of(chunks) == "The answer is 2.\n"
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.num_tokens == 1 for chunk in chunks[:-1])


@given(st.text())
def test_no_character_is_lost(text: str) -> None:
    assert text_of(asyncio.run(drain(model(text)))) == text


def test_max_tokens_ends_with_length() -> None:
    chunks = asyncio.run(drain(model("a b c d e"), Sampling(max_tokens=3)))
    assert text_of(chunks) == "a b c"
    assert chunks[-1].finish_reason == "length"
    assert sum(chunk.num_tokens for chunk in chunks) == 3


@given(st.lists(st.text("a`o", max_size=3)), st.sampled_from(["```o", "aa", "`a`"]))
def test_stop_strings_cut_the_text_wherever_chunks_split_it(parts: list[str], stop: str) -> None:
    chunks = asyncio.run(
        drain(model(*(Chunk(part, 1) for part in parts)), Sampling(stop=(stop, "never")))
    )
    assert text_of(chunks) == "".join(parts).split(stop)[0]
    assert chunks[-1].finish_reason == "stop"


def test_tokens_and_logprobs_of_held_back_text_are_kept() -> None:
    steps = (Chunk("x`", 1, (-1.0,)), Chunk("`", 1, (-2.0,)), Chunk("y", 1, (-3.0,)))
    chunks = asyncio.run(drain(model(*steps), Sampling(stop=("```",))))
    assert text_of(chunks) == "x``y"
    assert sum(chunk.num_tokens for chunk in chunks) == 3
    assert [value for chunk in chunks for value in chunk.logprobs] == [-1.0, -2.0, -3.0]


def test_candidates_of_held_back_text_are_kept() -> None:
    steps = [Chunk(text, 1, (-1.0,), None, ((-1.0, rank),)) for rank, text in enumerate("xy!")]
    chunks = asyncio.run(drain(model(*steps), Sampling(stop=("xyz",))))
    tops = [top for chunk in chunks for top in chunk.top_logprobs]
    assert tops == [(-1.0, 0), (-1.0, 1), (-1.0, 2)]


def test_an_error_in_the_script_is_raised_at_its_place() -> None:
    async def main() -> None:
        with pytest.raises(ModelUnavailable, match="gone"):
            await drain(scripted)

    scripted = model("one two", ModelUnavailable("gone"), "three")
    asyncio.run(main())
    assert scripted.calls[0].text == "one two"
    assert scripted.calls[0].num_tokens == 2
    assert scripted.calls[0].state == "failed"


def test_the_script_sees_the_conversation_and_the_seed() -> None:
    scripted = ScriptedModel(lambda asked, how: [f"{asked.messages[0].content}{how.seed}"])
    assert text_of(asyncio.run(drain(scripted, Sampling(seed=7)))) == "1+1?7"
    assert scripted.calls[0].conversation is ASKED
    assert scripted.calls[0].state == "finished"


def test_closing_early_is_recorded() -> None:
    async def main() -> None:
        stream = scripted.stream(ASKED, Sampling(), NEVER)
        await anext(stream)
        await stream.aclose()

    scripted = model("one two three four")
    asyncio.run(main())
    assert scripted.calls[0].state == "closed"
    assert scripted.calls[0].text == "one"


def test_cancelling_early_is_recorded() -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        def script(asked: Conversation, how: Sampling) -> Iterator[Step]:
            yield "one"
            waiting.set()
            yield Delay(1000)

        scripted = ScriptedModel(script)
        task = asyncio.create_task(drain(scripted))
        await waiting.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert scripted.calls[0].state == "closed"
        assert scripted.calls[0].text == "one"

    asyncio.run(main())


def test_a_delay_past_the_deadline_ends_at_the_deadline() -> None:
    async def main() -> None:
        with pytest.raises(DeadlinePassed):
            await drain(scripted, deadline=Deadline.after(0.01))

    scripted = model("one", Delay(1000), "two")
    asyncio.run(main())
    assert scripted.calls[0].text == "one"


def test_a_chunk_may_end_the_reply() -> None:
    chunks = asyncio.run(drain(model(Chunk("all", 2, (), "length"), "never")))
    assert chunks == [Chunk("all", 2, (), "length")]
