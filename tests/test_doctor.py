import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from aimo2 import doctor
from aimo2.config import ServerConfig
from aimo2.doctor import Check
from aimo2.errors import ServerError, SetupError
from aimo2.llm.features import Features
from aimo2.sandbox.report import LAYERS, LayerReport
from aimo2.serving import machine
from aimo2.serving.catalogue import CATALOGUE, DEFAULT_MODEL, SMOLLM2_135M
from aimo2.serving.machine import Gpu
from aimo2.serving.store import ModelStore
from tests.llm.fake_server import FakeServer, Knobs
from tests.serving.model_site import HUB_PATH, TOY, Site, serving

GB = 10**9
ALL_ON = LayerReport(dict.fromkeys(LAYERS, ""), {"network": True, "reads": True}, {}, (), ())
RAW = Features("raw", True, "the server's /apply-template", True, True, True)
CARD = Gpu("NVIDIA H200", 143771, "570")


def mend_of(check: Check) -> str:
    assert check.mend is not None
    return check.mend


def test_a_problem_without_a_mend_is_a_bug() -> None:
    with pytest.raises(ValueError, match="without a mend"):
        Check("x", "warn", "broken")


def test_this_interpreter_and_these_libraries_are_right() -> None:
    assert doctor.check_python().status == "ok"
    check = doctor.check_libraries()
    assert check.status == "ok"
    assert "sympy 1." in check.detail


def test_an_old_python_fails() -> None:
    check = doctor.judge_python((3, 10), "3.10.2, linux")
    assert (check.status, "3.10.2" in check.detail) == ("fail", True)


def test_windows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    check = doctor.judge_python((3, 12), "3.12.1, win32")
    assert check.status == "fail"
    assert "WSL" in mend_of(check)


def test_a_missing_library_is_named() -> None:
    check = doctor.judge_libraries({"sympy": "1.14.0", "scipy": None, "numpy": None})
    assert (check.status, check.detail) == ("fail", "not installed: scipy, numpy")


def test_what_is_not_installed_has_no_version() -> None:
    assert doctor._version("no-such-distribution") is None


def test_the_engine_is_imported_for_real() -> None:
    check = doctor.check_engine()
    assert check.status == "ok"
    assert "xllamacpp 20" in check.detail


def test_an_engine_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, object]:
        raise ServerError("the engine xllamacpp cannot be used here (SIGILL)")

    monkeypatch.setattr(doctor, "describe_engine", broken)
    check = doctor.check_engine()
    assert (check.status, "SIGILL" in check.detail) == ("fail", True)


@pytest.mark.parametrize(("avx2", "status"), [(True, "ok"), (None, "ok"), (False, "warn")])
def test_a_processor_without_avx2_is_a_warning(avx2: bool | None, status: str) -> None:
    check = doctor.judge_processor("Chip", 4, 8, avx2)
    assert check.status == status
    assert "4 of its cores" in check.detail


@pytest.mark.parametrize(
    ("available", "status", "mend"),
    [(16 * GB, "ok", None), (GB, "warn", "qwen2.5-coder-0.5b"), (10**8, "fail", "--base-url")],
)
def test_memory_is_measured_by_the_models(available: int, status: str, mend: str | None) -> None:
    check = doctor.judge_memory(available, 16 * GB)
    assert check.status == status
    assert (mend or "") in (check.mend or "")


def test_without_cards_there_is_nothing_to_mend() -> None:
    assert doctor.judge_gpus((), (), ours=True).status == "ok"


def test_a_card_that_the_engine_does_not_use_is_a_warning() -> None:
    check = doctor.judge_gpus((CARD,), ("CPU",), ours=True)
    assert (check.status, "140 GiB" in check.detail) == ("warn", True)
    assert "--base-url" in mend_of(check)


@pytest.mark.parametrize(("devices", "ours"), [(("CUDA0", "CPU"), True), ((), False)])
def test_a_card_that_is_used_is_right(devices: tuple[str, ...], ours: bool) -> None:
    assert doctor.judge_gpus((CARD,), devices, ours).status == "ok"


def test_the_engine_is_asked_what_it_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (CARD,))
    monkeypatch.setattr(doctor, "describe_engine", lambda: {"devices": [{"name": "CUDA0"}]})
    assert doctor.check_gpus().status == "ok"


def test_a_home_that_does_not_exist_yet_is_right_and_is_not_made(tmp_path: Path) -> None:
    home = tmp_path / "not" / "yet"
    check = doctor.check_home(ModelStore(home))
    assert check.name == "home"
    assert str(home) in check.detail
    assert not home.parent.exists()


@pytest.mark.parametrize("below", ["", "aimo2/models"])
def test_a_home_that_is_a_file_or_below_one_fails(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    check = doctor.check_home(ModelStore(file / below))
    assert (check.status, f"{file} is a file" in check.detail) == ("fail", True)


def test_a_home_that_cannot_be_written_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    check = doctor.check_home(ModelStore(tmp_path))
    assert (check.status, "Permission denied" in check.detail) == ("fail", True)
    assert "AIMO2_HOME" in mend_of(check)


@pytest.mark.parametrize(
    ("free", "missing", "status"),
    [
        (2 * GB, DEFAULT_MODEL.size, "ok"),
        (GB, DEFAULT_MODEL.size, "fail"),
        (GB, 0, "ok"),
        (10**6, 0, "warn"),
    ],
)
def test_room_is_needed_for_what_is_not_here_yet(free: int, missing: int, status: str) -> None:
    assert doctor.judge_home(Path("/cache"), None, free, missing).status == status


def test_without_the_default_model_the_mend_fetches_it(tmp_path: Path) -> None:
    check = doctor.check_models(ModelStore(tmp_path))
    assert (check.status, check.detail) == ("warn", "here and checked: none")
    assert "aimo2 models pull" in mend_of(check)


def test_a_file_that_was_not_checked_is_a_warning(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.path(SMOLLM2_135M).parent.mkdir()
    store.path(SMOLLM2_135M).touch()
    check = doctor.check_models(store)
    assert (check.status, check.mend) == ("warn", "run `aimo2 models verify`")
    assert check.detail.endswith("not checked: smollm2-135m")


def test_checked_models_are_right() -> None:
    check = doctor.judge_models(dict.fromkeys(CATALOGUE, "checked"))
    assert (check.status, DEFAULT_MODEL.name in check.detail) == ("ok", True)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr(doctor, "DEFAULT_MODEL", TOY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("online")
def test_a_hub_that_sends_a_byte_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site()) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        check = doctor.check_hub()
    assert (check.status, check.detail) == ("ok", f"{site.address} can be reached")
    assert site.offsets(HUB_PATH) == [0]


@pytest.mark.usefixtures("online")
def test_a_hub_without_the_file_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site(files={})) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        check = doctor.check_hub()
    assert (check.status, check.detail.endswith("it answers 404")) == ("warn", True)


@pytest.mark.usefixtures("online")
def test_a_hub_that_refuses_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Site()) as site:
        pass
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    check = doctor.check_hub()
    assert (check.status, "refused" in check.detail) == ("warn", True)
    assert "package index" in mend_of(check)


@pytest.mark.usefixtures("online")
def test_a_silent_hub_does_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_HUB_SECONDS", 0.2)
    with serving(Site(silent={HUB_PATH})) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        check = doctor.check_hub()
        site.release.set()
    assert check.status == "warn"


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    monkeypatch.setattr(doctor, "_first_byte", None)
    assert doctor.check_hub().status == "ok"


def test_a_sandbox_with_every_layer_is_right() -> None:
    check = doctor.judge_sandbox(ALL_ON)
    assert (check.status, "seccomp" in check.detail) == ("ok", True)


def test_a_sandbox_that_was_seen_open_is_a_warning_with_the_reasons() -> None:
    layers = {**ALL_ON.layers, "network namespace": "not permitted"}
    report = replace(ALL_ON, layers=layers, observed={"network": False, "reads": True})
    check = doctor.judge_sandbox(report)
    assert (check.status, check.detail.endswith("open: network")) == ("warn", True)
    assert "network namespace: not permitted" in mend_of(check)


def test_a_module_missing_in_kernels_is_a_warning() -> None:
    check = doctor.judge_sandbox(replace(ALL_ON, missing=("scipy",)))
    assert (check.status, "not installed: scipy" in check.detail) == ("warn", True)


def test_a_sandbox_that_does_not_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken() -> LayerReport:
        raise SetupError("the sandbox did not start: no more processes")

    monkeypatch.setattr(doctor, "probe", broken)
    assert asyncio.run(doctor.check_sandbox()).status == "fail"


async def _check_fake(knobs: Knobs, **config: str) -> tuple[Check, str]:
    async with FakeServer(knobs) as server:
        return await doctor.check_server(ServerConfig(base_url=server.url, **config)), server.url


def test_a_server_that_answers_is_described() -> None:
    check, url = asyncio.run(_check_fake(Knobs()))
    assert check.status == "ok"
    assert check.detail.startswith(f"{url} serves fake; raw mode")


def test_a_chat_only_server_is_a_warning() -> None:
    check, _ = asyncio.run(_check_fake(Knobs(flavour="cloud", chat_only=True)))
    assert (check.status, "chat mode" in check.detail) == ("warn", True)


def test_a_model_that_the_server_does_not_have_fails() -> None:
    check, _ = asyncio.run(_check_fake(Knobs(), model="other"))
    assert (check.status, "'other'" in check.detail) == ("fail", True)


def test_a_server_that_is_not_there_fails() -> None:
    async def main() -> Check:
        async with FakeServer() as server:
            url = server.url
        return await doctor.check_server(ServerConfig(base_url=url))

    check = asyncio.run(main())
    assert (check.status, "--base-url" in mend_of(check)) == ("fail", True)


def test_something_that_is_no_url_fails() -> None:
    check = asyncio.run(doctor.check_server(ServerConfig(base_url="localhost")))
    assert (check.status, "localhost" in check.detail) == ("fail", True)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    right, _ = asyncio.run(_check_fake(Knobs(key="sesame"), api_key_env="MY_KEY"))
    assert right.status == "ok"
    wrong, _ = asyncio.run(_check_fake(Knobs(key="other"), api_key_env="MY_KEY"))
    assert wrong.status == "fail"
    assert "sesame" not in f"{right}{wrong}"


def test_a_key_that_is_not_set_fails_before_anybody_is_asked() -> None:
    config = ServerConfig(base_url="http://127.0.0.1:9/v1", api_key_env="NO_SUCH_KEY")
    check = asyncio.run(doctor.check_server(config))
    assert (check.status, check.detail) == ("fail", "NO_SUCH_KEY is not set")


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No models, no engine, no hub, and a sandbox that is right."""

    async def all_on() -> LayerReport:
        return ALL_ON

    def no_engine() -> dict[str, object]:
        raise ServerError("no engine")

    monkeypatch.setenv("AIMO2_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    monkeypatch.setattr(doctor, "probe", all_on)
    monkeypatch.setattr(doctor, "describe_engine", no_engine)


@pytest.mark.usefixtures("bare_machine")
def test_without_an_engine_a_solve_cannot_work() -> None:
    checks = asyncio.run(doctor.examine())
    assert [check.name for check in checks] == [
        *("python", "libraries", "engine", "processor", "memory", "gpu", "home", "models", "hub"),
        "sandbox",
    ]
    assert "engine" in [check.name for check in checks if check.status == "fail"]


@pytest.mark.usefixtures("bare_machine")
def test_with_a_server_our_own_engine_is_a_warning_at_worst() -> None:
    async def main() -> tuple[Check, ...]:
        async with FakeServer() as server:
            return await doctor.examine(ServerConfig(base_url=server.url))

    statuses = {check.name: check.status for check in asyncio.run(main())}
    assert (statuses["engine"], statuses["server"]) == ("warn", "ok")
    assert statuses["memory"] != "fail"
