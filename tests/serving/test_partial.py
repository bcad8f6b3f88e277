import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aimo2.errors import DownloadError, IntegrityError
from aimo2.serving.partial import BadPiece, PartialFile
from tests.serving.model_site import CONTENT, PIECE, TOY, spoilt

offsets = st.one_of(
    st.integers(0, len(CONTENT)), st.sampled_from([0, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
)


def ignore(done: int) -> None:
    pass


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(offsets, max_size=4), left=offsets)
def test_any_split_and_any_earlier_length_give_the_file(
    tmp_path: Path, cuts: list[int], left: int
) -> None:
    path = tmp_path / "toy.part"
    path.write_bytes(CONTENT[:left])
    with PartialFile(path, TOY) as partial:
        assert partial.recover(ignore) == 0
        assert partial.position == left
        stops = sorted(cut for cut in cuts if cut > left)
        for start, stop in zip([left, *stops], [*stops, len(CONTENT)], strict=True):
            partial.append(CONTENT[start:stop])
        partial.finish()
    assert path.read_bytes() == CONTENT


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wrong=st.integers(0, len(CONTENT) - 1))
def test_recovery_cuts_from_the_first_wrong_piece_on(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "toy.part"
    path.write_bytes(spoilt(CONTENT, wrong))
    good = wrong // PIECE * PIECE
    with PartialFile(path, TOY) as partial:
        assert partial.recover(ignore) == len(CONTENT) - good
        assert partial.position == good
        partial.append(CONTENT[good:])
        partial.finish()
    assert path.read_bytes() == CONTENT


def test_bytes_beyond_the_model_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "toy.part"
    path.write_bytes(CONTENT + b"more")
    with PartialFile(path, TOY) as partial:
        assert partial.recover(ignore) == 4
        partial.finish()
    assert path.read_bytes() == CONTENT


def test_a_wrong_piece_is_cut_off_and_laid_to_its_sender(tmp_path: Path) -> None:
    path = tmp_path / "toy.part"
    with PartialFile(path, TOY) as partial:
        partial.append(CONTENT[: PIECE + 10])
        with pytest.raises(BadPiece, match=f"bytes {PIECE} to {2 * PIECE} have SHA-256") as caught:
            partial.append(spoilt(CONTENT, PIECE + 20)[PIECE + 10 :])
        assert not caught.value.inherited
        assert partial.position == PIECE == path.stat().st_size
        partial.append(CONTENT[PIECE:])
        partial.finish()


def test_a_wrong_piece_that_was_begun_before_is_not_laid_to_its_sender(tmp_path: Path) -> None:
    path = tmp_path / "toy.part"
    path.write_bytes(spoilt(CONTENT, PIECE + 1)[: PIECE + 10])
    with PartialFile(path, TOY) as partial:
        partial.recover(ignore)
        with pytest.raises(BadPiece) as caught:
            partial.append(CONTENT[PIECE + 10 :])
        assert caught.value.inherited
        assert partial.position == PIECE


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "toy.part", TOY) as partial:
        with pytest.raises(IntegrityError, match="more bytes came"):
            partial.append(CONTENT + b"x")
        assert partial.position == 0


def test_a_short_file_cannot_be_finished(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "toy.part", TOY) as partial:
        partial.append(CONTENT[:-7])
        with pytest.raises(DownloadError, match="7 bytes of toy are missing"):
            partial.finish()


def test_the_whole_files_hash_has_the_last_word(tmp_path: Path) -> None:
    path, other = tmp_path / "toy.part", hashlib.sha256(b"").hexdigest()
    with PartialFile(path, replace(TOY, sha256=other)) as partial:
        partial.append(CONTENT)
        with pytest.raises(IntegrityError, match="the whole is not"):
            partial.finish()
    assert path.stat().st_size == 0
