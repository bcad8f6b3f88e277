"""A model's file while it is being fetched: grows at its end, hashed as it grows.

Every piece is checked when its last byte comes, so that a wrong byte costs one piece, is laid to
the source that sent it, and what stays on the disk is good to resume from. Knows no network.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aimo2.errors import DownloadError, IntegrityError
from aimo2.serving.catalogue import ModelFile, Piece

CHUNK = 1 << 20


class BadPiece(IntegrityError):  # noqa: N818 - reads as a state, like its siblings
    """A piece's bytes are wrong and were cut off.

    `inherited`: some of them were on the disk before, so that the sender may be innocent.
    """

    def __init__(self, piece: Piece, digest: str, *, inherited: bool) -> None:
        super().__init__(
            f"bytes {piece.start} to {piece.stop} have SHA-256 {digest[:12]}…, "
            f"not {piece.sha256[:12]}…; they were deleted"
        )
        self.inherited = inherited


class PartialFile:
    """The first `position` bytes of a model, on disk. A context manager that closes the file.

    Opening makes the file where there is none. Raises `OSError` from every method that writes.
    """

    def __init__(self, path: Path, model: ModelFile) -> None:
        self._model = model
        self._pieces = model.pieces
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self._begin_piece(0, 0, hashlib.sha256())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self._model.size - self.position

    def recover(self, on_hashed: Callable[[int], None]) -> int:
        """Hash what an earlier attempt left and cut it off from the first wrong piece on.

        `on_hashed` is told the bytes read so far. Returns the bytes cut off. Call it once, before
        `append`.
        """
        found = os.fstat(self._fd).st_size
        os.lseek(self._fd, 0, os.SEEK_SET)
        try:
            while self.missing and (chunk := os.read(self._fd, min(CHUNK, self.missing))):
                self._feed(chunk, write=False)
                on_hashed(self.position)
        except BadPiece:
            pass  # cut off already
        os.ftruncate(self._fd, self.position)
        os.lseek(self._fd, self.position, os.SEEK_SET)
        self._inherited = self.position > self._start
        return found - self.position

    def append(self, chunk: bytes) -> None:
        """Add bytes at `position`.

        Raises `BadPiece` where a piece is wrong, and `IntegrityError` beyond the model's size.
        """
        if len(chunk) > self.missing:
            raise IntegrityError(f"more bytes came than the {self._model.size} of the file")
        self._feed(chunk, write=True)

    def finish(self) -> None:
        """Check the whole and bring it to the disk.

        Raises `DownloadError` where bytes are missing and `IntegrityError` where they are wrong.
        """
        if self.missing:
            raise DownloadError(f"{self.missing} bytes of {self._model.name} are missing")
        if self._whole.hexdigest() != self._model.sha256:
            os.ftruncate(self._fd, 0)
            raise IntegrityError(f"the pieces of {self._model.name} are right, the whole is not")
        os.fsync(self._fd)

    def _feed(self, chunk: bytes, *, write: bool) -> None:
        view = memoryview(chunk)
        while view:
            piece = self._pieces[self._index]
            room = piece.stop - self.position
            head, view = view[:room], view[room:]
            if write:
                _write_all(self._fd, head)
            self._piece.update(head)
            self._whole.update(head)
            self.position += len(head)
            if self.position == piece.stop:
                self._close_piece(piece)

    def _close_piece(self, piece: Piece) -> None:
        digest, inherited = self._piece.hexdigest(), self._inherited
        if digest == piece.sha256:
            self._begin_piece(piece.index + 1, piece.stop, self._whole)
            return
        self._begin_piece(piece.index, piece.start, self._whole_before)
        os.ftruncate(self._fd, piece.start)
        os.lseek(self._fd, piece.start, os.SEEK_SET)
        raise BadPiece(piece, digest, inherited=inherited)

    def _begin_piece(self, index: int, start: int, whole: "hashlib._Hash") -> None:
        self.position = self._start = start
        self._index = index
        self._inherited = False
        self._piece = hashlib.sha256()
        self._whole = whole
        self._whole_before = whole.copy()


def _write_all(fd: int, view: memoryview) -> None:
    # Unbuffered: a full disk is then seen here, and not a second time when the file is closed.
    while view:
        view = view[os.write(fd, view) :]
