"""This package as a wheel, made from wherever it is installed. Knows no package index.

Nothing is built: a pure Python package's wheel is its files in a zip, with the metadata that its
installation has kept. So it works without the source tree, the build tool and the network, and
the same files always give the same bytes.
"""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import aimo2
from aimo2.errors import DiskFullError, SetupError

NAME = "aimo2"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TAG = "py3-none-any"
_KEPT = ("METADATA", "entry_points.txt")


def own_version() -> str:
    """The version that the installation says it has. Raises `SetupError` where there is none."""
    return _distribution().version


def write_own_wheel(folder: Path) -> Path:
    """The wheel's path, in `folder`.

    Raises `SetupError` where the package runs without being installed, and `DiskFullError`.
    """
    distribution = _distribution()
    info = f"{NAME}-{distribution.version}.dist-info"
    path = folder / f"{NAME}-{distribution.version}-{_TAG}.whl"
    part = path.with_suffix(".part")
    record = []
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _contents(distribution, info):
                archive.writestr(_entry(name), content)
                record.append(f"{name},sha256={_digest(content)},{len(content)}\n")
            record.append(f"{info}/RECORD,,\n")
            archive.writestr(_entry(f"{info}/RECORD"), "".join(record))
        part.replace(path)
    except OSError as error:
        raise DiskFullError(f"cannot write {path}: {error.strerror}") from error
    return path


def _distribution() -> metadata.Distribution:
    try:
        return metadata.distribution(NAME)
    except metadata.PackageNotFoundError as error:
        raise SetupError(
            "aimo2 runs from a folder and is not installed, so that its requirements are not"
            " known; install it (pip install ., or uv sync) and run it from there"
        ) from error


def _contents(distribution: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the wheel but its RECORD: the package, then the metadata."""
    package = Path(aimo2.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts:
            yield f"{NAME}/{path.relative_to(package).as_posix()}", path.read_bytes()
    for name in _KEPT:
        text = distribution.read_text(name)
        if text is None:
            raise SetupError(f"the installation of aimo2 has lost its {name}; install it again")
        yield f"{info}/{name}", text.encode()
    for kept in distribution.files or ():
        if "licenses" in kept.parts:
            yield f"{info}/licenses/{kept.name}", kept.read_binary()
    wheel = f"Wheel-Version: 1.0\nGenerator: aimo2\nRoot-Is-Purelib: true\nTag: {_TAG}\n"
    yield f"{info}/WHEEL", wheel.encode()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100644 << 16
    return entry


def _digest(content: bytes) -> str:
    """As RECORD has it: base64 for URLs, without the padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
