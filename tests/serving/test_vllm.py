"""vLLM servers: flags, and the life of the processes, with a program that takes vLLM's place."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from aimo2.errors import ConfigError, ServerError
from aimo2.serving.gpu import Card, parse_cards, parse_usage
from aimo2.serving.hub import check_model, is_repository
from aimo2.serving.llama_cpp import ServerEvent
from aimo2.serving.serve import ServeOptions, choose_engine, place
from aimo2.serving.vllm import VllmConfig, VllmServer, dtype, flags, memory_share

STUB = Path(__file__).with_name("vllm_stub.py")
H100 = Card(0, "H100", 80_000, 79_000, (9, 0))
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
    assert values(asked, "--max-num-seqs") == ["512"]
    assert values(asked, "--stream-interval") == ["8"]
    assert "--enable-prefix-caching" in asked
    assert "--stream-interval" not in flags(VllmConfig("x/y", concurrency=4), [H100])


@pytest.mark.parametrize(
    "extra",
    [
        ("--max-model-len", "99"),
        ("--max-model-len=99",),
        ("--max_model_len", "99"),
        ("--no-enable-prefix-caching",),
        ("--tp", "2"),
    ],
)
def test_no_flag_is_given_twice_and_the_user_s_wins(extra: tuple[str, ...]) -> None:
    asked = flags(VllmConfig("x/y", tensor_parallel=2, extra=extra), [H100, H100])
    assert asked[-len(extra) :] == list(extra)
    bare = [each.partition("=")[0].replace("_", "-").replace("--no-", "--") for each in asked]
    names = ["--tensor-parallel-size" if each == "--tp" else each for each in bare]
    wanted = [each for each in names if each.startswith("--")]
    assert len(wanted) == len(set(wanted))


def test_presets_become_flags_and_unknown_ones_are_named() -> None:
    assert "fp8" in flags(VllmConfig("x/y", presets=("fp8", "fp8-kv")), [H100])
    draft = values(flags(VllmConfig("x/y", presets=("draft=a/b",)), [H100]), "--speculative-config")
    assert json.loads(draft[0])["model"] == "a/b"
    with pytest.raises(ConfigError, match="--preset quick is unknown: take fp8"):
        flags(VllmConfig("x/y", presets=("quick",)), [H100])


def test_memory_and_number_format_suit_the_weakest_card() -> None:
    assert memory_share([H100, T4]) == 0.45
    assert dtype([H100]) == "auto"
    assert dtype([H100, T4]) == "half"


def test_a_model_s_own_length_bounds_the_context(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    asked = flags(VllmConfig(str(tmp_path), context=8192), [H100])
    assert values(asked, "--max-model-len") == ["2048"]


def test_a_server_gets_its_cards_and_key_and_ends_with_all_its_processes(tmp_path: Path) -> None:
    async def main() -> None:
        async with server("serve", tmp_path, devices=(2, 3), api_key="secret") as running:
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
    four = [Card(i, "H100", 80_000, 79_000, (9, 0)) for i in range(4)]
    groups = place(ServeOptions(replicas=2, tensor_parallel=2), four)
    assert [[card.index for card in group] for group in groups] == [[0, 1], [2, 3]]
    with pytest.raises(ConfigError, match="needs 6 GPUs and 4 are here"):
        place(ServeOptions(replicas=3, tensor_parallel=2), four)
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


def test_a_hub_that_does_not_answer_is_told_within_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="the hub does not answer"):
        check_model("nobody/nothing", timeout=3)


def test_folders_are_models_where_they_have_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    check_model(str(tmp_path))
    with pytest.raises(ConfigError, match="no folder, no hub name"):
        check_model("nothing-like-this")


def test_repositories_have_an_owner() -> None:
    assert is_repository("Qwen/Qwen2.5-7B@main")
    assert not is_repository("qwen2.5-coder-1.5b")


def test_cards_are_read_from_a_listing() -> None:
    listing = "0, NVIDIA H200, 143771, 143000, 9.0\n1, NVIDIA L4, 23034, [N/A], 8.9\nno devices\n"
    assert parse_cards(listing) == (Card(0, "NVIDIA H200", 143771, 143000, (9, 0)),)
    assert parse_usage("0, 1200, 55\n1, 3, [N/A]\n") == [(0, 1200, 55.0)]
