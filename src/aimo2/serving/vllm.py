"""Run a vLLM server in a child process: its flags from the GPU, the model and the load.

Knows flags and reasons of failures; how a child is kept alive is `llama_cpp`'s, what happens
beside it `vllm_child`'s. vLLM itself may live in another environment: `AIMO2_VLLM_PYTHON` names
its interpreter.
"""

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimo2.config import LocalServerConfig
from aimo2.errors import ConfigError
from aimo2.serving.gpu import Card
from aimo2.serving.llama_cpp import LlamaServer, OnEvent

CHILD_COMMAND = (sys.executable, "-P", "-m", "aimo2.serving.vllm_child")
PYTHON_VARIABLE = "AIMO2_VLLM_PYTHON"

_START_SECONDS = 1200.0
"""Weights over a network file system, compilation and graph capture: minutes, not hours."""
_MEMORY_SHARE = 0.90
_LEAST_SEQUENCES = 256
_MANY_STREAMS = 64
_STREAM_INTERVAL = 8
"""Tokens an event where many streams run: the server spends less on events, the client too."""

PRESETS: Mapping[str, Sequence[str]] = {
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

    `model`: a hub name or a folder. `context`: tokens of prompt and reply. `concurrency`: streams
    that are expected. `devices`: indices of its cards; empty leaves the choice to vLLM. `extra`:
    flags as vLLM takes them; they win over ours.
    """

    model: str
    context: int = 8192
    concurrency: int = 256
    devices: tuple[int, ...] = ()
    tensor_parallel: int = 1
    presets: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None


def is_installed(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether vLLM can be started here."""
    return PYTHON_VARIABLE in environment or importlib.util.find_spec("vllm") is not None


def preset_flags(name: str) -> Sequence[str]:
    """The flags of a preset. Raises `ConfigError` for an unknown one."""
    if name.startswith("draft=") and name != "draft=":
        draft = {"model": name.removeprefix("draft="), "num_speculative_tokens": 4}
        return ("--speculative-config", json.dumps(draft))
    if name not in PRESETS:
        raise ConfigError(f"--preset {name} is unknown: take {', '.join(PRESETS)} or draft=MODEL")
    return PRESETS[name]


def flags(config: VllmConfig, cards: Sequence[Card]) -> list[str]:
    """vLLM's flags for a server on these cards, the user's own in place of ours.

    Raises `ConfigError` for an unknown preset.
    """
    length = longest_context(config.model)
    ours: dict[str, str | None] = {
        "--served-model-name": config.model,
        "--max-model-len": str(min(config.context, length) if length else config.context),
        "--max-num-seqs": str(max(_LEAST_SEQUENCES, config.concurrency)),
        "--gpu-memory-utilization": f"{memory_share(cards):.2f}",
        "--enable-prefix-caching": None,
        "--dtype": dtype(cards),
        "--seed": "0",
    }
    if config.concurrency >= _MANY_STREAMS:
        ours["--stream-interval"] = str(_STREAM_INTERVAL)
    if config.tensor_parallel > 1:
        ours["--tensor-parallel-size"] = str(config.tensor_parallel)
        if cards and config.tensor_parallel > len(cards):
            ours["--distributed-executor-backend"] = "ray"
    for name in config.presets:
        chosen = preset_flags(name)
        ours[chosen[0]] = chosen[1]
    given = {_name(flag) for flag in config.extra if flag.startswith("--")}
    kept = [
        part
        for flag, value in ours.items()
        if _name(flag) not in given
        for part in ((flag,) if value is None else (flag, value))
    ]
    return [*kept, *config.extra]


def _name(flag: str) -> str:
    """A flag without its value, its `no-` and its aliases' differences."""
    bare = flag.partition("=")[0].replace("_", "-").replace("--no-", "--")
    return {"--tp": "--tensor-parallel-size", "-tp": "--tensor-parallel-size"}.get(bare, bare)


def memory_share(cards: Sequence[Card]) -> float:
    """Of a card's whole memory: nine tenths of what is free on the fullest one."""
    shares = [card.free_mib / card.total_mib for card in cards if card.total_mib]
    return round(_MEMORY_SHARE * min(shares, default=1.0), 2)


def dtype(cards: Sequence[Card]) -> str:
    """What the model says, but halves where a card has no bfloat16 (before capability 8)."""
    return "half" if any(card.capability < (8, 0) for card in cards) else "auto"


def longest_context(model: str) -> int | None:
    """Tokens that the model was made for, where its folder is here and says so."""
    try:
        config = json.loads((Path(model) / "config.json").read_text())
    except (OSError, ValueError):
        return None
    value = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return value if isinstance(value, int) else None


def environment(config: VllmConfig, key: str | None) -> dict[str, str]:
    """Ours, with the cards and the key; vLLM needs its caches, proxies and tokens."""
    ours = dict(os.environ)
    ours.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # compiles for minutes where it is missing
    ours.setdefault("VLLM_NO_USAGE_STATS", "1")
    if config.devices:
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, config.devices))
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
        start_timeout: float = _START_SECONDS,
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
        self._flags = flags(config, cards)
        self._server_command = command or server_command
        self._key = config.api_key or None

    def _prepare(self) -> None:
        self._log = self._open_log()

    def _request(self, port: int) -> Any:
        config = self._vllm
        command = [*self._server_command(), "--model", config.model, *self._flags]
        return _Request(
            {
                "command": command,
                "environment": environment(config, self._key),
                "host": config.host,
                "port": port or config.port,
                "parent_pid": os.getpid(),
            }
        )

    @property
    def _label(self) -> str:
        return f"{self._vllm.model} with vLLM"

    def _why_not(self, answer: dict[str, str], code: int) -> str:
        if answer.get("error") == "engine":
            return f"vLLM cannot be started ({answer['message']}); see {PYTHON_VARIABLE}"
        said = self.log_tail(400)
        for pattern, mend in _REASONS:
            found = re.search(pattern, said)
            if found:
                return f"vLLM cannot serve {self._vllm.model}: {_short(found[0])}; {mend}"
        errors = re.findall(r"^.*(?:Error|error):.*$", said, re.MULTILINE)
        reason = _short(errors[-1]) if errors else f"exit status {code}"
        return f"vLLM cannot serve {self._vllm.model}: {reason}; {self._log_hint()}"


_REASONS: Sequence[tuple[str, str]] = (
    (r".*CUDA out of memory.*|.*[Nn]o available memory for the cache blocks.*"
     r"|.*Free memory on device.*less than desired.*",
     "take less --context, fewer --concurrent, or --preset fp8"),
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


def _short(line: str) -> str:
    text = " ".join(line.split())
    return text if len(text) <= 240 else text[:240] + "…"


def server_command() -> list[str]:
    """vLLM's OpenAI-compatible server, before its flags."""
    python = os.environ.get(PYTHON_VARIABLE, sys.executable)
    return [python, "-m", "vllm.entrypoints.openai.api_server"]
