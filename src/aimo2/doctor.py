"""Look at the machine and say what would keep `aimo2` from working, each with a mend.

Every check has two halves: one looks (at packages, the disk, a process, the network), one judges
what was seen and is pure. Knows no terminal, fetches nothing and changes nothing.
"""

import asyncio
import contextlib
import os
import platform
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import aimo2
from aimo2.config import ServerConfig
from aimo2.deadline import Deadline
from aimo2.errors import Aimo2Error, ServerError, SetupError
from aimo2.llm.client import Endpoint, OpenAIModel
from aimo2.llm.features import Features
from aimo2.sandbox.forkserver import probe
from aimo2.sandbox.report import LayerReport
from aimo2.serving import machine
from aimo2.serving.catalogue import CATALOGUE, DEFAULT_MODEL, HubFile, ModelFile
from aimo2.serving.llama_cpp import describe_engine
from aimo2.serving.machine import Gpu
from aimo2.serving.store import ModelStore, default_home

Status = Literal["ok", "warn", "fail"]

LIBRARIES = (
    *("xllamacpp", "aiohttp", "math-verify", "sympy", "mpmath", "numpy", "scipy", "networkx"),
    *("pydantic", "huggingface-hub", "typer", "rich"),
)
"""Distributions whose version changes what a solve does."""

_SERVER_SECONDS = 15.0
_HUB_SECONDS = 5.0
_SPARE_BYTES = 100 * 10**6
"""Beside a model: logs, answers and a download's scratch files."""
_RUNNING_BYTES = 400 * 10**6
"""Memory beside a model's weights: one slot's cache and the engine's buffers."""
_OLDEST_PYTHON = (3, 11)
_SHARED_GPU_ENGINES = ("CUDA", "ROCm", "Vulkan", "Metal", "SYCL")


@dataclass(frozen=True, slots=True)
class Check:
    """What one look came to.

    `ok`: nothing to do. `warn`: a solve works, with less than it could have. `fail`: it does not.
    `detail`: one line of facts. `mend`: what to do about it; always there unless `ok`.
    """

    name: str
    status: Status
    detail: str
    mend: str | None = None

    def __post_init__(self) -> None:
        if self.status != "ok" and not self.mend:
            raise ValueError(f"{self.name}: a problem without a mend")


async def examine(server: ServerConfig | None = None) -> tuple[Check, ...]:
    """Every check, in the order in which one would mend.

    `server`: a server to use in place of our own engine; what only that engine needs can then be
    a warning at worst. Takes seconds, at most about half a minute. Raises nothing for a problem.
    """
    ours = server is None
    looks: list[Callable[[], Check | None]] = [
        check_python,
        check_libraries,
        lambda: _soften(check_engine(), ours),
        check_processor,
        lambda: _soften(check_memory(), ours),
        lambda: check_gpus(ours),
        lambda: _soften(check_home(ModelStore(default_home())), ours),
        lambda: _soften(check_models(ModelStore(default_home())), ours),
        check_hub,
    ]
    waiting: list[Any] = [asyncio.to_thread(look) for look in looks]
    waiting.append(check_sandbox())
    if server is not None:
        waiting.append(check_server(server))
    return tuple(check for check in await asyncio.gather(*waiting) if check is not None)


def check_python() -> Check:
    """The interpreter and the system."""
    return judge_python(sys.version_info[:2], f"{platform.python_version()}, {sys.platform}")


def judge_python(running: tuple[int, int], detail: str) -> Check:
    """`running`: major and minor version."""
    detail = f"aimo2 {aimo2.__version__}, Python {detail}, {platform.machine()}"
    if running < _OLDEST_PYTHON:
        return Check("python", "fail", detail, "install Python 3.11 or newer")
    if sys.platform == "win32":
        mend = "use WSL or a Linux container: the sandbox needs Unix processes"
        return Check("python", "fail", detail, mend)
    return Check("python", "ok", detail)


def check_libraries() -> Check:
    """The versions of what we are built on."""
    return judge_libraries({name: _version(name) for name in LIBRARIES})


def judge_libraries(versions: Mapping[str, str | None]) -> Check:
    """`versions`: by distribution; `None` where it is not installed."""
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        detail = f"not installed: {', '.join(missing)}"
        return Check("libraries", "fail", detail, "install aimo2 again, with `uv sync`")
    return Check(
        "libraries", "ok", ", ".join(f"{name} {found}" for name, found in versions.items())
    )


def check_engine() -> Check:
    """Whether xllamacpp can be imported, asked of a process of its own."""
    try:
        described = describe_engine()
    except ServerError as error:
        return Check("engine", "fail", str(error), "install aimo2 again, or give --base-url")
    devices = ", ".join(device["description"] for device in described["devices"])
    return Check("engine", "ok", f"xllamacpp {described['version']} on {devices or 'no device'}")


def check_processor() -> Check:
    """Cores that we may use, and the instructions that the engine is built for."""
    return judge_processor(
        machine.cpu_name(), machine.usable_cores(), os.cpu_count() or 1, machine.has_avx2()
    )


def judge_processor(name: str, cores: int, cpus: int, avx2: bool | None) -> Check:
    """`cores`: physical ones that we may use; `cpus`: logical ones of the machine."""
    known = {None: "", True: ", AVX2", False: ", no AVX2"}[avx2]
    detail = f"{name}: {cores} of its cores for us ({cpus} threads in all){known}"
    if avx2 is False:
        mend = "the embedded engine will be slow or not start: give --base-url of a server"
        return Check("processor", "warn", detail, mend)
    return Check("processor", "ok", detail)


def check_memory() -> Check:
    """Whether the default model fits."""
    return judge_memory(machine.available_memory(), machine.total_memory())


def judge_memory(available: int, total: int) -> Check:
    """Both in bytes."""
    detail = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB free"
    fitting = [model for model in CATALOGUE if model.size + _RUNNING_BYTES <= available]
    if DEFAULT_MODEL in fitting:
        return Check("memory", "ok", detail)
    if not fitting:
        mend = "close other programs, or give --base-url of a server"
        return Check("memory", "fail", f"{detail}: no model fits", mend)
    mend = f"close other programs, or use --model {fitting[0].name}"
    return Check("memory", "warn", f"{detail}: too little for {DEFAULT_MODEL.name}", mend)


def check_gpus(ours: bool = True) -> Check:
    """Graphics cards. `ours`: whether our own engine is to be used, which may not use them."""
    cards = machine.gpus()
    devices: Sequence[Mapping[str, str]] = ()
    if cards and ours:
        with contextlib.suppress(ServerError):
            devices = describe_engine()["devices"]
    return judge_gpus(cards, [device["name"] for device in devices], ours)


def judge_gpus(cards: Sequence[Gpu], devices: Sequence[str], ours: bool) -> Check:
    """`devices`: what the engine computes on, by its own names, such as `CUDA0`."""
    if not cards:
        return Check("gpu", "ok", "none found; the engine computes on the CPU")
    detail = ", ".join(f"{card.name} ({card.memory_mib / 1024:.0f} GiB)" for card in cards)
    used = any(device.startswith(_SHARED_GPU_ENGINES) for device in devices)
    if ours and not used:
        mend = "serve a larger model on it, with vLLM for example, and give --base-url"
        return Check("gpu", "warn", f"{detail}: not used by the embedded engine", mend)
    return Check("gpu", "ok", detail)


def check_home(store: ModelStore) -> Check:
    """Whether models and logs can be kept."""
    home, missing = store.home, DEFAULT_MODEL.size - store.fetched(DEFAULT_MODEL)
    existing = next(place for place in (home, *home.parents) if place.exists())
    if not existing.is_dir():
        return judge_home(home, f"{existing} is a file", 0, missing)
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        return judge_home(home, error.strerror or str(error), 0, missing)
    return judge_home(home, None, free, missing)


def judge_home(home: Path, refusal: str | None, free: int, missing: int) -> Check:
    """`refusal`: why nothing can be written there. `missing`: bytes of the model to fetch."""
    if refusal is not None:
        mend = "set AIMO2_HOME to a folder that you can write in"
        return Check("home", "fail", f"{home} cannot be written: {refusal}", mend)
    detail = f"{home}, {free / 1e9:.1f} GB free"
    if free < missing + _SPARE_BYTES:
        needed = (missing + _SPARE_BYTES) / 1e9
        mend = "make room, or set AIMO2_HOME to a folder on another disk"
        status: Status = "fail" if missing else "warn"
        return Check("home", status, f"{detail}, {needed:.1f} GB needed", mend)
    return Check("home", "ok", detail)


def check_models(store: ModelStore) -> Check:
    """Which models are here and unchanged since their hash was checked."""
    return judge_models({model: _state(store, model) for model in CATALOGUE})


def judge_models(states: Mapping[ModelFile, Literal["checked", "unchecked", "absent"]]) -> Check:
    """By model of the catalogue."""
    unchecked = [model.name for model, state in states.items() if state == "unchecked"]
    here = [model.name for model, state in states.items() if state == "checked"]
    detail = f"here and checked: {', '.join(here) or 'none'}"
    if unchecked:
        detail += f"; not checked: {', '.join(unchecked)}"
        return Check("models", "warn", detail, "run `aimo2 models verify`")
    if DEFAULT_MODEL.name not in here:
        size = DEFAULT_MODEL.size / 1e9
        mend = f"`aimo2 models pull` fetches {DEFAULT_MODEL.name} ({size:.1f} GB); solve does too"
        return Check("models", "warn", detail, mend)
    return Check("models", "ok", detail)


def check_hub() -> Check:
    """Whether the default model's file on the hub can be reached, in a few seconds."""
    from huggingface_hub import constants, hf_hub_url

    if constants.is_offline_mode():
        return Check("hub", "ok", "not asked, because HF_HUB_OFFLINE is set")
    file = next(source for source in DEFAULT_MODEL.sources if isinstance(source, HubFile))
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(file.repo, file.filename, revision=file.revision, endpoint=endpoint)
    return judge_hub(_within(_HUB_SECONDS, lambda: _first_byte(url)), endpoint)


def judge_hub(failure: str | None, endpoint: str | None) -> Check:
    """`failure`: why the first byte of a model did not come; `None` where it came."""
    where = endpoint or "the model hub"
    if failure is None:
        return Check("hub", "ok", f"{where} can be reached")
    mend = (
        "nothing, if the package index can be reached: models come from there; "
        "else set HTTPS_PROXY, or HF_ENDPOINT to a mirror"
    )
    return Check("hub", "warn", f"{where} cannot be reached: {failure}", mend)


async def check_sandbox() -> Check:
    """What isolates the code that a model writes, found by attacks from inside a kernel."""
    try:
        return judge_sandbox(await probe())
    except SetupError as error:
        return Check("sandbox", "fail", str(error), "solve with --no-code, or use Linux")


def judge_sandbox(report: LayerReport) -> Check:
    """Layers that are on, what was seen to be open, and modules that are missing."""
    detail = f"active: {', '.join(report.active) or 'no layer'}"
    imports = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.imported.items())
    detail += f"; preloaded once: {imports or 'nothing'}"
    if report.missing:
        detail += f"; not installed: {', '.join(report.missing)}"
    if report.open:
        detail += f"; open: {', '.join(report.open)}"
        off = "; ".join(f"{name}: {why}" for name, why in report.layers.items() if why)
        mend = f"run in a container that you can lose, or allow what is off ({off or 'none'})"
        return Check("sandbox", "warn", detail, mend)
    if report.missing:
        return Check("sandbox", "warn", detail, "install aimo2 again, with `uv sync`")
    return Check("sandbox", "ok", detail)


async def check_server(server: ServerConfig) -> Check:
    """Whether the given server answers, has the model, and what works with it."""
    where = server.base_url
    key = os.environ.get(server.api_key_env) if server.api_key_env else None
    if server.api_key_env and not key:
        mend = f"set {server.api_key_env}, or name another variable with --api-key-env"
        return Check("server", "fail", f"{server.api_key_env} is not set", mend)
    try:
        async with OpenAIModel(Endpoint(where, key), model=server.model) as model:
            features = await model.connect(Deadline.after(_SERVER_SECONDS))
            return judge_server(where, model.name, features)
    except Aimo2Error as error:
        mend = "check --base-url, --model and --api-key-env, and that the server runs"
        return Check("server", "fail", str(error), mend)


def judge_server(where: str, model: str, features: Features) -> Check:
    """A server that answers; one that cannot continue a reply exactly makes code runs worse."""
    detail = f"{where} serves {model}; {features.mode} mode, template from {features.template}"
    detail = "; ".join((detail, *features.reduced))
    if not features.exact_continuation:
        mend = "use a server with raw completions and a chat template, such as vLLM or llama.cpp"
        return Check("server", "warn", detail, mend)
    return Check("server", "ok", detail)


def _soften(check: Check, ours: bool) -> Check:
    """A failure of what is not going to be used is a warning."""
    if ours or check.status != "fail":
        return check
    return Check(check.name, "warn", check.detail, check.mend)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _state(store: ModelStore, model: ModelFile) -> Literal["checked", "unchecked", "absent"]:
    if not store.path(model).exists():
        return "absent"
    return "checked" if store.present(model) else "unchecked"


def _first_byte(url: str) -> str | None:
    """Ask for one byte, redirects included; why it did not come, or `None`. Blocks."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answers {error.code}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _within(seconds: float, call: Callable[[], str | None]) -> str | None:
    """The call's result, or that it took too long: looking a name up obeys no time-out.

    The thread is left behind then; it ends with the process.
    """
    results: list[str | None] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else f"no answer within {seconds:g} s"
