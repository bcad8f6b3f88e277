"""`aimo2 serve`: what cannot work is a line before anything starts."""

import pytest
from typer.testing import CliRunner

from aimo2.cli import app
from aimo2.errors import Aimo2Error
from aimo2.serving.gpu import Card


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("smollm2-135m", "--start-timeout", "0"), "--start-timeout 0: give a number above 0"),
        (("smollm2-135m", "--host", "::1"), "llama.cpp is served on 127.0.0.1 only"),
        (("owner/name@v1",), "owner/name@v1 cannot be had: it is not in the hub's cache"),
        (("owner/na--me@v1",), "is no hub name"),
        (("owner/name", "--tensor-parallel", "2"), "owner/name needs vLLM"),
    ],
)
def test_what_cannot_be_served_is_a_line(
    args: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = CliRunner().invoke(app, ["serve", *args])
    assert isinstance(result.exception, Aimo2Error), result.output
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--preset", "fp8", "--preset", "awq"), "both set --quantization"),
        (("--tensor-parallel", "8"), "needs 8 GPUs and 1 are here"),
        (("--", "--pipeline-parallel-size", "2"), "needs 2 GPUs and 1 are here"),
    ],
)
def test_what_a_gpu_cannot_do_is_a_line(
    args: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aimo2.serving.serve.check_model", lambda model: None)
    monkeypatch.setattr("aimo2.serving.serve.model_config", lambda source: {})
    monkeypatch.setattr("aimo2.serving.vllm.is_installed", lambda: True)
    monkeypatch.setattr(
        "aimo2.serving.gpu.cards", lambda: (Card(0, "H100", 81_000, 80_000, (9, 0)),)
    )
    result = CliRunner().invoke(app, ["serve", "owner/name", *args])
    assert isinstance(result.exception, Aimo2Error), result.output
    assert words in str(result.exception)
