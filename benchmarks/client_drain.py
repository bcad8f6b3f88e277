"""How many tokens a second can one core of a client take from many streams at once?

Starts `fake_sse_server.py` on another core and drains it with the real client, or with minimal
loops on other HTTP and JSON libraries, each run in a fresh process pinned to its own core. A rate
of 0 lets the server send as fast as it can; otherwise every stream gets that many tokens a second,
one write each, as from an engine that steps all streams together. Prints a Markdown table; tokens
per CPU second is what a whole core could take, and is the figure least disturbed by other work.

    python benchmarks/client_drain.py                        the client, both ways, 5 runs each
    python benchmarks/client_drain.py --what all --runs 3    with the other libraries
"""

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

SERVER = Path(__file__).with_name("fake_sse_server.py")


@dataclass(frozen=True)
class Job:
    """What one run drains: `num_streams` at once, `num_tokens` each.

    `logprobs`: candidates asked for a token; 0 asks for none.
    """

    url: str
    num_streams: int
    num_tokens: int
    logprobs: int


class Stopwatch:
    """Wall-clock and CPU seconds of its `with` block."""

    def __enter__(self) -> Self:
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()


Drain = Callable[[Job, Stopwatch], Awaitable[int]]
"""Drains a job inside `with stopwatch:`, set-up left out; returns the tokens it saw."""


async def drain_client(job: Job, stopwatch: Stopwatch) -> int:
    """The client that `aimo2` uses."""
    from aimo2.deadline import Deadline
    from aimo2.llm import Conversation, Message, Sampling
    from aimo2.llm.client import OpenAIModel
    from aimo2.llm.template import CHATML

    sampling = Sampling(max_tokens=job.num_tokens, logprobs=job.logprobs)
    conversation = Conversation((Message("user", "How many divisors has 20!?"),))
    async with OpenAIModel(job.url, chat_template=CHATML) as model:
        deadline = Deadline.after(600)
        await model.connect(deadline)

        async def one() -> int:
            num_tokens, characters = 0, 0
            async for chunk in model.stream(conversation, sampling, deadline):
                num_tokens += chunk.num_tokens
                characters += len(chunk.text)
            return num_tokens

        with stopwatch:
            return sum(await asyncio.gather(*(one() for _ in range(job.num_streams))))


class Counter:
    """The least that any client does: split events, parse them, keep text and log-probabilities."""

    def __init__(self, loads: Callable[[bytes], Any]) -> None:
        self._loads = loads
        self._tail = b""
        self._texts: list[str] = []
        self._logprobs: list[float] = []
        self.num_tokens = 0

    def feed(self, received: bytes) -> None:
        lines = (self._tail + received).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                for choice in self._loads(line[6:])["choices"]:
                    self._take(choice)

    def _take(self, choice: dict[str, Any]) -> None:
        if choice["text"]:
            self._texts.append(choice["text"])
            self.num_tokens += 1
        logprobs = choice.get("logprobs")
        if logprobs:
            self._logprobs += logprobs.get("token_logprobs") or [
                entry["logprob"] for entry in logprobs["content"]
            ]


def request_body(job: Job) -> bytes:
    body = {"model": "fake-model", "prompt": "x", "max_tokens": job.num_tokens, "stream": True}
    return json.dumps(body | ({"logprobs": job.logprobs} if job.logprobs else {})).encode()


def loads_of(name: str) -> Callable[[bytes], Any]:
    module = importlib.import_module("msgspec.json" if name == "msgspec" else name)
    loads: Callable[[bytes], Any] = module.decode if name == "msgspec" else module.loads
    return loads


async def drain_rollout(job: Job, stopwatch: Stopwatch) -> int:
    """The client under the whole rollout loop: parser, loop detector, observer, trace."""
    from aimo2.answers import canonical
    from aimo2.attempt import Attempt, Question
    from aimo2.config import (
        CutConfig,
        RolloutConfig,
        SalvageConfig,
        SamplingConfig,
        SolveConfig,
    )
    from aimo2.deadline import Deadline
    from aimo2.llm.client import OpenAIModel
    from aimo2.llm.template import CHATML
    from aimo2.rollout import Rollout
    from aimo2.sandbox import CellResult
    from aimo2.sandbox.fake import FakeSandbox
    from aimo2.types import Problem

    class Unseen:
        """Watches nothing."""

        def text(self, rollout: int, kind: object, text: str) -> None: ...

        def progress(self, rollout: Attempt) -> None: ...

    async def canonicalise(raw: str) -> Any:
        return canonical(raw, "int", None)

    config = SolveConfig(
        openings=("plain",),
        sampling=SamplingConfig(logprobs=bool(job.logprobs)),
        cut=CutConfig(confidence=job.logprobs > 1),
        salvage=SalvageConfig(enabled=False),
        rollout=RolloutConfig(max_tokens=job.num_tokens),
    )
    problem = Problem(id="1", statement="How many divisors has 20!?")
    async with (
        OpenAIModel(job.url, chat_template=CHATML) as model,
        FakeSandbox(lambda code, namespace: CellResult("")) as sandbox,
    ):
        deadline = Deadline.after(600)
        await model.connect(deadline)
        rollouts = [
            Rollout(Question(problem, config, model, sandbox, canonicalise, Unseen()), index)
            for index in range(job.num_streams)
        ]
        with stopwatch:
            await asyncio.gather(*(rollout.run(deadline) for rollout in rollouts))
        stops = {rollout.trace().stop_reason for rollout in rollouts}
        assert stops <= {"max_tokens", "answered", "no_answer"}, stops
        return sum(rollout.num_tokens for rollout in rollouts)


def drain_aiohttp(json_library: str) -> Drain:
    async def drain(job: Job, stopwatch: Stopwatch) -> int:
        aiohttp = importlib.import_module("aiohttp")
        loads, body = loads_of(json_library), request_body(job)
        headers = {"Content-Type": "application/json"}

        async def one(session: Any) -> int:
            counter = Counter(loads)
            url = f"{job.url}/completions"
            async with session.post(url, data=body, headers=headers) as response:
                while received := await response.content.readany():
                    counter.feed(received)
            return counter.num_tokens

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            with stopwatch:
                return sum(await asyncio.gather(*(one(session) for _ in range(job.num_streams))))

    return drain


async def drain_httpx(job: Job, stopwatch: Stopwatch) -> int:
    httpx = importlib.import_module("httpx")
    loads, body = loads_of("orjson"), request_body(job)

    async def one(client: Any) -> int:
        counter = Counter(loads)
        async with client.stream("POST", f"{job.url}/completions", content=body) as response:
            async for received in response.aiter_raw():
                counter.feed(received)
        return counter.num_tokens

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        with stopwatch:
            return sum(await asyncio.gather(*(one(client) for _ in range(job.num_streams))))


async def drain_h11(job: Job, stopwatch: Stopwatch) -> int:
    h11 = importlib.import_module("h11")
    loads, body = loads_of("orjson"), request_body(job)
    where = urlsplit(job.url)

    async def one() -> int:
        counter = Counter(loads)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        link = h11.Connection(h11.CLIENT)
        headers = [("Host", "x"), ("Content-Length", str(len(body)))]
        writer.write(
            link.send(h11.Request(method="POST", target="/v1/completions", headers=headers))
            + link.send(h11.Data(data=body))
        )
        link.send(h11.EndOfMessage())
        while not isinstance(event := link.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                link.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Data):
                counter.feed(bytes(event.data))
        writer.close()
        return counter.num_tokens

    with stopwatch:
        return sum(await asyncio.gather(*(one() for _ in range(job.num_streams))))


DRAINS: dict[str, tuple[Drain, Sequence[str]]] = {
    "client": (drain_client, ()),
    "rollout": (drain_rollout, ()),
    "aiohttp+orjson": (drain_aiohttp("orjson"), ("aiohttp", "orjson")),
    "aiohttp+msgspec": (drain_aiohttp("msgspec"), ("aiohttp", "msgspec")),
    "aiohttp+json": (drain_aiohttp("json"), ("aiohttp",)),
    "h11+orjson": (drain_h11, ("h11", "orjson")),
    "httpx+orjson": (drain_httpx, ("httpx", "orjson")),
}
"""What can be drained with, and the modules that it needs."""


@dataclass(frozen=True)
class Question:
    """One row of the table."""

    what: str
    loop: str
    rate: float
    logprobs: str


@dataclass(frozen=True)
class Run:
    """What one process measured."""

    num_tokens: int
    seconds: float
    cpu_seconds: float


def measure(setting: Question, job: Job) -> Run:
    """Drain in this process."""
    stopwatch = Stopwatch()
    drain, _ = DRAINS[setting.what]

    async def main() -> int:
        return await drain(job, stopwatch)

    if setting.loop == "uvloop":
        num_tokens = importlib.import_module("uvloop").run(main())
    else:
        num_tokens = asyncio.run(main())
    expected = job.num_streams * job.num_tokens
    if num_tokens != expected:
        raise RuntimeError(f"{setting.what} saw {num_tokens} tokens of {expected}")
    return Run(num_tokens, stopwatch.seconds, stopwatch.cpu_seconds)


@contextmanager
def fake_server(setting: Question, args: argparse.Namespace) -> Iterator[str]:
    """The base URL of a server in a process of its own."""
    command = [sys.executable, str(SERVER), "--rate", str(setting.rate)]
    command += ["--tokens-per-write", str(args.tokens_per_write)]
    command += ["--logprobs", "openai" if setting.logprobs == "none" else setting.logprobs]
    command += ["--candidates", str(args.candidates)]
    if args.server_core is not None:
        command += ["--core", str(args.server_core)]
    if args.text is not None:
        command += ["--text", str(args.text)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def run_apart(setting: Question, job: Job, args: argparse.Namespace) -> Run:
    """Measure in a fresh process on the client's core."""
    command = [sys.executable, __file__, "--child", json.dumps([asdict(setting), asdict(job)])]
    if args.client_core is not None:
        command += ["--client-core", str(args.client_core)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return Run(**json.loads(result.stdout))


def rows(args: argparse.Namespace) -> Iterator[Question]:
    names = list(DRAINS) if args.what == "all" else args.what.split(",")
    for rate in args.rate:
        for what in names:
            missing = [name for name in DRAINS[what][1] if importlib.util.find_spec(name) is None]
            if missing:
                print(f"{what} left out: {', '.join(missing)} not installed", file=sys.stderr)
                continue
            for loop in args.loop:
                for logprobs in args.logprobs:
                    yield Question(what, loop, rate, logprobs)


def report(setting: Question, runs: Sequence[Run]) -> None:
    speeds = sorted(run.num_tokens / run.seconds for run in runs)
    per_cpu = sorted(run.num_tokens / run.cpu_seconds for run in runs)
    share = statistics.median(run.cpu_seconds / run.seconds for run in runs)
    pace = "as fast as it can" if setting.rate == 0 else f"{setting.rate:g} a stream"
    print(
        f"| {setting.what} | {setting.loop} | {pace} | {setting.logprobs} "
        f"| {spread(speeds)} | {share:.0%} | {spread(per_cpu)} |",
        flush=True,
    )


def spread(values: Sequence[float]) -> str:
    """Median, and the lowest and highest in brackets."""
    return f"{statistics.median(values):,.0f} ({values[0]:,.0f}–{values[-1]:,.0f})"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    parser.add_argument("--what", default="client", help=f"all, or of {', '.join(DRAINS)}")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.0, 210.0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a paced run")
    parser.add_argument("--tokens", type=int, default=2000, help="a stream, without a rate")
    parser.add_argument("--tokens-per-write", type=int, default=8, help="without a rate")
    parser.add_argument("--loop", nargs="+", default=["uvloop"], choices=("uvloop", "asyncio"))
    parser.add_argument(
        "--logprobs", nargs="+", default=["none", "openai"], choices=("none", "openai", "chat")
    )
    parser.add_argument("--candidates", type=int, default=1, help="log-probabilities a token")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--text", type=Path, help="the text that the server repeats")
    parser.add_argument("--client-core", type=int, default=cores[0])
    parser.add_argument("--server-core", type=int, default=cores[-1])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.child is not None:
        if args.client_core is not None:
            os.sched_setaffinity(0, {args.client_core})
        setting, job = json.loads(args.child)
        print(json.dumps(asdict(measure(Question(**setting), Job(**job)))))
        return
    print("| what | loop | tokens/s sent | logprobs | tokens/s | CPU | tokens/CPU s |")
    print("|---|---|---|---|---|---|---|")
    for setting in rows(args):
        num_tokens = int(setting.rate * args.seconds) or args.tokens
        with fake_server(setting, args) as url:
            wanted = 0 if setting.logprobs == "none" else args.candidates
            job = Job(url, args.streams, num_tokens, wanted)
            report(setting, [run_apart(setting, job, args) for _ in range(args.runs)])


if __name__ == "__main__":
    main()
