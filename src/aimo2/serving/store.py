"""The models on this disk: fetched, checked, found and removed. Prints nothing, knows no terminal.

HOME/models/FILE            a whole, checked model; nothing else ever has this name
HOME/models/FILE.json       what was true of it when it was checked
HOME/models/FILE.part       the first bytes of one that is being fetched
HOME/models/FILE.parts/     packages on their way into it
HOME/models/FILE.lock       held while one process fetches, checks or removes it
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from aimo2.errors import DiskFullError, DownloadError, IntegrityError, SetupError
from aimo2.serving.catalogue import ModelFile
from aimo2.serving.partial import BadPiece, PartialFile

if TYPE_CHECKING:
    from aimo2.serving.sources import Source

CHUNK = 1 << 20
RETRY_BYTES = 1 << 20
"""A source that broke off is asked again if it got at least so much further."""

Phase = Literal["download", "verify"]
_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Watcher(Protocol):
    """Is told what the store does."""

    def progress(self, done: int, total: int, source: str, phase: Phase) -> None:
        """`done` of `total` bytes are here; called often, from the calling thread."""
        ...

    def note(self, message: str) -> None:
        """One line for the user: a wait, a source that failed, a file that was deleted."""
        ...


class Silent:
    """A `Watcher` that tells nobody."""

    def progress(self, done: int, total: int, source: str, phase: Phase) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""


def default_home() -> Path:
    """`AIMO2_HOME`, or the platform's cache folder."""
    named = os.environ.get("AIMO2_HOME")
    return Path(named).expanduser().absolute() if named else user_cache_path("aimo2")


def _default_sources(model: ModelFile) -> "Sequence[Source]":
    # Imported when something is missing only: the HTTP libraries take a third of a second.
    from aimo2.serving.sources import open_sources

    return open_sources(model)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A file as it was when its hash was right: enough not to hash a gigabyte at every start."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelStore:
    """The models under one home folder. Several processes may use it at the same time.

    Every method may raise `SetupError` where the folder cannot be used.
    """

    home: Path
    open_sources: "Callable[[ModelFile], Sequence[Source]]" = _default_sources

    def path(self, model: ModelFile) -> Path:
        """Where the model is or will be."""
        return self.home / "models" / model.filename

    def present(self, model: ModelFile) -> bool:
        """Whether the whole model is here and unchanged since its hash was checked."""
        stamp = _stamp_of(self.path(model), model)
        return stamp is not None and stamp == _read_stamp(self._beside(model, ".json"))

    def fetched(self, model: ModelFile) -> int:
        """Bytes here, of the model or of a download that was broken off."""
        paths = (self.path(model), self._beside(model, ".part"))
        return max(path.stat().st_size if path.is_file() else 0 for path in paths)

    def ensure(self, model: ModelFile, watcher: Watcher | None = None) -> Path:
        """The model's path, after fetching and checking it where needed.

        Raises `DownloadError` or `IntegrityError` where no source gave the right bytes, and
        `DiskFullError`. What was fetched by then is kept, and the next call goes on from it.
        """
        path, watcher = self.path(model), watcher or Silent()
        if not self.present(model):
            with self._locked(model, watcher):
                if not self.present(model) and not self._adopt(model, watcher):
                    self._fetch(model, watcher)
        return path

    def verify(self, model: ModelFile, watcher: Watcher | None = None) -> Path:
        """Hash the model's file again.

        Raises `SetupError` where it is not here and `IntegrityError` where it is wrong; then it
        was deleted.
        """
        path, watcher = self.path(model), watcher or Silent()
        if not path.exists():
            raise SetupError(f"{model.name} is not here; run: aimo2 models pull {model.name}")
        with self._locked(model, watcher):
            self._check(model, watcher)
        return path

    def remove(self, model: ModelFile, watcher: Watcher | None = None) -> int:
        """Delete the model and whatever is left of downloads. Returns the bytes freed."""
        work = self._beside(model, ".parts")
        with self._locked(model, watcher or Silent()):
            freed = 0
            leftovers = [
                self.path(model),
                *(self._beside(model, end) for end in (".json", ".part")),
            ]
            for path in [*leftovers, *work.rglob("*")]:
                if path.is_file():
                    freed += path.stat().st_size
                    path.unlink()
            shutil.rmtree(work, ignore_errors=True)
        return freed

    def _beside(self, model: ModelFile, suffix: str) -> Path:
        path = self.path(model)
        return path.with_name(path.name + suffix)

    @contextmanager
    def _locked(self, model: ModelFile, watcher: Watcher) -> Iterator[None]:
        with self._writing(model):
            self.path(model).parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._beside(model, ".lock"), poll_interval=0.2)
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                watcher.note(f"another process is at work on {model.name}; waiting for it")
                held = lock.acquire()
            with held:
                yield

    @contextmanager
    def _writing(self, model: ModelFile) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise self._disk_full(model, model.size - self.fetched(model)) from error
            raise SetupError(
                f"{self.home} cannot be used: {error.strerror or error}; "
                "set AIMO2_HOME to a folder that you can write in"
            ) from error

    def _disk_full(self, model: ModelFile, needed: int) -> DiskFullError:
        free = shutil.disk_usage(self.path(model).parent).free
        return DiskFullError(
            f"no room for {model.name} in {self.home}: {needed:,} bytes needed, {free:,} free; "
            "make room, or set AIMO2_HOME to a folder on another disk"
        )

    def _adopt(self, model: ModelFile, watcher: Watcher) -> bool:
        """Whether a file without a valid stamp turned out right; a wrong one is deleted."""
        if not self.path(model).exists():
            return False
        try:
            self._check(model, watcher)
        except IntegrityError as error:
            watcher.note(f"{error}; fetching it again")
            return False
        return True

    def _check(self, model: ModelFile, watcher: Watcher) -> None:
        path = self.path(model)
        digest = _digest(path, model, watcher)
        if digest != model.sha256:
            self._beside(model, ".json").unlink(missing_ok=True)
            path.unlink()
            raise IntegrityError(
                f"{path.name} was not {model.name}: SHA-256 {digest[:12]}…, "
                f"not {model.sha256[:12]}…; it was deleted"
            )
        self._stamp(model)

    def _fetch(self, model: ModelFile, watcher: Watcher) -> None:
        part = self._beside(model, ".part")
        with PartialFile(part, model) as partial:
            cut = partial.recover(lambda done: watcher.progress(done, model.size, "disk", "verify"))
            if cut:
                watcher.note(f"{cut:,} damaged bytes of an earlier download were deleted")
            if partial.missing:
                _Download(self, model, partial, watcher).run()
            partial.finish()
        part.replace(self.path(model))
        _sync_folder(part.parent)
        self._stamp(model)
        shutil.rmtree(self._beside(model, ".parts"), ignore_errors=True)

    def _stamp(self, model: ModelFile) -> None:
        stamp = _stamp_of(self.path(model), model)
        assert stamp is not None, "stamped a file of the wrong size"
        path = self._beside(model, ".json")
        draft = path.with_name(path.name + ".tmp")
        draft.write_text(json.dumps(asdict(stamp)))
        draft.replace(path)


class _Download:
    """One filling of a partial file, source after source."""

    def __init__(
        self, store: ModelStore, model: ModelFile, partial: PartialFile, watcher: Watcher
    ) -> None:
        self._store = store
        self._model = model
        self._partial = partial
        self._watcher = watcher
        self._work = store.path(model).with_name(model.filename + ".parts")
        self._reached = partial.position

    def run(self) -> None:
        """Until no byte is missing. Raises `DownloadError`, `IntegrityError`, `DiskFullError`."""
        failures: list[tuple[Source, DownloadError | IntegrityError]] = []
        for source in self._store.open_sources(self._model):
            if failures:
                self._watcher.note(f"{_reason(*failures[-1])}; trying {source.label}")
            try:
                self._drain(source)
                return
            except (DownloadError, IntegrityError) as error:
                failures.append((source, error))
            except OSError:
                self._forget_packages()  # on a full disk they are in the user's way
                raise
        raise self._defeat(failures)

    def _defeat(
        self, failures: "Sequence[tuple[Source, DownloadError | IntegrityError]]"
    ) -> DownloadError | IntegrityError:
        wrong = any(isinstance(error, IntegrityError) for _, error in failures)
        reasons = "; ".join(_reason(*failure) for failure in failures) or "it has no source here"
        kind = IntegrityError if wrong else DownloadError
        return kind(f"{self._model.name} could not be fetched: {reasons}")

    def _drain(self, source: "Source") -> None:
        """Read one source to the end, asking again as long as that leads further."""
        while self._partial.missing:
            self._check_room(source)
            before = self._reached
            try:
                self._read(source)
            except BadPiece as error:
                self._forget_packages()
                if not error.inherited:
                    raise
            except IntegrityError:
                self._forget_packages()
                raise
            except DownloadError:
                if self._reached - before < RETRY_BYTES:
                    raise
                self._watcher.note(f"{source.label} broke off; asking it again")

    def _read(self, source: "Source") -> None:
        def report(done: int) -> None:
            self._reached = max(self._reached, done)
            self._watcher.progress(self._reached, self._model.size, source.label, "download")

        report(self._partial.position)
        position = self._partial.position
        with closing(source.read(self._model, position, self._work, report)) as chunks:
            for chunk in chunks:
                self._partial.append(chunk)
                report(self._partial.position)
        if self._partial.missing:
            raise DownloadError(f"the file ended {self._partial.missing} bytes early")

    def _check_room(self, source: "Source") -> None:
        missing = self._partial.missing
        needed = missing + min(missing, source.scratch(self._model))
        if shutil.disk_usage(self._work.parent).free < needed:
            raise self._store._disk_full(self._model, needed)

    def _forget_packages(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)


def _reason(source: "Source", error: Exception) -> str:
    return f"{source.label}: {error}"


def _digest(path: Path, model: ModelFile, watcher: Watcher) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            watcher.progress(min(done, model.size), model.size, "disk", "verify")
    return digest.hexdigest()


def _stamp_of(path: Path, model: ModelFile) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_size != model.size:
        return None
    return _Stamp(status.st_size, status.st_mtime_ns, model.sha256)


def _read_stamp(path: Path) -> _Stamp | None:
    try:
        return _Stamp(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there, and a rename needs no such call
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
