"""Run a vLLM server in a child process: its flags from the GPU, the model and the load.

Knows flags and reasons of failures; how a child is kept alive is `llama_cpp`'s, what happens
beside it `vllm_child`'s. vLLM itself may live in another environment: `AIMO2_VLLM_PYTHON` names
its interpreter.
"""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from aimo2.config import LocalServerConfig
from aimo2.errors import ConfigError
from aimo2.serving.gpu import Card
from aimo2.serving.llama_cpp import LlamaServer, OnEvent

CHILD_COMMAND = (sys.executable, "-P", "-m", "aimo2.serving.vllm_child")
PYTHON_VARIABLE = "AIMO2_VLLM_PYTHON"

START_SECONDS = 1200.0
"""Weights over a network file system, compilation and graph capture: minutes, not hours."""
_LIST_SECONDS = 10.0
_MEMORY_SHARE = 0.90
_BIG_MIB = 70 * 1024
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    *("model_max_length", "max_sequence_length"),
)
"""Where a model's config.json says how many tokens it was made for; vLLM takes the least."""
_ALIASES = {
    **dict.fromkeys(("-tp", "--tp"), "--tensor-parallel-size"),
    **dict.fromkeys(("-pp", "--pp"), "--pipeline-parallel-size"),
    **dict.fromkeys(("-dp", "--dp"), "--data-parallel-size"),
    "-asc": "--api-server-count",
}
_MANY_STREAMS = 64
_STREAM_INTERVAL = 8
"""Tokens an event where many streams run: the server spends less on events, the client too."""
_NO_ACCESS_LOG = "--disable-uvicorn-access-log"
"""A line for each request is written by the one process that also streams to all clients."""
_MODULE = ("-m", "vllm.entrypoints.openai.api_server")
_CLI = ("-m", "vllm.entrypoints.cli.main", "serve")
_FIND = (
    "import importlib.util, pathlib, sys;"
    " root = pathlib.Path(importlib.util.find_spec('vllm').origin).parent;"
    " text = (root / 'entrypoints/openai/cli_args.py').read_text();"
    " sys.exit(sys.argv[1] not in text)"
)

PRESETS: Mapping[str, tuple[str, str]] = {
    "fp8": ("--quantization", "fp8"),
    "fp8-kv": ("--kv-cache-dtype", "fp8"),
    "awq": ("--quantization", "awq_marlin"),
    "ngram": (
        "--speculative-config",
        json.dumps({"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}),
    ),
}
"""Presets by name; `draft=MODEL` is one more, for a draft model."""


@dataclass(frozen=True, slots=True)
class VllmConfig:
    """One vLLM server.

    `model`: a hub name or a folder. `name`: what clients ask for; empty is `model`. `revision`: of
    the repository. `context`: tokens of prompt and reply. `concurrency`: streams that are expected.
    `devices`: its cards as CUDA_VISIBLE_DEVICES names them; empty leaves the choice to vLLM.
    `sharing`: servers on each of them. `extra`: flags as vLLM takes them; they win over ours.
    """

    model: str
    name: str = ""
    revision: str | None = None
    context: int = 8192
    concurrency: int = 256
    devices: tuple[str, ...] = ()
    sharing: int = 1
    tensor_parallel: int = 1
    presets: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None


def is_installed(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether vLLM can be started here."""
    return PYTHON_VARIABLE in environment or importlib.util.find_spec("vllm") is not None


def preset_flags(name: str) -> tuple[str, str]:
    """The flags of a preset. Raises `ConfigError` for an unknown one."""
    if name.startswith("draft=") and name != "draft=":
        draft = {"model": name.removeprefix("draft="), "num_speculative_tokens": 4}
        return ("--speculative-config", json.dumps(draft))
    if name not in PRESETS:
        raise ConfigError(f"--preset {name} is unknown: take {', '.join(PRESETS)} or draft=MODEL")
    return PRESETS[name]


def flags(
    config: VllmConfig, cards: Sequence[Card], knows: Callable[[str], bool] = lambda flag: False
) -> list[str]:
    """vLLM's flags for a server on these cards, the user's own in place of ours.

    `knows`: whether this vLLM has a flag; asked of those that not every version has. Raises
    `ConfigError` for an unknown preset, and for two that set the same flag.
    """
    ours: dict[str, str | None] = {
        "--served-model-name": config.name or config.model,
        "--max-model-len": str(config.context),
        "--gpu-memory-utilization": f"{memory_share(cards) / config.sharing:.2f}",
        "--enable-prefix-caching": None,
        # Requests say how they are sampled; what they leave open is no business of the model's.
        "--generation-config": "vllm",
        "--dtype": dtype(cards),
        "--seed": "0",
    }
    if config.revision is not None:
        ours["--revision"] = config.revision
    if config.concurrency > usual_sequences(cards):
        ours["--max-num-seqs"] = str(config.concurrency)
    if config.concurrency >= _MANY_STREAMS:
        ours["--stream-interval"] = str(_STREAM_INTERVAL)
        if knows(_NO_ACCESS_LOG):
            ours[_NO_ACCESS_LOG] = None
    if config.tensor_parallel > 1:
        ours["--tensor-parallel-size"] = str(config.tensor_parallel)
    ours |= _preset_flags(config.presets)
    given = {_name(flag) for flag in config.extra if re.match("--?[a-z]", flag)}
    kept = [
        part
        for flag, value in ours.items()
        if _name(flag) not in given
        for part in ((flag,) if value is None else (flag, value))
    ]
    return [*kept, *config.extra]


def _preset_flags(names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        flag, value = preset_flags(name)
        if flag in found:
            raise ConfigError(
                f"--preset {name} and one before it both set {flag}: give one of them"
            )
        found[flag] = value
    return found


def _name(flag: str) -> str:
    """A flag without its value, its `no-` and its aliases' differences."""
    bare = flag.partition("=")[0].replace("_", "-").replace("--no-", "--")
    return _ALIASES.get(bare, bare)


def value_of(flags: Sequence[str], name: str) -> str | None:
    """What a flag is set to, in any of its spellings; the last one counts, as for vLLM."""
    found = None
    for index, part in enumerate(flags):
        if _name(part) == name:
            _, given, value = part.partition("=")
            found = value if given else "".join(flags[index + 1 : index + 2])
    return found


def num_cards(tensor_parallel: int, extra: Sequence[str]) -> int:
    """Cards that one server takes: its tensor, pipeline and data parallel ways multiplied."""
    return (
        _number(extra, "--tensor-parallel-size", tensor_parallel)
        * _number(extra, "--pipeline-parallel-size", 1)
        * _number(extra, "--data-parallel-size", 1)
    )


def num_sequences(config: VllmConfig, cards: Sequence[Card]) -> int:
    """Streams that a server works on at the same time."""
    usual = max(usual_sequences(cards), config.concurrency)
    return _number(config.extra, "--max-num-seqs", usual)


def _number(flags: Sequence[str], name: str, otherwise: int) -> int:
    value = value_of(flags, name) or ""
    return int(value) if value.isdigit() and int(value) else otherwise


def usual_sequences(cards: Sequence[Card]) -> int:
    """vLLM's own `--max-num-seqs` as a server: more on cards of 70 GiB and up, but for the A100."""
    big = all(card.total_mib >= _BIG_MIB and "a100" not in card.name.lower() for card in cards)
    return 1024 if cards and big else 256


def memory_share(cards: Sequence[Card]) -> float:
    """Of a card's whole memory: nine tenths of what is free on the fullest one."""
    shares = [card.free_mib / card.total_mib for card in cards if card.total_mib]
    return round(_MEMORY_SHARE * min(shares, default=1.0), 2)


def dtype(cards: Sequence[Card]) -> str:
    """What the model says, but halves where a card has no bfloat16 (before capability 8)."""
    return "half" if any(card.capability < (8, 0) for card in cards) else "auto"


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model was made for, where its config.json says so.

    Models that see or hear keep it with their language part. Stretched positions (YaRN, linear,
    dynamic) count as vLLM counts them.
    """
    for part in (config.get("text_config"), config.get("llm_config"), config):
        if isinstance(part, Mapping):
            lengths = [part[name] for name in _LENGTHS if isinstance(part.get(name), int)]
            if lengths:
                return _stretched(min(lengths), part)
    return None


def _stretched(length: int, part: Mapping[str, Any]) -> int:
    rope = part.get("rope_scaling") or part.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return length
    kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
    if kind not in ("yarn", "linear", "dynamic") or not isinstance(factor, (int, float)):
        return length
    start = rope.get("original_max_position_embeddings") if kind == "yarn" else None
    return int((start if isinstance(start, int) else length) * factor)


def environment(config: VllmConfig, key: str | None) -> dict[str, str]:
    """Ours, with the cards and the key; vLLM needs its caches, proxies and tokens."""
    ours = dict(os.environ)
    ours.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # compiles for minutes where it is missing
    ours.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.devices:
        if "CUDA_VISIBLE_DEVICES" not in ours:  # the indices are ours, and nvidia-smi's
            ours["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        ours.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(config.devices)
    if key is not None:
        ours["VLLM_API_KEY"] = key
    else:
        ours.pop("VLLM_API_KEY", None)
    return ours


class _Request:
    """What the child is told; `encode` is all that its parent needs."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def encode(self) -> bytes:
        """One JSON line."""
        return json.dumps(self._values).encode() + b"\n"


class VllmServer(LlamaServer):
    """A vLLM server of our own; see `LlamaServer` for its life.

    `command`: the server's own command before its flags, for another program with vLLM's flags.
    """

    def __init__(
        self,
        config: VllmConfig,
        cards: Sequence[Card] = (),
        *,
        on_event: OnEvent = lambda event: None,
        log_dir: Path | None = None,
        start_timeout: float = START_SECONDS,
        grace: float = 10.0,
        max_restarts: int = 1,
        command: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        local = LocalServerConfig(
            model_path=Path(config.model), concurrency=config.concurrency, context=config.context
        )
        super().__init__(
            local,
            on_event=on_event,
            log_dir=log_dir,
            start_timeout=start_timeout,
            grace=grace,
            max_restarts=max_restarts,
            command=CHILD_COMMAND,
        )
        self._vllm = config
        self._flags = flags(config, cards, has_flag if command is None else lambda flag: False)
        self._name = value_of(self._flags, "--served-model-name") or config.model
        self._server_command = command or server_command
        self._key = config.api_key or None

    def _prepare(self) -> None:
        self._log = self._open_log()

    def _request(self, port: int) -> Any:
        config = self._vllm
        command = whole_command(self._server_command(), config.model, self._flags)
        return _Request(
            {
                "command": command,
                "environment": environment(config, self._key),
                "host": config.host,
                "port": port or config.port,
                "only_that_port": config.port != 0,
                "parent_pid": os.getpid(),
            }
        )

    @property
    def _label(self) -> str:
        return f"{self._name} with vLLM"

    async def _see_that_it_is_ours(self) -> None:
        """Two servers can be bound to one port (SO_REUSEPORT): ours knows its name."""
        if self._name not in await _served_names(self._address, self._key):
            raise self._error(
                f"at {self._address} answers a server that does not have {self._name}: "
                "take another --port"
            )

    def _late(self) -> str:
        return (
            f"vLLM was not ready within {self._start_timeout:g} s with {self._name}: fetch it "
            f"first with `aimo2 models pull`, give more --start-timeout, or {self._log_hint()}"
        )

    def _why_not(self, answer: dict[str, str], code: int) -> str:
        if answer.get("error") == "port":
            return f"port {answer['message']}: take another --port"
        if answer.get("error") == "engine":
            return f"vLLM cannot be started ({answer['message']}); see {PYTHON_VARIABLE}"
        said = self.log_tail(400)
        for pattern, mend in _REASONS:
            found = re.search(pattern, said)
            if found:
                return f"vLLM cannot serve {self._name}: {_short(found[0])}; {mend}"
        errors = re.findall(r"^.*(?:Error|error):.*$", said, re.MULTILINE)
        reason = _short(errors[-1]) if errors else f"exit status {code}"
        return f"vLLM cannot serve {self._name}: {reason}; {self._log_hint()}"


_REASONS: Sequence[tuple[str, str]] = (
    (r".*CUDA out of memory.*|.*[Nn]o available memory for the cache blocks.*"
     r"|.*Free memory on device.*less than desired.*",
     "take less --context, fewer --concurrent, or --preset fp8"),
    (r".*greater than the derived max_model_len.*", "take less --context"),
    (r".*is not a local folder and is not a valid model identifier.*|.*Repository Not Found.*"
     r"|.*[Cc]an't load the configuration of.*|.*LocalEntryNotFoundError.*"
     r"|.*couldn't connect to .* to load the files.*",
     "check its name, or fetch it first with `aimo2 models pull`"),
    (r".*[Uu]nknown quantization method.*|.*[Qq]uantization method .* (?:does not match|is not).*",
     "leave --preset away, or take other weights"),
    (r".*unrecognized arguments:.*|.*error: argument .*", "mend the flags behind --"),
    (r".*[Aa]ddress already in use.*", "take another --port"),
    (r".*No module named '?vllm.*", f"install it, or name its interpreter in {PYTHON_VARIABLE}"),
    (r".*(?:No CUDA GPUs are available|Failed to infer device type|no NVIDIA driver).*",
     "a GPU is needed: take --engine llama.cpp"),
)  # fmt: skip
"""What vLLM's log says, and the mend."""


async def _served_names(address: str, key: str | None) -> list[str]:
    """What the server at `address` lists as its models; empty where it does not say."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIST_SECONDS)) as session,
            session.get(f"{address}/v1/models", headers=headers) as reply,
        ):
            listed = await reply.json(content_type=None)
            return [str(entry["id"]) for entry in listed["data"]]
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
        return []


def _short(line: str) -> str:
    text = " ".join(line.split())
    return text if len(text) <= 240 else text[:240] + "…"


def server_command() -> list[str]:
    """vLLM's OpenAI-compatible server, before its flags."""
    return [_python(), *_MODULE]


def whole_command(head: Sequence[str], model: str, flags: Sequence[str]) -> list[str]:
    """The server's command with its flags.

    Several processes that speak HTTP (`--api-server-count`) are what `vllm serve` starts; the
    module, which is started otherwise, takes the flag and does nothing with it.
    """
    count = value_of(flags, "--api-server-count")
    if count not in (None, "1") and tuple(head[1:]) == _MODULE:
        return [head[0], *_CLI, model, *flags]
    return [*head, "--model", model, *flags]


def _python() -> str:
    return os.environ.get(PYTHON_VARIABLE, sys.executable)


def has_flag(flag: str) -> bool:
    """Whether the vLLM that would be started has a flag of its HTTP server; not if unsure.

    Its source is looked at, which takes milliseconds where importing it takes many seconds.
    """
    return _has_flag(_python(), flag.removeprefix("--").replace("-", "_"))


@functools.cache
def _has_flag(python: str, name: str) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", _FIND, name], capture_output=True, timeout=_LIST_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
