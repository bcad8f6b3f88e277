"""Chat templates render as the model's own tools render them."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
import pytest

from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ConfigError, RequestRejected
from aimo2.llm import Message
from aimo2.llm.template import (
    CHATML,
    CachedTemplate,
    JinjaTemplate,
    LlamaCppTemplate,
    Template,
    TokenizeTemplate,
    continued,
    tokenizer_template,
)

ASKED = (Message("system", "Be brief."), Message("user", "1 < 2?"))


def render(template: Template) -> str:
    return asyncio.run(template.render(ASKED, NEVER))


def test_chatml_is_the_format_of_qwen() -> None:
    assert render(JinjaTemplate(CHATML)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n1 < 2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("prompt", "reply", "text"),
    [
        ("<|assistant|>", "<think>\nso", "<|assistant|><think>\nso"),
        ("<|assistant|><think>\n", "<think>\nso", "<|assistant|><think>\nso"),
        ("<|assistant|><think>", "<think>\nso", "<|assistant|><think>\nso"),
        (
            "<|assistant|><think>\n",
            "<think>\n\n</think>\n\n",
            "<|assistant|><think>\n\n</think>\n\n",
        ),
        ("<|assistant|><think>\n", "so", "<|assistant|><think>\nso"),
        ("is <think> good?\n", "<think>so", "is <think> good?\n<think>so"),
        ("", "", ""),
    ],
)
def test_thinking_is_opened_once(prompt: str, reply: str, text: str) -> None:
    assert continued(prompt, reply) == text


def test_blocks_are_trimmed_as_in_transformers() -> None:
    source = (
        "{% for m in messages %}\n"
        "    {% if true %}\n"
        "{{ m.content }};\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
    )
    assert render(JinjaTemplate(source)) == "Be brief.;\n1 < 2?;\n"


def test_the_names_that_templates_use_are_there() -> None:
    source = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}"
        "{{ strftime_now('%Y') }}{{ eos_token }}"
    )
    template = JinjaTemplate(source, {"eos_token": "</s>"})
    year = datetime.now().year
    assert render(template) == f'{{"role":"user","content":"1 < 2?"}}{year}</s>'


def test_the_server_s_own_beginning_token_is_not_doubled() -> None:
    template = JinjaTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
    assert render(template) == "Be brief."


def test_a_template_may_ask_for_tools_and_documents_and_gets_none() -> None:
    source = "{% if tools is none and documents is none %}none{% endif %}"
    assert render(JinjaTemplate(source)) == "none"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system message, please') }}",
        "{% for %}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_cannot_be_used_names_the_flag(source: str) -> None:
    with pytest.raises(ConfigError, match="--chat-template"):
        render(JinjaTemplate(source))


def config(value: Mapping[str, Any]) -> dict[str, bytes]:
    return {"tokenizer_config.json": orjson.dumps(value)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (config({"chat_template": "A{{ eos_token }}", "eos_token": "!"}), "A!"),
        (config({"chat_template": "A{{ eos_token }}", "eos_token": {"content": "!"}}), "A!"),
        (
            config(
                {
                    "chat_template": [
                        {"name": "tool_use", "template": "T"},
                        {"name": "default", "template": "D"},
                    ]
                }
            ),
            "D",
        ),
        (config({"chat_template": "old"}) | {"chat_template.jinja": b"new"}, "new"),
        ({"chat_template.jinja": b"alone"}, "alone"),
    ],
)
def test_a_tokenizer_s_template_is_found(files: dict[str, bytes], expected: str) -> None:
    template = tokenizer_template(files)
    assert template is not None
    assert render(template) == expected


@pytest.mark.parametrize("files", [{}, config({}), {"tokenizer_config.json": b"{oops"}])
def test_a_tokenizer_may_have_no_template(files: dict[str, bytes]) -> None:
    assert tokenizer_template(files) is None


class Server:
    """Answers `/apply-template`, `/tokenize` and `/detokenize`; `lossy` drops a space."""

    def __init__(self, *, lossy: bool = False) -> None:
        self.lossy = lossy
        self.asked: list[str] = []

    async def ask(self, path: str, body: Mapping[str, Any], deadline: Deadline) -> Any:
        self.asked.append(path)
        if path == "apply-template":
            return {"prompt": body["messages"][-1]["content"]}
        if path == "tokenize":
            text = body.get("prompt") or " " + body["messages"][-1]["content"]
            return {"tokens": [ord(character) for character in text]}
        text = "".join(map(chr, body["tokens"]))
        return {"prompt": text.lstrip() if self.lossy else text}


def test_llama_cpp_renders_itself() -> None:
    assert render(LlamaCppTemplate(Server().ask)) == "1 < 2?"


def test_tokens_become_text_again() -> None:
    assert render(TokenizeTemplate(Server().ask, "m")) == " 1 < 2?"


@pytest.mark.parametrize("lossy", [False, True])
def test_text_that_becomes_other_tokens_is_noticed(lossy: bool) -> None:
    template = TokenizeTemplate(Server(lossy=lossy).ask, "m")
    assert asyncio.run(template.is_exact(ASKED, NEVER)) is not lossy


def test_an_answer_of_another_shape_is_a_rejection() -> None:
    async def ask(path: str, body: Mapping[str, Any], deadline: Deadline) -> Any:
        return {"tokens": "none"}

    with pytest.raises(RequestRejected, match="'prompt'"):
        render(LlamaCppTemplate(ask))
    with pytest.raises(RequestRejected, match="'tokens'"):
        render(TokenizeTemplate(ask, "m"))


def test_the_oldest_prompt_is_forgotten_first() -> None:
    server = Server()
    template = CachedTemplate(LlamaCppTemplate(server.ask), size=2)

    async def main() -> None:
        for content in ("a", "b", "a", "c", "a", "b"):
            prompt = await template.render((Message("user", content),), NEVER)
            assert prompt == content

    asyncio.run(main())
    assert len(server.asked) == 4  # a, b, c and b again
