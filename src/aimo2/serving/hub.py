"""Hub repositories: whether one can be had, within seconds, and fetching it, pinned to a commit.

Knows no servers. Resuming, parallel parts and checks are huggingface_hub's.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from aimo2.errors import ConfigError, DownloadError, InputError

_CHECK_SECONDS = 8.0
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DUPLICATES = ("*.bin", "*.pth", "*.pt", "*.msgpack", "*.h5", "*.onnx", "original/*", "*.gguf")
"""Left out where there are safetensors: other formats of the same weights."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A repository's files on disk. `commit`: what the revision meant when it was fetched."""

    folder: Path
    commit: str


@dataclass(frozen=True, slots=True)
class Source:
    """What a server loads. `path`: a folder or a repository. `name`: what clients ask for.

    `revision`: of a repository that is still to be fetched; `None`: the default one.
    """

    path: str
    name: str
    revision: str | None = None


def is_repository(name: str) -> bool:
    """Whether it looks like `owner/name`, with or without `@revision`."""
    return _NAME.fullmatch(name.partition("@")[0]) is not None


def check_model(model: str, timeout: float = _CHECK_SECONDS) -> None:
    """See that a server could load `model`: a folder, cached, or on a hub that answers.

    `timeout`: seconds; a server that has to find out by itself may try for minutes. Raises
    `ConfigError` with the mend.
    """
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise ConfigError(f"{model} has no config.json: give the folder of a whole model")
        return
    if not is_repository(model):
        raise ConfigError(
            f"{model} is no folder, no hub name such as Qwen/Qwen2.5-7B-Instruct, and not in "
            "`aimo2 models list`"
        )
    repository, revision = split_revision(model)
    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    except HFValidationError as error:
        raise ConfigError(f"{model} is no hub name: {error}") from error
    if isinstance(cached, str):
        return
    reason = _unreachable(repository, revision or "main", timeout)
    if reason is not None:
        raise ConfigError(f"{model} cannot be had: {reason}")


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/name@revision` in its parts."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def find_source(model: str) -> Source:
    """What a server is told to load for `model`, which `check_model` has let pass.

    A revision that was pulled is its folder: servers take no `@`, and need no hub for a folder.
    """
    repository, revision = split_revision(model)
    if Path(model).is_dir() or revision is None:
        return Source(model, model)
    folder = pulled_folder(repository, revision)
    if folder is not None:
        return Source(str(folder), repository)
    return Source(repository, repository, revision)


def pulled_folder(repository: str, revision: str) -> Path | None:
    """The folder of a revision whose weights are in the hub's cache."""
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=True,
                ignore_patterns=list(_DUPLICATES),
            )
        )
    except (LocalEntryNotFoundError, OSError):
        return None
    has_weights = any(any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin"))
    return folder if has_weights else None


def model_config(source: Source, timeout: float = _CHECK_SECONDS) -> Mapping[str, Any]:
    """A model's config.json: of its folder, the hub's cache or the hub; empty where there is none.

    `timeout`: seconds. Blocks.
    """
    try:
        if Path(source.path).is_dir():
            text: str | bytes = (Path(source.path) / "config.json").read_text()
        else:
            text = _config_of(source, timeout)
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _config_of(source: Source, timeout: float) -> bytes:
    cached = try_to_load_from_cache(source.path, "config.json", revision=source.revision)
    if isinstance(cached, str):
        return Path(cached).read_bytes()
    if constants.HF_HUB_OFFLINE:
        return b"{}"
    path = f"{source.path}/resolve/{source.revision or 'main'}/config.json"
    with urllib.request.urlopen(_request(path), timeout=timeout) as answer:
        content: bytes = answer.read()
    return content


def pull_repository(name: str) -> Pulled:
    """Fetch `owner/name[@revision]`, or what is missing of it, into the hub's cache.

    Raises `InputError` where it does not exist or may not be read, `DownloadError` otherwise.
    """
    repository, revision = split_revision(name)
    reason = _unreachable(repository, revision or "main", _CHECK_SECONDS, probe="")
    if reason is not None:
        raise DownloadError(f"{name} cannot be fetched: {reason}")
    try:
        info = HfApi(endpoint=constants.ENDPOINT).model_info(
            repository, revision=revision, timeout=30
        )
        names = [file.rfilename for file in info.siblings or ()]
        doubles = _DUPLICATES if any(file.endswith(".safetensors") for file in names) else ()
        folder = snapshot_download(
            repository,
            revision=info.sha,
            ignore_patterns=list(doubles),
            endpoint=constants.ENDPOINT,
        )
        _record(Path(folder), revision or "main", info.sha)
    except HFValidationError as error:
        raise InputError(f"{name} is no hub name: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        line = " ".join(str(error).split())[:300]
        text = f"{name} could not be fetched ({line}); run it again to go on"
        raise DownloadError(text) from error
    return Pulled(Path(folder), info.sha or "")


def _record(folder: Path, revision: str, commit: str | None) -> None:
    """Note in the hub's cache what a revision meant: a snapshot that was fetched by its commit is
    found by its commit only, and without the hub `main` would be unknown.
    """
    if commit is not None and revision != commit:
        note = folder.parent.parent / "refs" / revision
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)


def pull_dataset_file(repository: str, file: str, revision: str) -> Path:
    """One file of a data set, from the hub's cache where it is there, else fetched into it.

    Answers within seconds where the hub does not. Raises `DownloadError` with the mend.
    """
    cached = try_to_load_from_cache(repository, file, revision=revision, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    mend = "a copy in --data-dir"
    reason = _unreachable(f"datasets/{repository}", revision, _CHECK_SECONDS, file, mend)
    if reason is not None:
        raise DownloadError(f"{repository} cannot be fetched: {reason}")
    try:
        found = hf_hub_download(repository, file, repo_type="dataset", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        line = " ".join(str(error).split())[:300]
        text = f"{repository} could not be fetched ({line}); run it again, or give {mend}"
        raise DownloadError(text) from error
    return Path(found)


def _unreachable(
    repository: str,
    revision: str,
    timeout: float,
    probe: str = "config.json",
    mend: str = "a folder",
) -> str | None:
    """Why the hub cannot give a repository, in words with the mend; `None` where it can."""
    if constants.HF_HUB_OFFLINE:
        return f"it is not in the hub's cache and HF_HUB_OFFLINE is set: unset it, or give {mend}"
    path = f"{repository}/resolve/{revision}/{probe}" if probe else f"api/models/{repository}"
    try:
        with urllib.request.urlopen(_request(path, "HEAD"), timeout=timeout):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return (
                f"the hub answers {error.code}: check the name, and for a closed model the token "
                "in HF_TOKEN"
            )
        return f"the hub answers {error.code}: try again later, or give {mend}"
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        text = getattr(why, "strerror", None) or str(why)
        return f"the hub does not answer ({text}): give {mend}, or try again later"


def _request(path: str, method: str = "GET") -> urllib.request.Request:
    request = urllib.request.Request(f"{constants.ENDPOINT}/{path}", method=method)
    token = get_token()
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request
