"""vLLM servers: flags, and the life of the processes, with a program that takes vLLM's place."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimo2.errors import ConfigError, ServerError
from aimo2.serving import gpu, vllm
from aimo2.serving.gpu import Card, Usage, occupied, parse_cards, parse_usage, visible
from aimo2.serving.llama_cpp import ServerEvent
from aimo2.serving.serve import ServeOptions, choose_engine, place, serve
from aimo2.serving.vllm import (
    VllmConfig,
    VllmServer,
    dtype,
    environment,
    flags,
    longest_context,
    memory_share,
    num_cards,
    num_sequences,
)
from aimo2.serving.vllm_child import address

STUB = Path(__file__).with_name("vllm_stub.py")
H100 = Card(0, "H100", 81_000, 80_000, (9, 0))
A100 = Card(0, "NVIDIA A100-SXM4-80GB", 81_000, 80_000, (8, 0))
T4 = Card(1, "T4", 16_000, 8_000, (7, 5))


def server(mode: str, logs: Path, on_event: Any = lambda event: None, **options: Any) -> VllmServer:
    return VllmServer(
        VllmConfig(model="x/y", **options),
        [H100],
        on_event=on_event,
        log_dir=logs,
        grace=8.0,
        command=lambda: [sys.executable, str(STUB), mode],
    )


def ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def values(asked: Sequence[str], flag: str) -> list[str]:
    return [asked[i + 1] for i, each in enumerate(asked) if each == flag]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_gone(*pids: int) -> None:
    while not all(gone(pid) for pid in pids):  # noqa: ASYNC110 - another process decides
        await asyncio.sleep(0.02)


def test_flags_follow_from_card_and_load() -> None:
    asked = flags(VllmConfig("x/y", context=4096, concurrency=512), [H100])
    assert values(asked, "--max-model-len") == ["4096"]
    assert values(asked, "--stream-interval") == ["8"]
    assert values(asked, "--served-model-name") == ["x/y"]
    assert "--enable-prefix-caching" in asked
    assert "--stream-interval" not in flags(VllmConfig("x/y", concurrency=4), [H100])


@pytest.mark.parametrize(
    ("card", "concurrency", "passed", "taken"),
    [
        (H100, 16, [], 1024),
        (H100, 512, [], 1024),
        (H100, 2000, ["2000"], 2000),
        (A100, 300, ["300"], 300),
        (T4, 16, [], 256),
    ],
)
def test_what_vllm_takes_at_once_by_itself_is_never_lowered(
    card: Card, concurrency: int, passed: list[str], taken: int
) -> None:
    config = VllmConfig("x/y", concurrency=concurrency)
    assert values(flags(config, [card]), "--max-num-seqs") == passed
    assert num_sequences(config, [card]) == taken
    own = VllmConfig("x/y", concurrency=concurrency, extra=("--max-num-seqs=8",))
    assert num_sequences(own, [card]) == 8


def test_a_model_s_generation_config_changes_no_sampling_unless_asked_to() -> None:
    assert values(flags(VllmConfig("x/y"), [H100]), "--generation-config") == ["vllm"]
    asked = flags(VllmConfig("x/y", extra=("--generation-config", "auto")), [H100])
    assert values(asked, "--generation-config") == ["auto"]


@pytest.mark.parametrize(
    "extra",
    [
        ("--max-model-len", "99"),
        ("--max-model-len=99",),
        ("--max_model_len", "99"),
        ("--no-enable-prefix-caching",),
        ("--tp", "2"),
        ("-tp", "2"),
    ],
)
def test_no_flag_is_given_twice_and_the_user_s_wins(extra: tuple[str, ...]) -> None:
    asked = flags(VllmConfig("x/y", tensor_parallel=2, extra=extra), [H100, H100])
    assert asked[-len(extra) :] == list(extra)
    bare = [each.partition("=")[0].replace("_", "-").replace("--no-", "--") for each in asked]
    names = ["--tensor-parallel-size" if each.endswith("-tp") else each for each in bare]
    wanted = [each for each in names if each.startswith("--")]
    assert len(wanted) == len(set(wanted))


def test_presets_become_flags_and_unknown_ones_are_named() -> None:
    assert "fp8" in flags(VllmConfig("x/y", presets=("fp8", "fp8-kv")), [H100])
    draft = values(flags(VllmConfig("x/y", presets=("draft=a/b",)), [H100]), "--speculative-config")
    assert json.loads(draft[0])["model"] == "a/b"
    with pytest.raises(ConfigError, match="--preset quick is unknown: take fp8"):
        flags(VllmConfig("x/y", presets=("quick",)), [H100])


def test_presets_that_set_the_same_flag_are_refused() -> None:
    with pytest.raises(ConfigError, match="--preset awq and one before it both set --quantization"):
        flags(VllmConfig("x/y", presets=("fp8", "awq")), [H100])
    assert values(flags(VllmConfig("x/y", presets=("fp8", "fp8")), [H100]), "--quantization")


@pytest.mark.parametrize(
    ("tensor_parallel", "extra", "number"),
    [
        (1, (), 1),
        (4, (), 4),
        (1, ("--pipeline-parallel-size", "2"), 2),
        (2, ("--pipeline_parallel_size=2",), 4),
        (1, ("-tp", "2", "-pp=2", "-dp", "2"), 8),
        (4, ("--tensor-parallel-size", "2"), 2),
        (1, ("--tensor-parallel-size", "2", "--tensor-parallel-size", "4"), 4),
        (1, ("--pipeline-parallel-size",), 1),
    ],
)
def test_a_server_gets_as_many_cards_as_its_flags_need(
    tensor_parallel: int, extra: tuple[str, ...], number: int
) -> None:
    assert num_cards(tensor_parallel, extra) == number
    cards = [Card(i, "H100", 81_000, 80_000, (9, 0)) for i in range(8)]
    (group,) = place(ServeOptions(tensor_parallel=tensor_parallel, extra=extra), cards)
    assert len(group) == number


def test_memory_and_number_format_suit_the_weakest_card() -> None:
    assert memory_share([H100, T4]) == 0.45
    assert dtype([H100]) == "auto"
    assert dtype([H100, T4]) == "half"


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 4096, "model_max_length": 2048}, 2048),
        ({"max_position_embeddings": 9, "text_config": {"max_position_embeddings": 2048}}, 2048),
        (
            {
                "max_position_embeddings": 4096,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 2048,
                },
            },
            8192,
        ),
        (
            {"max_position_embeddings": 2048, "rope_scaling": {"type": "llama3", "factor": 8.0}},
            2048,
        ),
        ({"text_config": {"max_position_embeddings": None}}, None),
        ({}, None),
    ],
)
def test_a_model_says_how_many_tokens_it_was_made_for(
    config: dict[str, Any], length: int | None
) -> None:
    assert longest_context(config) == length


def test_a_server_gets_its_cards_and_key_and_ends_with_all_its_processes(tmp_path: Path) -> None:
    async def main() -> None:
        async with server("serve", tmp_path, devices=("2", "3"), api_key="secret") as running:
            seen = await asyncio.to_thread(ask, running.base_url)
            assert (seen["cards"], seen["key"]) == ("2,3", "secret")
            assert "secret" not in " ".join(seen["flags"])
            assert values(seen["flags"], "--model") == ["x/y"]
            pids = [running.pid or 0, seen["child"]]
        await until_gone(*pids)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("oom", "CUDA out of memory.*take less --context"),
        ("long", "greater than the derived max_model_len.*take less --context"),
        ("hub", "not a valid model identifier.*aimo2 models pull"),
        ("odd", "RuntimeError: something nobody has seen; read its log"),
    ],
)
def test_why_a_server_does_not_start_is_one_line_with_a_mend(
    mode: str, words: str, tmp_path: Path
) -> None:
    async def main() -> None:
        await server(mode, tmp_path).start()

    with pytest.raises(ServerError, match=words) as caught:
        asyncio.run(asyncio.wait_for(main(), 60))
    assert "\n" not in str(caught.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        missing = VllmServer(
            VllmConfig("x/y"), log_dir=tmp_path, command=lambda: ["/nonexistent/python"]
        )
        await missing.start()

    with pytest.raises(ServerError, match=r"vLLM cannot be started.*AIMO2_VLLM_PYTHON"):
        asyncio.run(asyncio.wait_for(main(), 60))


def test_a_crash_is_answered_with_one_restart(tmp_path: Path) -> None:
    async def main() -> list[str]:
        kinds: list[str] = []
        back = asyncio.Event()

        def note(event: ServerEvent) -> None:
            kinds.append(event.kind)
            if kinds.count("ready") == 2:
                back.set()

        async with server("serve", tmp_path, note) as running:
            with pytest.raises(OSError):
                await asyncio.to_thread(ask, running.base_url.removesuffix("/v1") + "/crash")
            await back.wait()
            await asyncio.to_thread(ask, running.base_url)
        return [kind for kind in kinds if kind != "loading"]

    assert asyncio.run(asyncio.wait_for(main(), 60)) == ["ready", "crashed", "ready"]


def test_the_death_of_the_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    owner = f"""
import asyncio, sys, urllib.request
from pathlib import Path
from aimo2.serving.vllm import VllmConfig, VllmServer
async def main():
    server = VllmServer(VllmConfig("x/y"), log_dir=Path({str(tmp_path)!r}),
                        command=lambda: [sys.executable, {str(STUB)!r}, "serve"])
    await server.start()
    print(server.pid, urllib.request.urlopen(server.base_url).read().decode(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    command = [sys.executable, "-c", owner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, _, said = process.stdout.readline().partition(" ")
        os.kill(process.pid, signal.SIGKILL)
    asyncio.run(asyncio.wait_for(until_gone(int(pid), json.loads(said)["child"]), 30))


def test_replicas_get_cards_of_their_own() -> None:
    four = [Card(i, "H100", 81_000, 80_000, (9, 0)) for i in range(4)]
    groups = place(ServeOptions(replicas=2, tensor_parallel=2), four)
    assert [[card.index for card in group] for group in groups] == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match="needs 6 GPUs and 4 are here"):
        place(ServeOptions(replicas=3, tensor_parallel=2), four)
    with pytest.raises(ConfigError, match=r"needs 8 GPUs and 4 are here.*Ray"):
        place(ServeOptions(tensor_parallel=8), four)
    ray = ServeOptions(tensor_parallel=8, extra=("--distributed-executor-backend", "ray"))
    assert place(ray, four) == [()]


def test_what_is_missing_is_named_with_the_nearest_command_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aimo2.serving.vllm.is_installed", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as caught:
        choose_engine("nobody/nothing-awq", ServeOptions(), [])
    said = str(caught.value)
    assert "no NVIDIA GPU" in said
    assert "vLLM is not installed" in said
    assert "HF_HUB_OFFLINE" in said
    assert "--model qwen2.5-coder-1.5b" in said
    assert "\n" not in said


def test_models_of_the_catalogue_go_to_llama_cpp() -> None:
    assert choose_engine("smollm2-135m", ServeOptions(), [H100]) == "llama.cpp"
    assert choose_engine("a/file.gguf", ServeOptions(), []) == "llama.cpp"
    with pytest.raises(ConfigError, match=r"llama\.cpp serves the models of"):
        choose_engine("x/y", ServeOptions(engine="llama.cpp"), [])


def indices(groups: Sequence[Sequence[Card]]) -> list[list[int]]:
    return [[card.index for card in group] for group in groups]


def test_the_cards_with_the_most_free_memory_are_taken() -> None:
    free = [2_000, 80_000, 79_500, 40_000, 80_200]
    cards = [Card(i, "H100", 81_000, mib, (9, 0)) for i, mib in enumerate(free)]
    assert indices(place(ServeOptions(), cards)) == [[1]]
    assert indices(place(ServeOptions(replicas=3), cards)) == [[1], [2], [4]]
    assert indices(place(ServeOptions(replicas=2, tensor_parallel=2), cards)) == [[1, 2], [3, 4]]


def test_more_replicas_than_cards_share_them() -> None:
    two = [Card(i, "H100", 81_000, 81_000, (9, 0)) for i in range(2)]
    assert indices(place(ServeOptions(replicas=3), two)) == [[0], [1], [0]]
    alone = values(flags(VllmConfig("x/y"), two[:1]), "--gpu-memory-utilization")
    shared = values(flags(VllmConfig("x/y", sharing=2), two[:1]), "--gpu-memory-utilization")
    assert (alone, shared) == (["0.90"], ["0.45"])


def test_replicas_on_one_card_start_one_after_the_other_and_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    monkeypatch.setenv("AIMO2_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("aimo2.serving.gpu.cards", lambda: (H100,))
    monkeypatch.setattr("aimo2.serving.vllm.is_installed", lambda: True)
    monkeypatch.setattr(
        "aimo2.serving.vllm.server_command", lambda: [sys.executable, str(STUB), "serve"]
    )

    async def main() -> float:
        options = ServeOptions(replicas=2, context=4096, api_key="")
        async with serve(str(tmp_path), options, said.append, Path) as running:
            assert running.slots == 2048
            for url, _ in running.endpoints():
                seen = await asyncio.to_thread(ask, url)
                assert seen["cards"] == "0"
                assert values(seen["flags"], "--max-model-len") == ["2048"]
            loop = asyncio.get_running_loop()
            begun = loop.time()
        return loop.time() - begun

    seconds = asyncio.run(asyncio.wait_for(main(), 60))
    assert seconds < 4.0  # a server that obeys is not waited for to the end of its grace
    assert any("2 replicas share 1 GPU: each takes 1/2" in line for line in said)
    assert any("was made for 2048 tokens" in line for line in said)
    told = [line for line in said if "ready after" in line or "replica 1: loading" in line]
    assert told[0].startswith("replica 0: serving")


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", 0))
            await server("serve", tmp_path, port=other.getsockname()[1]).start()

    with pytest.raises(ServerError, match=r"cannot be had .*: take another --port"):
        asyncio.run(asyncio.wait_for(main(), 60))


def test_a_port_is_free_again_once_its_server_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with server("serve", tmp_path) as first:
            url = first.base_url
            await asyncio.to_thread(ask, url)
        port = int(url.removesuffix("/v1").rpartition(":")[2])
        async with server("serve", tmp_path, port=port) as again:
            assert again.base_url == url

    asyncio.run(asyncio.wait_for(main(), 60))


def test_somebody_else_s_server_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def main() -> None:
        await server("other", tmp_path).start()

    with pytest.raises(ServerError, match="does not have x/y: take another --port"):
        asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_a_server_s_address_is_one_that_can_be_asked(host: str, url: str) -> None:
    assert address(host, 8000) == url


def test_a_server_listens_on_ipv6(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")

    async def main() -> None:
        async with server("serve", tmp_path, host="::1") as running:
            await asyncio.to_thread(ask, running.base_url)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_cards_are_read_from_a_listing() -> None:
    listing = (
        "0, NVIDIA H200, 143771, 143000, 9.0, GPU-aa1\n"
        "1, NVIDIA L4, 23034, [N/A], 8.9, GPU-bb2\nno devices\n"
    )
    h200 = Card(0, "NVIDIA H200", 143771, 143000, (9, 0), "GPU-aa1")
    assert parse_cards(listing) == (h200,)
    assert parse_usage("0, 1200, 55\n1, 3, [N/A]\n") == [(0, 1200, 55.0)]


@pytest.mark.parametrize(
    ("wanted", "handles"),
    [
        (None, ["0", "1", "2"]),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("GPU-c,GPU-a", ["GPU-c", "GPU-a"]),
        ("MIG-12/3", ["MIG-12/3"]),
        ("1,-1,0", ["1"]),
        ("7", []),
        ("-1", []),
        ("", []),
    ],
)
def test_cards_are_those_that_the_user_allows_in_his_order_and_words(
    wanted: str | None, handles: list[str]
) -> None:
    cards = [Card(i, "H100", 81_000, 80_000, (9, 0), f"GPU-{'abc'[i]}0") for i in range(3)]
    assert [card.handle for card in visible(cards, wanted)] == handles


@pytest.mark.parametrize(("own", "order"), [(None, "PCI_BUS_ID"), ("GPU-c", "FASTEST_FIRST")])
def test_our_indices_are_read_in_the_order_they_were_listed_in(
    own: str | None, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if own is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    told = environment(VllmConfig("x/y", devices=(own or "1",)), None)
    assert (told["CUDA_VISIBLE_DEVICES"], told["CUDA_DEVICE_ORDER"]) == (own or "1", order)


def test_only_the_cards_that_are_asked_about_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "0, 70000, 90\n1, 10, 0\n2, 60000, 70\n"
    monkeypatch.setattr(gpu, "_query", lambda fields, timeout: listing)
    assert gpu.usage([0, 2]) == Usage(130_000, 0.8)
    assert gpu.usage([5]) is None


def test_a_card_without_a_model_s_worth_of_memory_serves_none() -> None:
    idle, serving = Card(0, "A", 80_000, 79_600, (9, 0)), Card(1, "A", 80_000, 8_000, (9, 0))
    assert occupied([idle, serving]) == (serving,)


def with_vllm(folder: Path, source: str) -> str:
    """An interpreter that finds a vLLM of this source."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "cli_args.py").write_text(source)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize(
    ("source", "known"), [("disable_uvicorn_access_log: bool = False", True), ("", False)]
)
def test_a_flag_is_given_to_a_vllm_whose_source_has_it(
    source: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMO2_VLLM_PYTHON", with_vllm(tmp_path, source))
    assert vllm.has_flag("--disable-uvicorn-access-log") is known
    given = flags(VllmConfig("x/y", concurrency=64), (), vllm.has_flag)
    assert ("--disable-uvicorn-access-log" in given) is known
    own = VllmConfig("x/y", concurrency=64, extra=("--no-disable-uvicorn-access-log",))
    assert "--disable-uvicorn-access-log" not in flags(own, (), vllm.has_flag)
    few = flags(VllmConfig("x/y", concurrency=8), (), vllm.has_flag)
    assert "--disable-uvicorn-access-log" not in few


def test_a_vllm_that_cannot_be_looked_at_is_given_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMO2_VLLM_PYTHON", "/nonexistent/python")
    assert not vllm.has_flag("--disable-uvicorn-access-log")


@pytest.mark.parametrize(
    ("extra", "several"),
    [
        ((), False),
        (("--api-server-count", "1"), False),
        (("--api-server-count", "4"), True),
        (("-asc", "4"), True),
        (("--api_server_count=4",), True),
    ],
)
def test_several_processes_that_speak_http_are_vllm_serve_s(
    extra: tuple[str, ...], several: bool
) -> None:
    given = flags(VllmConfig("x/y", extra=extra), ())
    command = vllm.whole_command(vllm.server_command(), "x/y", given)
    assert command[-len(given) :] == given
    if several:  # the model stands first, as `vllm serve` wants it
        assert command[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "x/y"]
        assert "--model" not in command
    else:
        assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "x/y"]
    stub = vllm.whole_command(["stub", "serve"], "x/y", given)
    assert stub[:4] == ["stub", "serve", "--model", "x/y"]
