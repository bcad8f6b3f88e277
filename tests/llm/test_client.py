"""The client against a server in this process: what it sends, reads, repeats and gives up."""

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import (
    ConfigError,
    ContextFull,
    DeadlinePassed,
    ModelUnavailable,
    RequestRejected,
    ServerError,
)
from aimo2.llm import Chunk, Conversation, Message, Sampling
from aimo2.llm.client import ClientLimits, Endpoint, OpenAIModel
from aimo2.llm.template import CHATML, as_json
from tests.llm.fake_server import ASSISTANT, REPLY, Break, Fail, FakeServer, Knobs, chatml

T = TypeVar("T")
ASKED = (Message("system", "Be brief."), Message("user", "How many divisors has 20!?"))
ALL = Sampling(max_tokens=100, seed=3, logprobs=1)
QUICK = ClientLimits(backoff=0.0)
NUM_PIECES = -(-len(REPLY) // 3)


async def drain(
    model: OpenAIModel, sampling: Sampling = ALL, reply: str = "", deadline: Deadline = NEVER
) -> list[Chunk]:
    return [chunk async for chunk in model.stream(Conversation(ASKED, reply), sampling, deadline)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def tokens_of(chunks: list[Chunk]) -> int:
    return sum(chunk.num_tokens for chunk in chunks)


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


@pytest.mark.parametrize("flavour", ["llamacpp", "vllm"])
@pytest.mark.parametrize("logprobs", ["openai", "chat"])
def test_a_reply_comes_whole_with_its_tokens_and_logprobs(flavour: Any, logprobs: Any) -> None:
    async def main() -> list[Chunk]:
        async with (
            FakeServer(Knobs(flavour=flavour, logprobs=logprobs)) as server,
            OpenAIModel(server.url) as model,
        ):
            return await drain(model)

    chunks = run(main())
    assert text_of(chunks) == REPLY
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].finish_reason == "stop"
    assert tokens_of(chunks) == NUM_PIECES + 1  # the end-of-text token is sampled too
    logprob_sum = sum(value for chunk in chunks for value in chunk.logprobs)
    assert logprob_sum == pytest.approx(-len(REPLY) / 8)


@pytest.mark.parametrize("chat_only", [False, True])
@pytest.mark.parametrize("logprobs", ["openai", "chat"])
def test_top_candidates_come_with_each_token(logprobs: Any, chat_only: bool) -> None:
    async def main() -> list[Chunk]:
        knobs = Knobs(logprobs=logprobs, chat_only=chat_only)
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            return await drain(model, Sampling(max_tokens=100, logprobs=3))

    tops = [top for chunk in run(main()) for top in chunk.top_logprobs]
    assert len(tops) == NUM_PIECES
    assert all(len(top) == 3 and top == (top[0], top[0] - 1, top[0] - 2) for top in tops)
    assert sum(top[0] for top in tops) == pytest.approx(-len(REPLY) / 8)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4))
def test_any_split_of_the_bytes_gives_the_same_text(size: int, tokens_per_event: int) -> None:
    async def main() -> list[Chunk]:
        knobs = Knobs(write_size=size, tokens_per_event=tokens_per_event)
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            return await drain(model, Sampling(max_tokens=100))

    chunks = run(main())
    assert text_of(chunks) == REPLY
    assert tokens_of(chunks) == NUM_PIECES + 1


@pytest.mark.parametrize("knobs", [Knobs(), Knobs(flavour="vllm"), Knobs(chat_only=True)])
def test_a_reply_continues_exactly_where_it_was_cut(knobs: Knobs) -> None:
    async def main() -> None:
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            for cut in (1, 5, 9):
                start = text_of(await drain(model, Sampling(max_tokens=cut)))
                assert start == REPLY[: 3 * cut]
                assert start + text_of(await drain(model, reply=start)) == REPLY
            assert model.features.exact_continuation

    run(main())


def test_the_sampling_is_sent() -> None:
    async def main() -> dict[str, Any]:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await drain(model, Sampling(0.5, 0.9, 0.05, 77, ("```output",), 2**31 + 5, 2))
            return server.completions[0].body

    body = run(main())
    assert body["stop"] == ["```output"]
    assert body["seed"] == 5  # the same request again, in the range that all servers take
    wanted = {"temperature": 0.5, "top_p": 0.9, "min_p": 0.05, "max_tokens": 77, "logprobs": 2}
    assert wanted.items() <= body.items()


@pytest.mark.parametrize(
    ("flavour", "top_k", "sent"),
    [
        ("vllm", None, {"top_k": -1, "repetition_penalty": 1.0}),
        ("vllm", 0, {"top_k": -1, "repetition_penalty": 1.0}),
        ("sglang", 20, {"top_k": 20, "repetition_penalty": 1.0}),
        ("llamacpp", None, {}),
        ("llamacpp", 0, {"top_k": 0}),
        ("cloud", None, {}),
        ("cloud", 20, {"top_k": 20}),
    ],
)
def test_no_server_samples_by_settings_that_nobody_asked_for(
    flavour: Any, top_k: int | None, sent: dict[str, float]
) -> None:
    async def main() -> dict[str, Any]:
        async with (
            FakeServer(Knobs(flavour=flavour)) as server,
            OpenAIModel(server.url, chat_template=CHATML) as model,
        ):
            await drain(model, Sampling(max_tokens=100, top_k=top_k))
            return server.completions[-1].body

    body = run(main())
    assert {name: body[name] for name in ("top_k", "repetition_penalty") if name in body} == sent


@pytest.mark.parametrize(
    ("flavour", "wanted", "sent"),
    [
        ("vllm", None, False),
        ("vllm", True, True),
        ("llamacpp", None, True),
        ("cloud", False, False),
    ],
)
def test_seeds_are_sent_where_they_cost_nothing_or_are_asked_for(
    flavour: Any, wanted: bool | None, sent: bool
) -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(flavour=flavour)) as server,
            OpenAIModel(server.url, chat_template=CHATML, request_seeds=wanted) as model,
        ):
            await drain(model)
            assert ("seed" in server.completions[-1].body) == sent
            assert any("--request-seeds" in line for line in model.features.reduced) != sent

    run(main())


def test_a_check_sees_whether_the_server_still_has_the_model() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await model.check(None, NEVER)  # connects
            assert model.name == "fake"
            await model.check("fake", NEVER)
            server.knobs.models = ("other",)
            with pytest.raises(ConfigError, match="no model 'fake', only other"):
                await model.check("fake", NEVER)
            await model.check("other", NEVER)
            assert model.name == "other"
            server.knobs.hung = True
            with pytest.raises(DeadlinePassed):
                await model.check("other", Deadline.after(0.05))

    run(main())


def test_a_stop_string_ends_the_reply_and_is_no_part_of_it() -> None:
    async def main() -> list[Chunk]:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            return await drain(model, Sampling(stop=(" is ",)))

    chunks = run(main())
    assert text_of(chunks) == REPLY.partition(" is ")[0]
    assert chunks[-1].finish_reason == "stop"


def test_the_token_limit_ends_the_reply() -> None:
    async def main() -> list[Chunk]:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            return await drain(model, Sampling(max_tokens=4))

    chunks = run(main())
    assert (text_of(chunks), tokens_of(chunks)) == (REPLY[:12], 4)
    assert chunks[-1].finish_reason == "length"


@pytest.mark.parametrize("how", ["drop", "end", "error"])
def test_a_broken_reply_is_taken_up_where_it_ended(how: Any) -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(5, how), Break(0, how), Break(7, how)]
            chunks = await drain(model)
            assert text_of(chunks) == REPLY
            assert tokens_of(chunks) == NUM_PIECES + 1
            bodies = [request.body for request in server.completions]
            kept = bodies[-1]["prompt"].rpartition(ASSISTANT)[2]
            assert REPLY.startswith(kept)
            assert bodies[-1]["max_tokens"] == 100 - len(kept) // 3
            assert model.counters.num_retries == 3
            assert model.counters.num_continuations >= 1

    run(main())


def test_a_reply_that_breaks_at_its_last_token_ends_with_length() -> None:
    async def main() -> list[Chunk]:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(4, "end")]
            return await drain(model, Sampling(max_tokens=4))

    chunks = run(main())
    assert text_of(chunks) == REPLY[:12]
    assert chunks[-1].finish_reason == "length"


def test_a_finished_reply_needs_no_done_event() -> None:
    async def main() -> list[Chunk]:
        async with FakeServer(Knobs(sends_done=False)) as server, OpenAIModel(server.url) as model:
            return await drain(model)

    assert text_of(run(main())) == REPLY


@pytest.mark.parametrize("status", [429, 500, 503])
def test_overload_is_tried_again(status: int) -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Fail(status)] * 3
            assert text_of(await drain(model)) == REPLY
            assert len(server.completions) == 4

    run(main())


def test_overload_for_good_is_given_up() -> None:
    async def main() -> None:
        limits = ClientLimits(backoff=0.0, max_retries=2)
        async with FakeServer() as server, OpenAIModel(server.url, limits=limits) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Fail(503, {"error": {"message": "too busy"}})] * 9
            with pytest.raises(ModelUnavailable, match=r"answered 503: too busy"):
                await drain(model)
            assert len(server.completions) == 3

    run(main())


def test_a_pause_past_the_deadline_is_not_begun() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Fail(429, "slow down", {"Retry-After": "60"})] * 9
            with pytest.raises(ModelUnavailable, match="slow down"):
                await drain(model, deadline=Deadline.after(30))
            assert len(server.completions) == 1

    run(main())


def test_a_bad_request_is_not_tried_again() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Fail(400, {"error": {"message": "temperature must be < 2"}})]
            with pytest.raises(RequestRejected, match="temperature must be < 2"):
                await drain(model)
            assert len(server.completions) == 1

    run(main())


def test_closing_the_stream_hangs_up() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(2, "stall")]
            async with aclosing(model.stream(Conversation(ASKED), ALL, NEVER)) as chunks:
                await anext(chunks)
            async with asyncio.timeout(10):
                await server.hung_up.wait()

    run(main())


def test_cancelling_the_task_hangs_up() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(2, "stall")]
            began = asyncio.Event()

            async def read() -> None:
                async for _ in model.stream(Conversation(ASKED), ALL, NEVER):
                    began.set()

            task = asyncio.create_task(read())
            async with asyncio.timeout(10):
                await began.wait()
                task.cancel()
                await server.hung_up.wait()
            assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is (
                asyncio.CancelledError
            )

    run(main())


@pytest.mark.parametrize("how", ["stall", "silent"])
def test_the_deadline_ends_a_silent_stream_and_hangs_up(how: Any) -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(2, how)]
            with pytest.raises(DeadlinePassed):
                await drain(model, deadline=Deadline.after(0.1))
            async with asyncio.timeout(10):
                await server.hung_up.wait()

    run(main())


def test_a_silent_stream_counts_as_broken() -> None:
    async def main() -> None:
        limits = ClientLimits(backoff=0.0, idle=0.05)
        async with FakeServer() as server, OpenAIModel(server.url, limits=limits) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(2, "stall")]
            assert text_of(await drain(model)) == REPLY
            assert model.counters.num_continuations == 1

    run(main())


def test_a_server_that_came_back_elsewhere_is_found() -> None:
    async def main() -> None:
        async with FakeServer() as first, FakeServer() as second:
            urls = [first.url]
            waited: list[Deadline] = []

            async def restart(deadline: Deadline) -> None:
                waited.append(deadline)
                urls[0] = second.url

            async with OpenAIModel(
                lambda: Endpoint(urls[0]), limits=QUICK, on_unavailable=restart
            ) as model:
                await model.connect(NEVER)
                first.knobs.breaks = [Break(6, "drop")]
                assert text_of(await drain(model)) == REPLY
                assert waited == [NEVER]
                assert len(second.completions) == 1

    run(main())


def test_a_server_that_cannot_be_restarted_is_reported() -> None:
    async def main() -> None:
        async def restart(deadline: Deadline) -> None:
            raise ServerError("died twice")

        async with (
            FakeServer() as server,
            OpenAIModel(server.url, limits=QUICK, on_unavailable=restart) as model,
        ):
            await model.connect(NEVER)
            server.knobs.breaks = [Break(6, "drop")]
            with pytest.raises(ModelUnavailable, match="died twice"):
                await drain(model)

    run(main())


def test_waiting_for_a_restart_ends_at_the_deadline() -> None:
    async def main() -> None:
        async def restart(deadline: Deadline) -> None:
            await asyncio.Event().wait()

        async with (
            FakeServer() as server,
            OpenAIModel(server.url, limits=QUICK, on_unavailable=restart) as model,
        ):
            await model.connect(NEVER)
            server.knobs.breaks = [Break(0, "drop")]
            with pytest.raises(DeadlinePassed):
                await drain(model, deadline=Deadline.after(0.1))

    run(main())


def test_a_full_context_is_told_apart() -> None:
    async def main() -> None:
        async with FakeServer(Knobs(context=80)) as server, OpenAIModel(server.url) as model:
            with pytest.raises(ContextFull):
                await drain(model)
            assert model.context_length == 80

    run(main())


@pytest.mark.parametrize("flavour", ["vllm", "sglang"])
def test_the_token_limit_is_fitted_into_the_context(flavour: Any) -> None:
    async def main() -> None:
        template = None if flavour == "vllm" else CHATML
        async with (
            FakeServer(Knobs(flavour=flavour, context=150)) as server,
            OpenAIModel(server.url, chat_template=template) as model,
        ):
            chunks = await drain(model)
            prompt = len(server.completions[-1].body["prompt"])
            assert server.completions[-1].body["max_tokens"] == 150 - prompt
            assert text_of(chunks) == REPLY

    run(main())


@pytest.mark.parametrize("words", ["at least", "exact"])
@pytest.mark.parametrize("mode", ["raw", "chat"])
def test_vllm_s_words_for_a_limit_that_does_not_fit_are_understood(words: Any, mode: Any) -> None:
    async def main() -> None:
        knobs = Knobs(flavour="vllm", context=350, overflow=words)
        async with (
            FakeServer(knobs) as server,
            OpenAIModel(server.url, chat_template=CHATML, mode=mode) as model,
        ):
            assert text_of(await drain(model, Sampling(max_tokens=1000))) == REPLY
            room = server.completions[-1].body["max_tokens"]
            exact = words == "exact" or mode == "raw"
            used = len(chatml(as_json(ASKED)))
            assert room == (350 - used if exact else 349 // 2)

    run(main())


@pytest.mark.parametrize("flavour", ["vllm", "sglang"])
def test_a_prompt_that_fills_the_context_is_a_full_context(flavour: Any) -> None:
    async def main() -> None:
        template = None if flavour == "vllm" else CHATML
        async with (
            FakeServer(Knobs(flavour=flavour, context=90)) as server,
            OpenAIModel(server.url, chat_template=template) as model,
        ):
            with pytest.raises(ContextFull):
                await drain(model)

    run(main())


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    async def main() -> None:
        knobs = Knobs(busy={"/v1/models": 5, "/v1/completions": 2})
        async with FakeServer(knobs) as server, OpenAIModel(server.url, limits=QUICK) as model:
            assert (await model.connect(NEVER)).mode == "raw"

    run(main())


def test_a_template_that_is_busy_is_asked_again() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.busy["/apply-template"] = 2
            assert text_of(await drain(model)) == REPLY
            assert model.counters.num_retries == 2

    run(main())


def test_an_older_llama_cpp_gives_its_template_and_context_in_props() -> None:
    async def main() -> None:
        props = {"chat_template": CHATML, "default_generation_settings": {"n_ctx": 512}}
        knobs = Knobs(flavour="cloud", files={"/props": orjson.dumps(props)})
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            assert text_of(await drain(model)) == REPLY
            assert model.features.template == "the server's /props"
            assert model.context_length == 512

    run(main())


def test_a_server_that_lists_nothing_needs_a_name() -> None:
    async def main() -> None:
        async with FakeServer(Knobs(models=())) as server, OpenAIModel(server.url) as model:
            with pytest.raises(ConfigError, match="--model"):
                await model.connect(NEVER)

    run(main())


def test_a_client_that_was_not_connected_says_so() -> None:
    model = OpenAIModel("http://127.0.0.1:1/v1")
    with pytest.raises(RuntimeError, match="connect"):
        _ = model.features
    with pytest.raises(RuntimeError, match="async with"):
        run(model.connect(NEVER))


def test_waiting_for_another_s_connection_ends_at_the_deadline() -> None:
    async def main() -> None:
        async with FakeServer(Knobs(busy={"/v1/models": 99})) as server:
            limits = ClientLimits(backoff=100.0, max_backoff=100.0)
            async with OpenAIModel(server.url, limits=limits) as model:
                first = asyncio.create_task(model.connect(NEVER))
                async with asyncio.timeout(10):
                    await server.asked.wait()
                with pytest.raises(DeadlinePassed):
                    await model.connect(Deadline.after(0.02))
                first.cancel()

    run(main())


@pytest.mark.parametrize("name", ["min_p", "seed", "logprobs", "stream_options", "top_logprobs"])
def test_a_refused_option_is_left_out_from_then_on(name: str) -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", chat_only=True, refuses=(name,))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            num_trials = len(server.requests)
            assert text_of(await drain(model)) == REPLY
            assert len(server.requests) == num_trials + 1
            assert name not in server.completions[-1].body

    run(main())


def test_features_name_what_was_refused() -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", chat_only=True, refuses=("min_p", "seed", "logprobs"))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            found = await model.connect(NEVER)
            assert (found.mode, found.min_p, found.seed, found.logprobs) == (
                "chat",
                False,
                False,
                False,
            )
            assert not found.exact_continuation
            told = " ".join(found.reduced)
            assert all(word in told for word in ("min-p", "seed", "log-prob", "new message"))

    run(main())


def test_a_server_without_stop_strings_is_stopped_by_the_client() -> None:
    async def main() -> None:
        knobs = Knobs(chat_only=True, refuses=("stop",))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            chunks = await drain(model, Sampling(max_tokens=100, stop=("because",)))
            assert text_of(chunks) == REPLY.partition("because")[0]
            assert chunks[-1].finish_reason == "stop"

    run(main())


@pytest.mark.parametrize(
    "said",
    [
        "This model does not support assistant message prefill.",
        "Expected last role User or Tool (or Assistant with prefix True) but got assistant",
        "prefill not supported: the conversation must end with a user message",
    ],
)
def test_a_server_that_takes_no_begun_reply_is_asked_to_go_on(said: str) -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", chat_only=True, no_prefill=said)
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            num_trials = len(server.requests)
            await drain(model, reply=REPLY[:6])
            assert len(server.requests) == num_trials + 1
            *_, reply, last = server.requests[-1].body["messages"]
            assert (reply["content"], last["role"]) == (REPLY[:6], "user")

    run(main())


def test_the_new_name_of_the_token_limit_is_found() -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", chat_only=True, refuses=("max_tokens",))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            chunks = await drain(model, Sampling(max_tokens=4))
            assert text_of(chunks) == REPLY[:12]

    run(main())


def test_a_broken_chat_that_cannot_be_continued_is_not_begun_again() -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", chat_only=True)
        async with FakeServer(knobs) as server, OpenAIModel(server.url, limits=QUICK) as model:
            await model.connect(NEVER)
            server.knobs.breaks = [Break(3, "drop")]
            with pytest.raises(ModelUnavailable, match="cannot be continued"):
                await drain(model)
            assert len(server.completions) == 1

    run(main())


def test_the_user_s_template_comes_before_the_server_s() -> None:
    async def main() -> None:
        template = "{{ messages[-1].content }}|" + "{{ '<|im_start|>assistant\n' }}"
        async with (
            FakeServer() as server,
            OpenAIModel(server.url, chat_template=template) as model,
        ):
            await drain(model)
            assert server.completions[0].body["prompt"].startswith("How many divisors has 20!?|")
            assert model.features.template == "--chat-template"

    run(main())


@pytest.mark.parametrize("flavour", ["llamacpp", "vllm", "cloud"])
@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_template_that_opens_the_thinking_is_seen(flavour: Any, opening: str) -> None:
    async def main() -> None:
        template = CHATML.replace("assistant\n", f"assistant\n{opening}")
        chosen = template if flavour == "cloud" else None
        async with (
            FakeServer(Knobs(flavour=flavour, begins=opening)) as server,
            OpenAIModel(server.url, chat_template=chosen) as model,
        ):
            features = await model.connect(NEVER)
            assert features.mode == "raw"
            assert features.opens_thinking is bool(opening)

    run(main())


def test_the_template_is_asked_for_once_a_problem() -> None:
    async def main() -> None:
        async with FakeServer() as server, OpenAIModel(server.url) as model:
            await model.connect(NEVER)
            for _ in range(3):
                await drain(model)
            paths = [request.path for request in server.requests]
            # One at start-up; for these messages one, and one to learn the text around them.
            assert paths.count("/apply-template") == 3

    run(main())


def test_raw_mode_without_a_template_names_the_flag() -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(flavour="cloud")) as server,
            OpenAIModel(server.url, mode="raw") as model,
        ):
            with pytest.raises(ConfigError, match="--chat-template"):
                await model.connect(NEVER)

    run(main())


def test_chatml_makes_a_server_without_template_raw() -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(flavour="cloud")) as server,
            OpenAIModel(server.url, chat_template=CHATML) as model,
        ):
            assert text_of(await drain(model)) == REPLY
            assert model.features.mode == "raw"

    run(main())


def test_an_unknown_model_lists_the_served_ones() -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(models=("qwen-7b", "llama-8b"))) as server,
            OpenAIModel(server.url, model="qwen-72b") as model,
        ):
            with pytest.raises(ConfigError, match=r"qwen-7b.*--model"):
                await model.connect(NEVER)

    run(main())


@pytest.mark.parametrize(
    ("wanted", "name"), [(None, "first"), ("second", "second"), ("second-alias", "second")]
)
def test_the_model_is_the_one_asked_for_or_the_first(wanted: str | None, name: str) -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(models=("first", "second"))) as server,
            OpenAIModel(server.url, model=wanted) as model,
        ):
            await drain(model)
            assert model.name == name
            assert server.completions[0].body["model"] == name

    run(main())


def test_nobody_there_is_said_soon_with_the_url() -> None:
    async def main() -> None:
        async with FakeServer() as server:
            url = server.url
        async with OpenAIModel(url, limits=QUICK) as model:
            with pytest.raises(ModelUnavailable, match=r"cannot reach http://127.*--base-url"):
                await model.connect(NEVER)

    run(main())


def test_a_wrong_url_is_said_with_the_flag() -> None:
    async def main() -> None:
        async with (
            FakeServer() as server,
            OpenAIModel(server.url.removesuffix("/v1") + "/other/v1") as model,
        ):
            with pytest.raises(RequestRejected, match=r"404.*--base-url"):
                await model.connect(NEVER)

    run(main())


def test_a_web_page_is_no_server() -> None:
    async def main() -> None:
        knobs = Knobs(files={"/v1/models": b"<html>hello</html>"})
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            with pytest.raises(RequestRejected, match=r"not answer in JSON.*--base-url"):
                await model.connect(NEVER)

    run(main())


def test_the_template_of_the_model_s_repository_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        path = "/someone/model-7b/resolve/main/chat_template.jinja"
        knobs = Knobs(flavour="cloud", models=("someone/model-7b",), files={path: CHATML.encode()})
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            monkeypatch.setattr(constants, "ENDPOINT", server.url.removesuffix("/v1"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            assert text_of(await drain(model)) == REPLY
            assert model.features.template == "someone/model-7b on the hub"

    run(main())


def test_an_unreachable_hub_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with FakeServer() as gone:
            monkeypatch.setattr(constants, "ENDPOINT", gone.url.removesuffix("/v1"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        knobs = Knobs(flavour="cloud", models=("someone/model-7b",))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            found = await model.connect(NEVER)
            assert found.mode == "chat"
            assert "--chat-template" in found.reduced[0]

    run(main())


def test_a_server_that_does_not_stream_is_refused() -> None:
    async def main() -> None:
        knobs = Knobs(files={"/v1/chat/completions": b"<html>"})
        async with FakeServer(knobs) as server, OpenAIModel(server.url, mode="chat") as model:
            with pytest.raises(RequestRejected, match="instead of a stream"):
                await model.connect(NEVER)

    run(main())


def test_the_hub_is_not_asked_when_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        knobs = Knobs(flavour="cloud", models=("someone/model-7b",))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            monkeypatch.setattr(constants, "ENDPOINT", server.url.removesuffix("/v1"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
            assert (await model.connect(NEVER)).mode == "chat"
            assert not [request for request in server.requests if "resolve" in request.path]

    run(main())


def test_the_template_of_a_local_model_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(orjson.dumps({"chat_template": CHATML}))

    async def main() -> None:
        knobs = Knobs(flavour="cloud", models=(str(tmp_path),))
        async with FakeServer(knobs) as server, OpenAIModel(server.url) as model:
            assert text_of(await drain(model)) == REPLY
            assert model.features.template == "the model's folder"

    run(main())


def test_the_key_is_sent_but_never_shown() -> None:
    async def main() -> None:
        async with FakeServer(Knobs(key="sk-right")) as server:
            endpoint = Endpoint(server.url, "sk-right")
            async with OpenAIModel(endpoint) as model:
                assert text_of(await drain(model)) == REPLY
            assert "sk-right" not in repr(endpoint) + repr(model)
            async with OpenAIModel(Endpoint(server.url, "sk-wrong")) as model:
                with pytest.raises(RequestRejected, match="--api-key-env") as caught:
                    await model.connect(NEVER)
            assert "sk-wrong" not in str(caught.value) + repr(caught.value.__dict__)
            async with OpenAIModel(server.url) as model:
                with pytest.raises(RequestRejected, match="a key is needed"):
                    await model.connect(NEVER)

    run(main())


def test_streams_side_by_side_do_not_mix() -> None:
    async def main() -> None:
        async with (
            FakeServer(Knobs(write_size=11)) as server,
            OpenAIModel(server.url) as model,
        ):
            starts = [REPLY[:at] for at in range(0, 30, 3)]
            replies = await asyncio.gather(*(drain(model, reply=start) for start in starts))
            ends = [text_of(chunks) for chunks in replies]
            assert [start + end for start, end in zip(starts, ends, strict=True)] == [REPLY] * 10
            trials = [r for r in server.requests if r.body.get("prompt") == "1"]
            assert len(trials) == 1

    run(main())
