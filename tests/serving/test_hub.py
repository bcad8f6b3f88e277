"""Hub repositories: what is here, what it is called, and finding it again without the hub."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from aimo2.errors import ConfigError
from aimo2.serving import hub
from aimo2.serving.hub import (
    Source,
    check_model,
    find_source,
    is_repository,
    model_config,
    pull_repository,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that fills it with one commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    fetch = snapshot_download

    def fetched(repository: str, **how: Any) -> str:
        if how.get("local_files_only"):
            return str(fetch(repository, **how))
        assert how["revision"] == COMMIT
        owner, name = repository.split("/")
        folder = tmp_path / f"models--{owner}--{name}" / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"max_position_embeddings": 77}')
        (folder / "model.safetensors").write_bytes(b"weights")
        return str(folder)

    class Api:
        def __init__(self, **how: object) -> None:
            pass

        def model_info(self, repository: str, **how: object) -> SimpleNamespace:
            return SimpleNamespace(sha=COMMIT, siblings=[])

    monkeypatch.setattr(hub, "snapshot_download", fetched)
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "_unreachable", lambda *args, **how: None)
    return tmp_path


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_unreachable", lambda *args, **how: "there is no hub")


def test_a_hub_that_does_not_answer_is_told_within_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="the hub does not answer"):
        check_model("nobody/nothing", timeout=3)
    assert model_config(Source("nobody/nothing", "nobody/nothing"), timeout=3) == {}


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


def test_a_name_that_the_hub_cannot_have_is_a_line() -> None:
    with pytest.raises(ConfigError, match="is no hub name"):
        check_model("owner/na--me")


@pytest.mark.parametrize(("asked", "revision"), [("a/b", "main"), ("a/b@v1", "v1")])
def test_what_was_pulled_is_found_again_without_the_hub(
    asked: str, revision: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = pull_repository(asked)
    go_offline(monkeypatch)
    check_model(asked)
    assert find_source(f"a/b@{revision}") == Source(str(pulled.folder), "a/b")
    assert model_config(find_source(asked)) == {"max_position_embeddings": 77}
    with pytest.raises(ConfigError, match="there is no hub"):
        check_model("a/b@v2")


def test_a_commit_that_was_pulled_needs_no_note(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = pull_repository(f"a/b@{COMMIT}")
    go_offline(monkeypatch)
    assert find_source(f"a/b@{COMMIT}") == Source(str(pulled.folder), "a/b")
    assert not (cache / "models--a--b" / "refs").exists()


def test_a_revision_that_is_not_here_is_left_to_the_server(cache: Path) -> None:
    assert find_source("a/b@v1") == Source("a/b", "a/b", "v1")
    assert find_source("a/b") == Source("a/b", "a/b")


def test_a_revision_without_weights_is_not_here(cache: Path) -> None:
    pulled = pull_repository("a/b@v1")
    (pulled.folder / "model.safetensors").unlink()
    assert find_source("a/b@v1") == Source("a/b", "a/b", "v1")


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x"}))
    source = find_source(str(tmp_path))
    assert source == Source(str(tmp_path), str(tmp_path))
    assert model_config(source) == {"model_type": "x"}
