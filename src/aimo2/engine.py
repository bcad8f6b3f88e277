"""Put the parts of a solve together: server, client, sandbox and judge, and take them down again.

Knows how each is started and sized; knows no problems and no terminal.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aimo2.answers import Judge
from aimo2.config import (
    BranchConfig,
    EngineConfig,
    KernelConfig,
    LocalServerConfig,
    Routing,
    ServerConfig,
    SolveConfig,
)
from aimo2.deadline import Deadline
from aimo2.errors import ConfigError, DeadlinePassed, ModelUnavailable, ServerError, SetupError
from aimo2.handover import HandOver, Part
from aimo2.llm.client import ClientLimits, Endpoint, OpenAIModel
from aimo2.llm.reward import RewardModel
from aimo2.llm.router import RoutedModel
from aimo2.llm.template import CHATML
from aimo2.llm.transport import shown
from aimo2.prompts.families import find_family
from aimo2.sandbox.forkserver import ForkSandbox, Level
from aimo2.scorer import make_scorer
from aimo2.serving.llama_cpp import START_SECONDS, LlamaServer, ServerEvent
from aimo2.serving.machine import usable_cores
from aimo2.serving.store import default_home
from aimo2.solver import Named, Tools

ServedModel = OpenAIModel | RoutedModel
LOCAL_ROLLOUTS = 4
SERVED_ROLLOUTS = 16
_STOP_SECONDS = 0.2
"""Our server holds nothing worth waiting for once the answers are out."""
_QUICK = ClientLimits(connect=5.0, max_retries=1)
"""Where other replicas can take over, a client soon gives up on its own."""
_CORES_A_STREAM = 4
"""A CPU engine below this many cores is bound by arithmetic: streams only share its throughput,
so one at a time brings the first votes sooner and keeps the prompt's prefix in one slot."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rollouts there are, and how many stream at the same time."""

    num_rollouts: int
    concurrency: int


def sizes(config: EngineConfig, num_rollouts: int | None) -> Sizes:
    """The defaults of the engine, where the user asked for nothing else."""
    served = config.server is not None
    wanted = num_rollouts
    if wanted is None:
        wanted = SERVED_ROLLOUTS if served else LOCAL_ROLLOUTS
    fitting = wanted if served else max(1, usable_cores() // _CORES_A_STREAM)
    return Sizes(wanted, min(wanted, config.concurrency or fitting))


@dataclass(frozen=True, slots=True)
class Engine:
    """The open parts. `failure()`: why our own server is gone for good, `None` while it is not."""

    tools: Tools
    failure: Callable[[], str | None]


def make_sandbox(kernel: KernelConfig, level: Level = "auto") -> ForkSandbox:
    """The sandbox of a solve, sized to the machine; not entered.

    One warm parent serves hundreds of rollouts: forking a kernel costs it 3.4 ms (docs/log.md).
    """
    return ForkSandbox(kernel, level=level, concurrency=usable_cores())


@asynccontextmanager
async def open_engine(
    config: EngineConfig,
    solve: SolveConfig,
    notify: Callable[[str], None],
    deadline: Deadline,
) -> AsyncGenerator[Engine, None]:
    """Start everything, by `deadline` at the latest, and end it again.

    `notify` hears one line for a person now and then. Raises `SetupError`, `InputError` or
    `ModelError`, each with the mend.
    """
    async with AsyncExitStack() as stack:
        # Entered first: the kernels' parent imports sympy while the server reads the model.
        sandbox = await stack.enter_async_context(make_sandbox(solve.kernel, config.sandbox))
        judge = await stack.enter_async_context(Judge())
        try:
            async with asyncio.timeout_at(deadline.when()):
                model, failure = await _open_model(config, solve, stack, notify, deadline)
                reasoner = await _second(config.reasoner, solve, stack, notify, deadline)
                verifier = None
                if solve.verify.comparisons:
                    verifier = await _second(config.verifier, solve, stack, notify, deadline)
                isolation = await sandbox.report()
        except (TimeoutError, DeadlinePassed) as error:
            limit = "its time" if solve.timeout is None else f"--timeout {solve.timeout:g}"
            raise SetupError(
                f"the engine was not ready within {limit}; give it more time"
            ) from error
        if isolation.warning and solve.rollout.max_code_runs:
            notify(isolation.warning)
        scorer = make_scorer(solve.branch, await _reward_model(solve.branch, stack, deadline))
        tools = Tools(
            model,
            sandbox,
            judge,
            isolation.active,
            model_name=model.name,
            opens_thinking=model.features.opens_thinking,
            continues=model.features.exact_continuation,
            verifier=None if verifier is None else _named(verifier),
            scorer=scorer,
        )
        yield Engine(tools if reasoner is None else _handed_over(tools, reasoner, solve), failure)


async def _second(
    served: ServerConfig | None,
    solve: SolveConfig,
    stack: AsyncExitStack,
    notify: Callable[[str], None],
    deadline: Deadline,
) -> ServedModel | None:
    """Another server's model, connected; `None` where there is none."""
    if served is None:
        return None
    model = await open_served(served, stack, notify, solve.sampling.request_seeds)
    features = await model.connect(deadline)
    for line in features.reduced:
        notify(f"{model.name}: {line}")
    return model


def _handed_over(tools: Tools, reasoner: ServedModel, solve: SolveConfig) -> Tools:
    """The tools with a model that reasons before theirs goes on."""
    seen = reasoner.features
    begins = Part(
        reasoner, find_family(reasoner.name, solve.family, opens_thinking=seen.opens_thinking)
    )
    goes_on = Part(tools.model, tools.family("auto"))
    return replace(
        tools,
        model=HandOver(begins, goes_on),
        model_name=f"{reasoner.name} > {tools.model_name}",
        asked_as=reasoner.name,
        opens_thinking=seen.opens_thinking,
        continues=seen.exact_continuation and tools.continues,
    )


def _named(model: ServedModel) -> Named:
    seen = model.features
    return Named(model, model.name, seen.opens_thinking, seen.exact_continuation)


async def _reward_model(
    config: BranchConfig, stack: AsyncExitStack, deadline: Deadline
) -> RewardModel | None:
    """A client of the reward model that the search asks for, known to answer."""
    if config.scorer != "reward" or config.reward_url is None:
        return None
    reward = await stack.enter_async_context(RewardModel(config.reward_url, config.reward_model))
    await reward.connect(deadline)
    return reward


async def _open_model(
    config: EngineConfig,
    solve: SolveConfig,
    stack: AsyncExitStack,
    notify: Callable[[str], None],
    deadline: Deadline,
) -> tuple[ServedModel, Callable[[], str | None]]:
    model: ServedModel
    if config.server is None:
        server = await _start_server(config, solve, stack, notify, deadline)
        client = OpenAIModel(
            lambda: Endpoint(*server.endpoint()),
            on_unavailable=_patience(server),
            request_seeds=solve.sampling.request_seeds,
        )
        model, failure = await stack.enter_async_context(client), lambda: server.failure
    else:
        seeds = solve.sampling.request_seeds
        model, failure = await open_served(config.server, stack, notify, seeds), lambda: None
    features = await model.connect(deadline)
    for line in features.reduced:
        notify(f"{model.name}: {line}")
    return model, failure


async def open_served(
    served: ServerConfig,
    stack: AsyncExitStack,
    notify: Callable[[str], None],
    request_seeds: bool | None = None,
) -> ServedModel:
    """A client of somebody's server, or a router over the clients of several; not connected.

    `request_seeds`: see `OpenAIModel`. Raises `ConfigError` for a URL that cannot be used or that
    is given twice.
    """
    key = os.environ[served.api_key_env] if served.api_key_env else None
    urls = (served.base_url, *served.more_urls)
    if len({url.rstrip("/") for url in urls}) < len(urls):
        raise ConfigError(f"--base-url: one is given twice in {', '.join(urls)}")
    endpoints = [Endpoint(url, key) for url in urls]
    template = chat_template(served.chat_template)
    return await route(
        endpoints,
        served.model,
        template,
        stack,
        notify,
        routing=served.routing,
        request_seeds=request_seeds,
    )


async def route(
    endpoints: Sequence[Endpoint | Callable[[], Endpoint]],
    name: str | None,
    template: str | None,
    stack: AsyncExitStack,
    notify: Callable[[str], None],
    *,
    routing: Routing = "prefix",
    request_seeds: bool | None = None,
) -> ServedModel:
    """A client of one server, or a router over clients of several; not connected."""
    limits = ClientLimits() if len(endpoints) == 1 else _QUICK
    clients = [
        await stack.enter_async_context(
            OpenAIModel(
                endpoint,
                model=name,
                chat_template=template,
                limits=limits,
                request_seeds=request_seeds,
            )
        )
        for endpoint in endpoints
    ]
    if len(clients) == 1:
        return clients[0]
    now = [each if isinstance(each, Endpoint) else each() for each in endpoints]
    labels = [shown(each.base_url) for each in now]
    router = RoutedModel(clients, labels, notify=notify, by_prefix=routing == "prefix")
    return await stack.enter_async_context(router)


def chat_template(wanted: str | None) -> str | None:
    """Jinja source: of the file that is named, or ChatML. Raises `ConfigError`."""
    if wanted is None:
        return None
    if wanted == "chatml":
        return CHATML
    try:
        return Path(wanted).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--chat-template {wanted} cannot be read ({error}); give a Jinja file, or chatml"
        ) from error


async def _start_server(
    config: EngineConfig,
    solve: SolveConfig,
    stack: AsyncExitStack,
    notify: Callable[[str], None],
    deadline: Deadline,
) -> LlamaServer:
    if config.model_path is None:
        raise ValueError("an engine of our own needs a model_path")
    local = LocalServerConfig(
        model_path=config.model_path,
        concurrency=solve.concurrency,
        context=config.context,
        threads=config.threads,
    )
    teller = _Teller(notify)
    # Whoever gives more time than a start usually takes has a reason: a slow disk, a large model.
    patience = START_SECONDS if deadline.when() is None else deadline.remaining()
    server = LlamaServer(
        local,
        on_event=teller,
        log_dir=default_home() / "logs",
        start_timeout=max(START_SECONDS, patience),
        grace=_STOP_SECONDS,
    )
    return await stack.enter_async_context(server)


def _patience(server: LlamaServer) -> Callable[[Deadline], Awaitable[None]]:
    """Wait for the server's restart; one that is gone for good fails the request."""

    async def wait(deadline: Deadline) -> None:
        try:
            await server.wait_ready(deadline)
        except ServerError as error:
            raise ModelUnavailable(str(error)) from error

    return wait


class _Teller:
    """Tells a person what the server does, each thing once."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._loading = False

    def __call__(self, event: ServerEvent) -> None:
        if event.kind == "loading":
            if not self._loading:
                self._notify(event.message)
            self._loading = True
            return
        self._loading = False
        took = f" (ready after {event.seconds:.1f} s)" if event.kind == "ready" else ""
        self._notify(event.message + took)
        if event.log_end:
            self._notify(f"end of the server's log:\n{event.log_end}")
