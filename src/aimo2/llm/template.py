"""Turn messages into the text that a model was trained on. Knows no reply and no sampling.

A template is rendered by the server that owns it, or here from its Jinja source, in a sandbox and
with the names that `transformers.apply_chat_template` gives it.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, Protocol

import jinja2
import orjson
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aimo2.deadline import Deadline
from aimo2.errors import ConfigError, RequestRejected
from aimo2.llm import Message

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The format of Qwen and many others; a fallback that the user must ask for."""

_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template's own expressions raise."""

Ask = Callable[[str, Mapping[str, Any], Deadline], Awaitable[Any]]
"""POST a JSON object to a path under the server's root; returns the JSON answer."""


class Template(Protocol):
    """Renders messages up to where the assistant's reply begins."""

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """The prompt; raises `ModelError`, and `ConfigError` for a template that cannot be used."""
        ...


_THINK = "<think>"


def continued(prompt: str, reply: str) -> str:
    """A rendered prompt with the reply so far behind it.

    Some templates begin the reply with `<think>` themselves. A reply that starts with it, too,
    then gives its own up: a second one would confuse the model.
    """
    if reply.startswith(_THINK) and opens_thinking(prompt):
        reply = reply.removeprefix(_THINK)
        space = prompt[len(prompt.rstrip()) :]
        reply = reply.removeprefix(space)
    return prompt + reply


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt has begun the reply's thinking."""
    return prompt.rstrip().endswith(_THINK)


def as_json(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as the chat APIs take them."""
    return [{"role": message.role, "content": message.content} for message in messages]


@dataclass(frozen=True)
class JinjaTemplate:
    """A template rendered here.

    `special_tokens`: names such as `bos_token` with their text. A beginning-of-sequence token is
    left out at the start, because a server adds it to every prompt.
    """

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """See `Template.render`; needs no time."""
        try:
            text = self._compiled.render(
                messages=as_json(messages),
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self.special_tokens,
            )
        except _TEMPLATE_ERRORS as error:
            raise ConfigError(
                f"the chat template cannot render these messages ({error}): "
                "give another one with --chat-template"
            ) from error
        return text.removeprefix(self.special_tokens.get("bos_token", ""))

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment().from_string(self.source)


class LlamaCppTemplate:
    """llama.cpp's `/apply-template`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """See `Template.render`."""
        answer = await self._ask("apply-template", {"messages": as_json(messages)}, deadline)
        return _text(answer, "prompt")


class TokenizeTemplate:
    """vLLM's `/tokenize` with messages, made text again by `/detokenize`."""

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask = ask
        self._model = model

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """See `Template.render`."""
        tokens = await self._tokenize({"messages": as_json(messages)}, deadline)
        answer = await self._ask("detokenize", {"model": self._model, "tokens": tokens}, deadline)
        return _text(answer, "prompt")

    async def is_exact(self, messages: Sequence[Message], deadline: Deadline) -> bool:
        """Whether the text of these messages becomes the same tokens again."""
        tokens = await self._tokenize({"messages": as_json(messages)}, deadline)
        text = await self.render(messages, deadline)
        return bool(tokens) and tokens == await self.tokens_of(text, deadline)

    async def tokens_of(self, prompt: str, deadline: Deadline, *, plain: bool = True) -> list[int]:
        """The tokens of a rendered prompt; `plain`: without any that the server would add."""
        asked = {"prompt": prompt, "add_special_tokens": not plain}
        return await self._tokenize(asked, deadline)

    async def _tokenize(self, asked: Mapping[str, Any], deadline: Deadline) -> list[int]:
        answer = await self._ask("tokenize", {"model": self._model, **asked}, deadline)
        return list(_value(answer, "tokens", list))


class LearnedTemplate:
    """Another template, learned from what it renders: most put the contents between fixed parts.

    A server renders a template in one or two requests for each problem, which costs it as much as
    the prompt itself. So the first prompt of each sequence of roles is rendered twice, once with
    marks for contents; where putting the contents in the place of the marks gives the same text,
    later prompts are made here. Contents with spaces at their ends, which templates may strip, are
    always left to the other template.
    """

    def __init__(self, inner: Template) -> None:
        self._inner = inner
        self._parts: dict[tuple[str, ...], list[str] | None] = {}

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """See `Template.render`."""
        roles = tuple(message.role for message in messages)
        plain = all(
            message.content and message.content == message.content.strip() for message in messages
        )
        parts = self._parts.get(roles)
        if plain and parts is not None:
            return _joined(parts, messages)
        prompt = await self._inner.render(messages, deadline)
        if plain and roles not in self._parts:
            self._parts[roles] = await self._learn(messages, prompt, deadline)
        return prompt

    async def _learn(
        self, messages: Sequence[Message], prompt: str, deadline: Deadline
    ) -> list[str] | None:
        """The text around the contents; `None` where that does not explain the prompt."""
        marks = [f"mark{index}x{index * 7919 + 104729}" for index in range(len(messages))]
        marked = [
            Message(message.role, mark) for message, mark in zip(messages, marks, strict=True)
        ]
        rest, parts = await self._inner.render(marked, deadline), []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                return None
            parts.append(before)
        parts.append(rest)
        return parts if _joined(parts, messages) == prompt else None


def _joined(parts: Sequence[str], messages: Sequence[Message]) -> str:
    contents = [message.content for message in messages]
    pieces = [piece for pair in zip(parts, contents, strict=False) for piece in pair]
    return "".join(pieces) + parts[-1]


class CachedTemplate:
    """Remembers what another template rendered: all rollouts of a problem share their messages."""

    def __init__(self, inner: Template, size: int = 1024) -> None:
        self._inner = inner
        self._size = size
        self._prompts: OrderedDict[tuple[Message, ...], str] = OrderedDict()

    async def render(self, messages: Sequence[Message], deadline: Deadline) -> str:
        """See `Template.render`."""
        key = tuple(messages)
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = await self._inner.render(messages, deadline)
            self._prompts[key] = prompt
        self._prompts.move_to_end(key)
        if len(self._prompts) > self._size:
            self._prompts.popitem(last=False)
        return prompt


def tokenizer_template(files: Mapping[str, bytes]) -> JinjaTemplate | None:
    """The template in a tokenizer's files, given by name; `None` where there is none.

    `chat_template.jinja` comes before the `chat_template` of `tokenizer_config.json`, as in
    transformers; of several named templates the one called "default" counts.
    """
    config = _json_object(files.get("tokenizer_config.json"))
    source = files.get("chat_template.jinja")
    template = source.decode(errors="replace") if source else _named_template(config)
    return None if template is None else JinjaTemplate(template, _special_tokens(config))


def _json_object(data: bytes | None) -> dict[str, Any]:
    try:
        value = orjson.loads(data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _named_template(config: Mapping[str, Any]) -> str | None:
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _text(answer: Any, key: str) -> str:
    return str(_value(answer, key, str))


def _value(answer: Any, key: str, kind: type) -> Any:
    value = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise RequestRejected(
            f"the server's answer has no {key!r}: give the template with --chat-template"
        )
    return value


class _Generation(Extension):
    """`{% generation %}` marks the assistant's tokens for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja's way to name an extension's tags

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
