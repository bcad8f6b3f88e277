import io
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aimo2.errors import DownloadError, IntegrityError
from aimo2.serving import packages
from aimo2.serving.catalogue import PackageParts
from aimo2.serving.index_tools import Wheel, find_uv, resolve
from aimo2.serving.packages import PackageSource, package_sources
from tests.serving.model_site import (
    CONTENT,
    PARTS_ONLY,
    PIECE,
    Site,
    make_wheel,
    make_wheels,
    spoilt,
    wheel_name,
)
from tests.serving.model_store_fixtures import site

__all__ = ["site"]

SECOND = f"/files/{wheel_name(2)}"
pytestmark = pytest.mark.skipif(find_uv() is None, reason="uv is not on this machine")


def sources() -> dict[str, PackageSource]:
    spec = PARTS_ONLY.sources[0]
    assert isinstance(spec, PackageParts)
    return {source.label: source for source in package_sources(spec)}


def fetch(
    source: PackageSource, work: Path, offset: int = 0, report: Callable[[int], None] = print
) -> bytes:
    return b"".join(source.read(PARTS_ONLY, offset, work, report))


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "label", ["package index", "package index, by uv", "package index, by pip"]
)
@pytest.mark.parametrize("offset", [0, PIECE + 7])
def test_every_way_gives_the_bytes_and_leaves_nothing(
    label: str, offset: int, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert fetch(sources()[label], work, offset) == CONTENT[offset:]
    assert [path for path in work.rglob("*") if path.suffix in {".whl", ".bin"}] == []


def test_packages_before_the_offset_are_not_fetched(site: Site, tmp_path: Path) -> None:
    fetch(sources()["package index"], tmp_path / "work", PIECE)
    assert site.offsets(f"/files/{wheel_name(1)}") == []
    assert site.offsets(SECOND) == [0]


def test_progress_counts_what_was_fetched_ahead(site: Site, tmp_path: Path) -> None:
    site.stalls[f"/files/{wheel_name(1)}"] = 1000
    seen = []

    def report(done: int) -> None:
        seen.append(done)
        if done > PIECE:
            site.release.set()

    assert fetch(sources()["package index"], tmp_path / "work", report=report) == CONTENT
    assert max(seen) > PIECE
    assert max(seen) <= len(CONTENT)


@pytest.mark.parametrize("hashes", [True, False])
def test_a_broken_off_wheel_is_resumed_where_its_hash_is_known(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: bool
) -> None:
    def resolve_without_hashes(uv: str, requirements: Sequence[str]) -> dict[str, Wheel]:
        return {
            name: replace(wheel, sha256=None) for name, wheel in resolve(uv, requirements).items()
        }

    if not hashes:
        monkeypatch.setattr(packages, "resolve", resolve_without_hashes)
    site.cuts[SECOND] = [200_000]
    source = sources()["package index"]
    with pytest.raises(DownloadError):
        fetch(source, tmp_path / "work", PIECE)
    assert fetch(source, tmp_path / "work", PIECE) == CONTENT[PIECE:]
    assert site.offsets(SECOND) == [0, 200_000 if hashes else 0]


def test_a_damaged_rest_of_a_wheel_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "001.whl.part").write_bytes(b"not a wheel")
    assert fetch(sources()["package index"], work, PIECE) == CONTENT[PIECE:]
    assert site.offsets(SECOND) == [11, 0]


def test_a_whole_wheel_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "001.whl.part").write_bytes(site.files[SECOND])
    assert fetch(sources()["package index"], work, PIECE) == CONTENT[PIECE:]
    assert site.offsets(SECOND) == []


def test_a_wheel_that_its_index_disowns_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = resolve(find_uv() or "", ["toy-part3==0.1.0"])
    site.files |= make_wheels(spoilt(CONTENT, 2 * PIECE))
    monkeypatch.setattr(packages, "resolve", lambda uv, requirements: named)
    with pytest.raises(IntegrityError, match=r"toy-part3==0\.1\.0 has not the SHA-256"):
        fetch(sources()["package index"], tmp_path / "work", 2 * PIECE)


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        (make_wheel(3, b"short"), "has 5 bytes, not 12345"),
        (make_wheel(4, CONTENT[2 * PIECE :]), "cannot be read from its package|Failed to install"),
        (b"PK, but no archive", "cannot be read from its package|Failed to"),
    ],
    ids=["short", "another member", "no archive"],
)
@pytest.mark.parametrize("label", ["package index", "package index, by uv"])
def test_a_package_without_the_piece_is_refused(
    site: Site, tmp_path: Path, wheel: bytes, message: str, label: str
) -> None:
    site.files[f"/files/{wheel_name(3)}"] = wheel
    with pytest.raises((IntegrityError, DownloadError), match=message):
        fetch(sources()[label], tmp_path / "work", 2 * PIECE)


@pytest.mark.usefixtures("site")
def test_wheels_in_a_local_folder_are_read_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for path, content in make_wheels().items():
        (folder / Path(path).name).write_bytes(content)
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert fetch(sources()["package index"], tmp_path / "work") == CONTENT
    assert len(list(folder.iterdir())) == 3


def source_package(marker: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {
            "setup.py": f"open({str(marker)!r}, 'w').close()\n",
            "PKG-INFO": "Metadata-Version: 2.1\nName: toy-part1\nVersion: 0.1.0\n",
        }.items():
            member = tarfile.TarInfo(f"toy_part1-0.1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "label", ["package index", "package index, by uv", "package index, by pip"]
)
def test_no_code_of_a_source_package_is_run(site: Site, tmp_path: Path, label: str) -> None:
    marker = tmp_path / "ran"
    site.files = {"/files/toy_part1-0.1.0.tar.gz": source_package(marker)}
    with pytest.raises(DownloadError):
        fetch(sources()[label], tmp_path / "work")
    assert not marker.exists()


@pytest.mark.parametrize(
    "label", ["package index", "package index, by uv", "package index, by pip"]
)
def test_an_index_without_the_package_is_reported(site: Site, tmp_path: Path, label: str) -> None:
    site.files.clear()
    with pytest.raises(DownloadError, match="toy-part1"):
        fetch(sources()[label], tmp_path / "work")


def test_a_tool_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="uv could not be run"):
        resolve(str(tmp_path / "no-uv"), ["toy-part1==0.1.0"])


def test_a_full_disk_is_recognised_in_a_tools_words(tmp_path: Path) -> None:
    def arguments(requirement: str, out: Path, scratch: Path) -> list[str]:
        return ["sh", "-c", "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1"]

    spec = PARTS_ONLY.sources[0]
    assert isinstance(spec, PackageParts)
    with pytest.raises(OSError, match="No space left"):
        fetch(PackageSource(spec, "tool", packages.Tool(arguments)), tmp_path / "work")


def test_giving_up_ends_the_tools(site: Site, tmp_path: Path) -> None:
    site.silent.add(f"/files/{wheel_name(1)}")
    pids = tmp_path / "pids"

    def arguments(requirement: str, out: Path, scratch: Path) -> list[str]:
        return ["sh", "-c", f"echo $$ >> {pids}; exec sleep 600"]

    def report(done: int) -> None:
        if pids.exists() and len(pids.read_text().split()) == packages.WINDOW:
            raise KeyboardInterrupt

    spec = PARTS_ONLY.sources[0]
    assert isinstance(spec, PackageParts)
    source = PackageSource(spec, "tool", packages.Tool(arguments))
    with pytest.raises(KeyboardInterrupt):
        fetch(source, tmp_path / "work", report=report)
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
