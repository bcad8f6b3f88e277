"""For the model store's tests: an environment that reaches the toy site only, and a witness."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest

from aimo2.serving.store import Phase
from tests.serving.model_site import Site, serving

_INDEX_SETTINGS = ("UV_", "PIP_", "HF_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def toy_environment(site: Site, cache: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": site.address,
        "UV_DEFAULT_INDEX": f"{site.address}/simple",
        "UV_CACHE_DIR": str(cache),
        "UV_HTTP_RETRIES": "0",
        "UV_NO_CONFIG": "1",
        "PIP_INDEX_URL": f"{site.address}/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    for name in os.environ:
        if name.upper().startswith(_INDEX_SETTINGS) and name != "UV":
            monkeypatch.delenv(name)
    with serving(Site()) as running:
        for name, value in toy_environment(running, tmp_path / "uv-cache").items():
            monkeypatch.setenv(name, value)
        yield running
        huggingface_hub.close_session()


@dataclass
class Witness:
    """A `Watcher` that remembers."""

    notes: list[str] = field(default_factory=list)
    seen: list[tuple[int, str, Phase]] = field(default_factory=list)

    def progress(self, done: int, total: int, source: str, phase: Phase) -> None:
        assert 0 <= done <= total
        self.seen.append((done, source, phase))

    def note(self, message: str) -> None:
        self.notes.append(message)

    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for _, source, _ in self.seen))


CHILD = """
import sys
from pathlib import Path
from aimo2.serving.catalogue import HubFile, ModelFile, PackageParts
from aimo2.serving.store import ModelStore

class Teller:
    def progress(self, done, total, source, phase):
        print(f"at {done}", flush=True)
    def note(self, message):
        print(f"note {message}", flush=True)

print("done", ModelStore(Path(sys.argv[1])).ensure(eval(sys.argv[2]), Teller()), flush=True)
"""


def start_child(home: Path, model: object) -> subprocess.Popen[str]:
    """Another process that fetches `model` and prints what its watcher is told."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), repr(model)], stdout=subprocess.PIPE, text=True
    )


def read_until(child: subprocess.Popen[str], wanted: str) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(wanted):
            return line.strip()
    raise AssertionError(f"the child ended without {wanted!r}")
