"""The package as a wheel: whole, correct by its own RECORD, and the same bytes every time."""

import base64
import csv
import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import aimo2
from aimo2.errors import SetupError
from aimo2.kaggle.bundle import own_wheel
from aimo2.kaggle.bundle.own_wheel import own_version, write_own_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_wheel(tmp_path_factory.mktemp("wheels"))


def test_every_file_of_the_package_is_in_it_and_nothing_that_a_machine_left(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = Path(aimo2.__file__).parent
    wanted = {
        f"aimo2/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted == {name for name in names if name.startswith("aimo2/")}
    assert "aimo2/kaggle/bundle/dry-run.csv" in names
    assert "aimo2/py.typed" in names
    assert not [name for name in names if "pycache" in name or "direct_url" in name]
    assert len(names) == len(set(names))


def test_its_record_has_the_right_hash_and_size_of_every_file(wheel: Path) -> None:
    info = f"aimo2-{own_version()}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert [row[0] for row in rows] == archive.namelist()
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            right = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            assert (digest, size) == (f"sha256={right.decode()}", str(len(content)))
        assert rows[-1] == [f"{info}/RECORD", "", ""]


def test_its_metadata_is_what_installers_read(wheel: Path) -> None:
    [found] = metadata.Distribution.discover(name="aimo2", path=[str(wheel)])
    assert found.version == own_version()
    assert found.requires == metadata.distribution("aimo2").requires
    assert [point.name for point in found.entry_points] == ["aimo2"]
    with zipfile.ZipFile(wheel) as archive:
        info = f"aimo2-{own_version()}.dist-info"
        assert "Tag: py3-none-any" in archive.read(f"{info}/WHEEL").decode()
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()


def test_the_same_package_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert write_own_wheel(tmp_path).read_bytes() == wheel.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]


def test_a_package_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_wheel, "NAME", "no-such-distribution")
    with pytest.raises(SetupError, match="is not installed"):
        write_own_wheel(tmp_path)
