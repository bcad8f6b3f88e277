import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aimo2.serving import llama_child
from aimo2.serving.llama_child import Request, parameters
from tests.serving import llama_stub

REQUEST = Request(
    model_path="/models/tiny.gguf",
    alias="tiny",
    slots=3,
    context=1024,
    threads=2,
    cache_mib=64,
    port=0,
    api_key="sesame",
    parent_pid=1,
)


def test_a_request_survives_the_pipe() -> None:
    line = REQUEST.encode()
    assert line.count(b"\n") == 1
    assert Request.decode(line.decode()) == REQUEST


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"slots": 1}', "nonsense"])
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Request.decode(line)


def test_the_key_is_not_shown() -> None:
    assert "sesame" not in repr(REQUEST)


def test_the_server_listens_on_loopback_only_and_wants_the_key() -> None:
    params = parameters(llama_stub.engine(), REQUEST)
    assert params.hostnames == ["127.0.0.1"]
    assert params.api_keys == ["sesame"]
    assert params.ui is False


def test_every_slot_has_the_whole_context() -> None:
    params = parameters(llama_stub.engine(), REQUEST)
    assert (params.n_parallel, params.n_ctx, params.kv_unified) == (3, 3 * 1024, False)


def test_prompts_and_replies_use_the_same_threads() -> None:
    params = parameters(llama_stub.engine(), REQUEST)
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 2


def test_a_wanted_port_is_used_while_it_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert _port_for(port) == 0
    assert _port_for(port) == port


def _port_for(port: int) -> int:
    values = json.loads(REQUEST.encode()) | {"port": port}
    params = parameters(llama_stub.engine(), Request(**values))
    return int(params.port)


def test_every_parameter_that_we_set_is_one_of_the_real_engine() -> None:
    import xllamacpp

    scripted = vars(parameters(llama_stub.engine(), REQUEST))
    real = parameters(xllamacpp, REQUEST)
    assert [name for name in scripted if not hasattr(real, name)] == []
    assert real.n_ctx == 3 * 1024
    assert real.model.path == "/models/tiny.gguf"
    assert real.cpuparams_batch.n_threads == 2


def test_a_child_without_a_request_ends() -> None:
    command = [sys.executable, "-P", "-m", "aimo2.serving.llama_child"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (1, b"")


def test_a_child_whose_parent_is_already_gone_ends(tmp_path: Path) -> None:
    stub = Path(llama_stub.__file__)
    fifo = tmp_path / "loading"
    request = Request(**(json.loads(REQUEST.encode()) | {"parent_pid": 2**22 + 1}))
    result = subprocess.run(
        [sys.executable, str(stub), "hold", str(fifo)],
        input=request.encode(),
        capture_output=True,
        check=False,
    )
    assert result.stdout == b""
    assert not fifo.exists()


def test_a_missing_engine_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(llama_child._EngineMissingError):
        llama_child.describe()


def test_the_engine_is_described() -> None:
    described = llama_child.describe()
    assert set(described) == {"version", "system", "devices"}
    assert json.loads(json.dumps(described)) == described
