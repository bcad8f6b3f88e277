"""A hub and a package index on localhost, serving a tiny model, that fail on demand."""

import hashlib
import io
import random
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aimo2.serving.catalogue import HubFile, ModelFile, PackageParts

PIECE = 300_000
CONTENT = random.Random(2).randbytes(2 * PIECE + 12_345)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pieces_of(content: bytes) -> list[bytes]:
    return [content[start : start + PIECE] for start in range(0, len(content), PIECE)]


TOY = ModelFile(
    name="toy",
    aliases=("plaything",),
    filename="toy.gguf",
    size=len(CONTENT),
    sha256=_sha256(CONTENT),
    licence="Apache-2.0",
    parameters="1K",
    quantisation="F16",
    context=128,
    piece_size=PIECE,
    piece_sha256=tuple(_sha256(piece) for piece in pieces_of(CONTENT)),
    sources=(
        HubFile("toys/toy", "toy.gguf"),
        PackageParts("toy-part{n}", "0.1.0", "toy_part{n}/data/part{n:02}.bin"),
    ),
)
HUB_ONLY = replace(TOY, sources=TOY.sources[:1])
PARTS_ONLY = replace(TOY, sources=TOY.sources[1:])
HUB_PATH = "/toys/toy/resolve/main/toy.gguf"


def wheel_name(number: int) -> str:
    return f"toy_part{number}-0.1.0-py3-none-any.whl"


def make_wheel(number: int, piece: bytes) -> bytes:
    module, buffer = f"toy_part{number}", io.BytesIO()
    info = f"{module}-0.1.0.dist-info"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('a part was imported')\n")
        wheel.writestr(f"{module}/data/part{number:02}.bin", piece)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 0.1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def make_wheels(content: bytes = CONTENT) -> dict[str, bytes]:
    return {
        f"/files/{wheel_name(number)}": make_wheel(number, piece)
        for number, piece in enumerate(pieces_of(content), start=1)
    }


def spoilt(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@dataclass
class Site:
    """What is served. Offsets count from the start of a file, whatever range was asked for."""

    files: dict[str, bytes] = field(default_factory=lambda: {HUB_PATH: CONTENT, **make_wheels()})
    ranges: bool = True
    """Whether `Range` is honoured."""
    silent: set[str] = field(default_factory=set)
    """Paths that are never answered."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Offsets at which a connection is dropped, one for each request, then none."""
    stalls: dict[str, int] = field(default_factory=dict)
    """Offset at which a reply goes silent, until `release` is set."""
    release: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, int]] = field(default_factory=list)
    """Paths with the offsets asked for."""
    address: str = ""

    def offsets(self, path: str) -> list[int]:
        return [offset for asked, offset in self.requests if asked == path]

    def page(self, path: str) -> bytes | None:
        """The simple index's page of a project (PEP 503)."""
        number = path.removeprefix("/simple/toy-part").removesuffix("/")
        links = [
            f'<a href="{file}#sha256={_sha256(content)}">{file.rpartition("/")[2]}</a>'
            for file, content in self.files.items()
            if f"toy_part{number}-" in file
        ]
        return f"<html><body>{''.join(links)}</body></html>".encode() if links else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        if self.path.startswith("/simple/"):
            self._send_page(self.site.page(self.path))
            return
        start, _, _ = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        self.site.requests.append((self.path, int(start)))
        self.close_connection = True
        if self.path in self.site.silent:
            self.site.release.wait()
        elif (content := self.site.files.get(self.path)) is None:
            self.send_error(404)
        else:
            self._send_file(content, int(start))

    def _send_page(self, page: bytes | None) -> None:
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    def _send_file(self, content: bytes, start: int) -> None:
        if not self.site.ranges:
            start = 0
        self.send_response(206 if "Range" in self.headers and self.site.ranges else 200)
        if self.site.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.site.cuts.get(self.path)
        stop = cuts.pop(0) if cuts else len(content)
        stall = self.site.stalls.get(self.path, stop)
        self.wfile.write(content[start : min(stall, stop)])
        if stall < stop:
            self.site.release.wait()
            self.wfile.write(content[max(start, stall) : stop])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what these tests are about."""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    handler = type("Handler", (_Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield site
        finally:
            site.release.set()
            server.shutdown()
            thread.join()
