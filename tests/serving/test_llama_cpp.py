import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from aimo2.config import LocalServerConfig
from aimo2.deadline import Deadline
from aimo2.errors import DeadlinePassed, InputError, ServerError, SetupError
from aimo2.serving import llama_cpp, machine, server_log
from aimo2.serving.catalogue import SMOLLM2_135M
from aimo2.serving.llama_cpp import LlamaServer, ServerEvent, child_environment, needed_memory
from aimo2.serving.store import ModelStore, default_home

STUB = Path(__file__).with_name("llama_stub.py")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="waits on a pidfd")


@pytest.fixture
def config(tmp_path: Path) -> LocalServerConfig:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF")
    return LocalServerConfig(model_path=model, threads=1)


@pytest.fixture
def events() -> list[ServerEvent]:
    return []


@pytest.fixture
def make(config: LocalServerConfig, events: list[ServerEvent], tmp_path: Path) -> Any:
    def make(*mode: str, **options: Any) -> LlamaServer:
        command = (sys.executable, str(STUB), *mode)
        options.setdefault("log_dir", tmp_path / "logs")
        return LlamaServer(config, on_event=events.append, command=command, **options)

    return make


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end; a bug that would wait for ever fails instead."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(bounded())


def has_ended(pid: int, descriptor: int) -> bool:
    """Wait for the end of a process that is not our child; a zombie has ended."""
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    return bool(ended)


def kinds(events: list[ServerEvent]) -> list[str]:
    return [event.kind for event in events if event.kind != "loading"]


def kill(server: LlamaServer) -> int:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_an_entered_server_answers_on_loopback_and_leaving_ends_it(
    make: Any, events: list[ServerEvent]
) -> None:
    async def main() -> None:
        async with make("serve") as server:
            base_url, key = server.endpoint()
            assert base_url.startswith("http://127.0.0.1:")
            assert base_url.endswith("/v1")
            assert len(key) > 30
            await server.wait_ready()
            process = psutil.Process(server.pid)
        assert not process.is_running()
        assert server.pid is None

    run(main())
    assert kinds(events) == ["ready"]
    assert "tiny.gguf" in events[-1].message


def test_a_start_reports_again_and_again_that_it_is_loading(
    config: LocalServerConfig, events: list[ServerEvent], tmp_path: Path
) -> None:
    async def main() -> None:
        again = asyncio.Event()

        def report(event: ServerEvent) -> None:
            events.append(event)
            if len(events) == 2:
                again.set()

        command = (sys.executable, str(STUB), "hang")
        server = LlamaServer(config, on_event=report, command=command, log_dir=tmp_path)
        start = asyncio.create_task(server.start())
        await again.wait()
        start.cancel()
        await asyncio.wait([start])

    run(main())
    assert [event.kind for event in events[:2]] == ["loading", "loading"]
    assert events[1].seconds > events[0].seconds
    assert "tiny.gguf" in events[0].message


def test_two_servers_have_different_keys_and_ports(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as one, make("serve") as other:
            assert one.api_key != other.api_key
            assert one.base_url != other.base_url

    run(main())


def test_the_key_is_in_no_argument_no_environment_and_no_log(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as server:
            process = psutil.Process(server.pid)
            seen = [*process.cmdline(), *process.environ().values(), server.log_path.read_text()]
            assert len(seen) > 3
            assert not [text for text in seen if server.api_key in text]

    run(main())


def test_the_child_gets_nobodys_keys(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    monkeypatch.setenv("HF_TOKEN", "sesame")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")

    async def main() -> None:
        async with make("serve") as server:
            environment = psutil.Process(server.pid).environ()
        assert "sesame" not in environment.values()
        assert environment["OMP_WAIT_POLICY"] == "passive"
        assert environment["PATH"] == os.environ["PATH"]

    run(main())
    assert "sesame" not in child_environment().values()


def test_what_the_engine_prints_goes_to_the_log(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as server:
            assert "scripted engine" in server.log_tail()
            assert "asked /health" in server.log_tail(1)

    run(main())


def test_a_crash_is_reported_and_the_server_restarted_at_the_same_address(
    make: Any, events: list[ServerEvent]
) -> None:
    async def main() -> None:
        async with make("serve") as server:
            before, dead = server.endpoint(), kill(server)
            await server.wait_ready()
            assert server.pid != dead
            assert server.endpoint() == before
            assert server.failure is None

    run(main())
    assert kinds(events) == ["ready", "crashed", "ready"]
    crash = next(event for event in events if event.kind == "crashed")
    assert "SIGKILL" in crash.message
    assert "scripted engine" in crash.log_end


def test_a_second_crash_is_final(make: Any, events: list[ServerEvent]) -> None:
    async def main() -> None:
        async with make("serve") as server:
            kill(server)
            await server.wait_ready()
            kill(server)
            for _ in range(2):
                with pytest.raises(ServerError, match="SIGKILL") as caught:
                    await server.wait_ready()
            assert "scripted engine" in caught.value.__notes__[0]
            assert str(server.log_path) in str(caught.value)
            assert server.failure == str(caught.value)
            assert server.pid is None

    run(main())
    assert kinds(events) == ["ready", "crashed", "ready", "failed"]


def test_a_restart_that_fails_is_final_and_tells_both_reasons(
    make: Any, events: list[ServerEvent], tmp_path: Path
) -> None:
    async def main() -> None:
        async with make("serve-once", str(tmp_path / "marker")) as server:
            kill(server)
            with pytest.raises(ServerError, match=r"SIGKILL.*wrong magic"):
                await server.wait_ready()

    run(main())
    assert kinds(events) == ["ready", "crashed", "failed"]


def test_many_clients_can_wait_for_one_restart(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as server:
            kill(server)
            await asyncio.gather(*(server.wait_ready() for _ in range(5)))

    run(main())


def test_waiting_ends_at_the_deadline(make: Any) -> None:
    async def main() -> None:
        server = make("hang")
        start = asyncio.create_task(server.start())
        with pytest.raises(DeadlinePassed):
            await server.wait_ready(Deadline.after(0.05))
        start.cancel()
        await asyncio.wait([start])

    run(main())


def test_waiting_for_a_stopped_server_raises(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as server:
            pass
        with pytest.raises(ServerError, match="stopped"):
            await server.wait_ready()

    run(main())


def test_a_server_that_hangs_at_its_start_is_ended_at_the_deadline(make: Any) -> None:
    others = set(psutil.Process().children())

    async def main() -> None:
        server = make("hang", start_timeout=0.5)
        with pytest.raises(ServerError, match=r"within 0.5 s.*tiny\.gguf"):
            await server.start()
        assert server.pid is None

    run(main())
    assert set(psutil.Process().children()) <= others


def test_a_cancelled_start_leaves_no_process(config: LocalServerConfig, tmp_path: Path) -> None:
    async def main() -> None:
        loading = asyncio.Event()
        server = LlamaServer(
            config,
            on_event=lambda event: loading.set(),
            command=(sys.executable, str(STUB), "hang"),
            log_dir=tmp_path,
        )
        start = asyncio.create_task(server.start())
        await loading.wait()
        process = psutil.Process(server.pid)
        start.cancel()
        await asyncio.wait([start])
        assert start.cancelled()
        assert not process.is_running()

    run(main())


def test_stopping_kills_a_child_that_does_not_end_by_itself(make: Any) -> None:
    async def main() -> None:
        server = make("stubborn", grace=0.2)
        await server.start()
        process = psutil.Process(server.pid)
        await server.stop()
        await server.stop()
        assert not process.is_running()

    run(main())


def test_stopping_before_the_start_does_nothing(make: Any) -> None:
    run(make("serve").stop())


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_child(make: Any) -> None:
    async def main() -> None:
        async with make("serve") as server:
            pid = server.pid
            assert os.getsid(pid) != os.getsid(0)
            os.kill(pid, signal.SIGINT)
            await server.wait_ready()
            assert server.pid == pid

    run(main())


PARENT = """
import asyncio, sys
from pathlib import Path
from aimo2.config import LocalServerConfig
from aimo2.serving.llama_cpp import LlamaServer

def report(event):
    print(server.pid, flush=True)

model, logs, *command = sys.argv[1:]
server = LlamaServer(
    LocalServerConfig(model_path=Path(model)), on_event=report, log_dir=Path(logs), command=command
)

async def main():
    async with server:
        await asyncio.Event().wait()

asyncio.run(main())
"""


def spawn_parent(config: LocalServerConfig, *mode: str) -> tuple[subprocess.Popen[str], int, int]:
    """A process with a server of its own; the server's process id and a descriptor of it."""
    model = config.model_path
    arguments = [str(model), str(model.parent), sys.executable, str(STUB), *mode]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    return parent, pid, os.pidfd_open(pid)


def end(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    parent.kill()
    parent.wait()
    parent.stdout.close()


@linux_only
@pytest.mark.parametrize("mode", ["serve", "input-only", "hang"])
def test_the_child_ends_when_its_parent_is_killed(config: LocalServerConfig, mode: str) -> None:
    parent, pid, descriptor = spawn_parent(config, mode)
    end(parent)
    assert has_ended(pid, descriptor)


@linux_only
def test_the_child_ends_with_its_parent_even_while_it_loads(
    config: LocalServerConfig, tmp_path: Path
) -> None:
    fifo = tmp_path / "loading"
    os.mkfifo(fifo)
    parent, pid, descriptor = spawn_parent(config, "hold", str(fifo))
    assert fifo.read_text() == "loading"
    end(parent)
    assert has_ended(pid, descriptor)


def test_an_engine_that_is_missing_has_a_mend(make: Any) -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match=r"xllamacpp.*--base-url"):
            await make("no-engine").start()

    run(main())


def test_a_model_that_cannot_be_loaded_is_named_with_the_engines_reason(make: Any) -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match=r"tiny\.gguf: load: wrong magic.*verify") as caught:
            await make("broken").start()
        assert "\x1b" not in str(caught.value) + caught.value.__notes__[0]

    run(main())


@pytest.mark.parametrize(
    ("number", "mend"), [(signal.SIGKILL, "memory"), (signal.SIGILL, "--base-url")]
)
def test_an_engine_killed_while_it_loads_is_explained(
    make: Any, number: signal.Signals, mend: str
) -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match=f"{number.name}.*{mend}"):
            await make("signal", str(int(number))).start()

    run(main())


def test_a_child_that_ends_without_a_word_is_an_error(make: Any) -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match="exit status 3"):
            await make("silent").start()

    run(main())


def test_a_command_that_does_not_exist_is_an_error(
    config: LocalServerConfig, tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(ServerError, match="could be started"):
            await LlamaServer(config, command=("/nonexistent",), log_dir=tmp_path).start()

    run(main())


def test_a_missing_model_file_is_named_before_anything_is_started(tmp_path: Path) -> None:
    config = LocalServerConfig(model_path=tmp_path / "absent.gguf")

    async def main() -> None:
        with pytest.raises(InputError, match=r"absent\.gguf.*aimo2 models list"):
            await LlamaServer(config, command=("/nonexistent",)).start()

    run(main())


def test_a_model_larger_than_the_memory_is_not_started(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)

    async def main() -> None:
        with pytest.raises(SetupError, match=r"tiny\.gguf.*0\.0 GB are free.*smaller"):
            await make("serve").start()

    run(main())


def test_needed_memory_grows_with_the_file(config: LocalServerConfig) -> None:
    before = needed_memory(config)
    config.model_path.write_bytes(b"GGUF" + bytes(1000))
    assert needed_memory(config) == before + 1000


def test_an_error_in_the_report_callback_is_not_swallowed(
    config: LocalServerConfig, tmp_path: Path
) -> None:
    def report(event: ServerEvent) -> None:
        if event.kind == "crashed":
            raise ZeroDivisionError("a bug in the display")

    async def main() -> None:
        command = (sys.executable, str(STUB), "serve")
        server = LlamaServer(config, on_event=report, command=command, log_dir=tmp_path)
        await server.start()
        kill(server)
        with pytest.raises(ServerError, match="not watched"):
            await server.wait_ready()
        with pytest.raises(ZeroDivisionError):
            await server.stop()

    run(main())


def test_the_log_lies_under_the_home_folder(
    config: LocalServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMO2_HOME", str(tmp_path / "home"))

    async def main() -> None:
        async with LlamaServer(config, command=(sys.executable, str(STUB), "serve")) as server:
            assert server.log_path is not None
            assert server.log_path.parent == tmp_path / "home" / "logs"

    run(main())


def test_an_error_in_the_report_of_a_start_is_not_swallowed(
    config: LocalServerConfig, tmp_path: Path
) -> None:
    others = set(psutil.Process().children())

    def report(event: ServerEvent) -> None:
        raise ZeroDivisionError("a bug in the display")

    async def main() -> None:
        command = (sys.executable, str(STUB), "serve")
        with pytest.raises(ZeroDivisionError):
            await LlamaServer(config, on_event=report, command=command, log_dir=tmp_path).start()

    run(main())
    assert set(psutil.Process().children()) <= others


def test_without_a_log_folder_the_log_is_a_temporary_file(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))

    async def main() -> None:
        (tmp_path / "file").touch()
        async with make("serve", log_dir=tmp_path / "file") as server:
            assert server.log_path.parent == tmp_path / "temporary"

    run(main())


def test_a_full_disk_costs_the_log_and_nothing_else(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_full_disk(suffix: str, prefix: str, folder: Path) -> tuple[int, str]:
        (tmp_path / "full.log").touch()
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "full.log")

    monkeypatch.setattr("tempfile.mkstemp", on_full_disk)

    async def main() -> None:
        async with make("serve") as server:
            await server.wait_ready()
            assert server.log_path is None
            assert server.log_tail() == ""
        with pytest.raises(ServerError, match="Failed to init server"):
            await make("broken").start()

    run(main())
    assert not (tmp_path / "full.log").exists()


def test_only_the_latest_logs_are_kept(make: Any, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for day in range(10, 30):
        (logs / f"aimo2-llama-202001{day}-000000-x.log").touch()
    (logs / "notes.txt").touch()

    async def main() -> None:
        async with make("serve") as server:
            kept = sorted(path.name for path in logs.glob("*.log"))
            assert len(kept) == server_log._KEPT
            assert kept[-1] == server.log_path.name
            assert kept[0] == "aimo2-llama-20200121-000000-x.log"

    run(main())
    assert (logs / "notes.txt").exists()


@pytest.mark.parametrize("content", [b"", b"no model at all" * 1000])
def test_the_real_engine_names_a_damaged_model(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "damaged.gguf"
    model.write_bytes(content)
    config = LocalServerConfig(model_path=model)

    async def main() -> None:
        with pytest.raises(ServerError, match=r"damaged\.gguf: .*magic.*verify"):
            await LlamaServer(config, log_dir=tmp_path).start()

    run(main())


def test_the_engine_describes_itself() -> None:
    described = llama_cpp.describe_engine()
    assert described["version"]
    assert "CPU" in described["system"]
    assert described["devices"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("print('not json')", "Expecting value"),
        ("print('{}')", "exit status 0"),
        ("import time; time.sleep(60)", "timed out"),
    ],
)
def test_an_engine_that_cannot_be_asked_is_an_error(program: str, reason: str) -> None:
    with pytest.raises(ServerError, match=f"{reason}.*--base-url"):
        llama_cpp.describe_engine(
            (sys.executable, "-c", program), timeout=2 if "60" in program else 30
        )


@pytest.fixture(scope="module")
def smallest_model() -> Path:
    return ModelStore(default_home()).ensure(SMOLLM2_135M)


async def _complete(server: LlamaServer, key: str) -> tuple[int, Any]:
    url = f"{server.base_url}/completions"
    body = {"prompt": "1, 2, 3, 4,", "max_tokens": 4}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.json()


@pytest.mark.e2e
def test_the_real_server_serves_restarts_and_wants_its_key(
    smallest_model: Path, events: list[ServerEvent], tmp_path: Path
) -> None:
    config = LocalServerConfig(model_path=smallest_model, concurrency=2, context=512)

    async def main() -> None:
        server = LlamaServer(config, on_event=events.append, log_dir=tmp_path)
        async with server:
            before = server.base_url
            assert server.api_key is not None
            assert (await _complete(server, "wrong"))[0] == 401
            status, answer = await _complete(server, server.api_key)
            assert status == 200
            assert answer["usage"]["completion_tokens"] == 4
            kill(server)
            await server.wait_ready()
            assert server.base_url == before
            assert (await _complete(server, server.api_key))[0] == 200
            assert server.log_path is not None
            assert server.api_key not in server.log_path.read_text()

    run(main())
    assert kinds(events) == ["ready", "crashed", "ready"]


@pytest.mark.e2e
def test_the_real_engine_names_a_truncated_model(smallest_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "short.gguf"
    with smallest_model.open("rb") as file:
        model.write_bytes(file.read(5_000_000))

    async def main() -> None:
        with pytest.raises(ServerError, match=r"short\.gguf: .*corrupted or incomplete.*verify"):
            await LlamaServer(LocalServerConfig(model_path=model), log_dir=tmp_path).start()

    run(main())
