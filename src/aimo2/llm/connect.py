"""Find out at start-up which model a server has and where its chat template is.

Knows no replies. Asks the server first, then the model's own files, on disk or on the hub.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token, try_to_load_from_cache

from aimo2.deadline import Deadline
from aimo2.errors import ConfigError, RequestRejected
from aimo2.llm import Message
from aimo2.llm.template import (
    Ask,
    JinjaTemplate,
    LlamaCppTemplate,
    Template,
    TokenizeTemplate,
    opens_thinking,
    tokenizer_template,
)
from aimo2.llm.transport import Transport

_HUB_SECONDS = 5.0
"""An unreachable hub must not hold up a start."""
_TOKENIZER_FILES = ("tokenizer_config.json", "chat_template.jinja")
_TRIAL = (Message("system", "Be brief."), Message("user", "1+1?"))


@dataclass(frozen=True, slots=True)
class Served:
    """One model as `GET /models` lists it.

    `source`: the repository or folder that it was loaded from, where the server says so.
    `context_length`: tokens of prompt and reply together; `None` where the server does not say.
    """

    name: str
    owner: str
    source: str
    context_length: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """A template and, for people, where it was found. `thinks`: it begins each reply's thinking."""

    template: Template
    origin: str
    thinks: bool


async def served_model(transport: Transport, wanted: str | None, deadline: Deadline) -> Served:
    """The model to use: the one asked for, or the first.

    Raises `ConfigError` where the server does not have it; `ModelError` as `Transport.get` does.
    """
    try:
        answer = await transport.get("models", deadline)
    except RequestRejected as error:
        if wanted is not None and getattr(error, "status", None) in (404, 405):
            return Served(wanted, "", wanted, None)  # some proxies serve models but list none
        raise
    entries = [entry for entry in _entries(answer) if isinstance(entry.get("id"), str)]
    if not entries:
        raise ConfigError(f"{transport.where} lists no models: load one, or name it with --model")
    for entry in entries:
        if wanted is None or wanted in (entry["id"], *(entry.get("aliases") or ())):
            return _served(entry)
    names = [entry["id"] for entry in entries]
    raise ConfigError(f"{transport.where} has no model {wanted!r}, {_offer(str(wanted), names)}")


async def find_template(
    transport: Transport, ask: Ask, served: Served, deadline: Deadline
) -> Found | None:
    """The model's chat template: the server's own first, then that of the model's files."""
    return (
        await _from_llama_cpp(transport, ask, deadline)
        or await _from_tokenize(ask, served, deadline)
        or await _from_files(transport, served, deadline)
    )


async def context_length(transport: Transport, served: Served, deadline: Deadline) -> int | None:
    """The context window: what the model list says, or llama.cpp's `/props` a slot."""
    if served.context_length is not None:
        return served.context_length
    settings = (await _props(transport, deadline)).get("default_generation_settings")
    value = settings.get("n_ctx") if isinstance(settings, dict) else None
    return value if isinstance(value, int) else None


async def _from_llama_cpp(transport: Transport, ask: Ask, deadline: Deadline) -> Found | None:
    template = LlamaCppTemplate(ask)
    if prompt := await _rendered(template, deadline):
        return Found(template, "the server's /apply-template", opens_thinking(prompt))
    source = (await _props(transport, deadline)).get("chat_template")
    if isinstance(source, str) and source:
        own = JinjaTemplate(source)
        thinks = opens_thinking(await _rendered(own, deadline))
        return Found(own, "the server's /props", thinks)
    return None


async def _from_tokenize(ask: Ask, served: Served, deadline: Deadline) -> Found | None:
    template = TokenizeTemplate(ask, served.name)
    try:
        exact = await template.is_exact(_TRIAL, deadline)
    except RequestRejected:
        return None
    if not exact:
        return None
    thinks = opens_thinking(await _rendered(template, deadline))
    return Found(template, "the server's /tokenize", thinks)


async def _from_files(transport: Transport, served: Served, deadline: Deadline) -> Found | None:
    for source in dict.fromkeys((served.source, served.name)):
        origin, files = _local_files(source)
        if not files and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            origin = f"{source} on the hub"
            files = await _hub_files(transport, source, deadline)
        template = tokenizer_template(files)
        if template is not None and (prompt := await _rendered(template, deadline)):
            return Found(template, origin, opens_thinking(prompt))
    return None


def _local_files(source: str) -> tuple[str, dict[str, bytes]]:
    """The tokenizer files of a model folder, or of the hub's cache here."""
    folder = Path(source)
    if source and folder.is_dir():
        paths = {name: folder / name for name in _TOKENIZER_FILES}
        origin = "the model's folder"
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        found = {name: try_to_load_from_cache(source, name) for name in _TOKENIZER_FILES}
        paths = {name: Path(path) for name, path in found.items() if isinstance(path, str)}
        origin = f"{source} in the hub's cache"
    else:
        return "", {}
    return origin, {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


async def _hub_files(transport: Transport, repository: str, deadline: Deadline) -> dict[str, bytes]:
    """The tokenizer files of a repository on the hub; nothing where it cannot be reached.

    Not with `hf_hub_download`: without a hub it tries for 23 s (measured) and cannot be stopped.
    """
    files: dict[str, bytes] = {}
    if constants.HF_HUB_OFFLINE:
        return files
    soon = deadline.within(_HUB_SECONDS)
    for name in _TOKENIZER_FILES:
        url = f"{constants.ENDPOINT}/{repository}/resolve/main/{name}"
        content = await transport.fetch(url, get_token(), soon)
        if content is not None:
            files[name] = content
    return files


async def _rendered(template: Template, deadline: Deadline) -> str:
    """A short conversation as the template has it; empty where it has none."""
    try:
        return await template.render(_TRIAL, deadline)
    except (RequestRejected, ConfigError):
        return ""


async def _props(transport: Transport, deadline: Deadline) -> Mapping[str, Any]:
    try:
        answer = await transport.get("props", deadline, root=True)
    except RequestRejected:
        return {}
    return answer if isinstance(answer, dict) else {}


def _entries(answer: Any) -> list[dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else answer
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _served(entry: Mapping[str, Any]) -> Served:
    meta = entry.get("meta") or {}
    length = entry.get("max_model_len") or meta.get("n_ctx")
    return Served(
        name=entry["id"],
        owner=str(entry.get("owned_by") or ""),
        source=str(entry.get("root") or ""),
        context_length=length if isinstance(length, int) else None,
    )


def _offer(wanted: str, names: list[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=8, cutoff=0.3) or names[:8]
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    return f"only {', '.join(near)}{more}: name one of them with --model"
