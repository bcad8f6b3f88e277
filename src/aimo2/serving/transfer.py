"""Read a URL from a byte offset, giving up within seconds. Knows no models and no disk."""

import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import closing
from urllib.parse import urlsplit

import httpx2

from aimo2.errors import DownloadError

CONNECT_SECONDS = 4.0
OPEN_SECONDS = 8.0
"""From the request to the reply's header, look-up, redirects and every address tried included."""
READ_SECONDS = 15.0
"""Longest silence in the middle of a reply."""


def timeouts() -> httpx2.Timeout:
    """The limits of one request."""
    return httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)


def read_url(
    client: httpx2.Client, url: str, offset: int, headers: Mapping[str, str] | None = None
) -> Generator[bytes, None, None]:
    """Yield the bytes of `url` from `offset` on, as they come.

    A server that ignores ranges is read from its start and the first `offset` bytes are dropped.

    Raises `DownloadError`, which names the host only: a URL may hold a password.
    """
    try:
        with closing(_open(client, url, offset, headers or {})) as response:
            skip = _bytes_to_drop(response, offset)
            for chunk in response.iter_raw():
                if kept := chunk[skip:]:
                    yield kept
                skip = max(0, skip - len(chunk))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{_host(url)} cannot be read: {reason}") from error


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "an address without a host"
    except ValueError:
        return "an address that is none"


def _open(
    client: httpx2.Client, url: str, offset: int, headers: Mapping[str, str]
) -> httpx2.Response:
    request = client.build_request(
        "GET",
        url,
        headers={**headers, "Range": f"bytes={offset}-", "Accept-Encoding": "identity"},
        timeout=timeouts(),
    )
    return _within(OPEN_SECONDS, lambda: client.send(request, stream=True, follow_redirects=True))


def _bytes_to_drop(response: httpx2.Response, offset: int) -> int:
    if response.status_code == 200:
        return offset
    expected = f"bytes {offset}-"
    if response.status_code == 206 and response.headers.get("content-range", expected).startswith(
        expected
    ):
        return 0
    raise ValueError(f"HTTP {response.status_code} {response.reason_phrase}")


def _within(seconds: float, call: Callable[[], httpx2.Response]) -> httpx2.Response:
    """What `call` gives, or `OSError` after `seconds`.

    The client's own limits are not enough: a name look-up has none, and each address of a host
    gets the whole connection time-out. A daemon thread, because a late look-up must not keep the
    interpreter from ending.
    """
    reply: Future[httpx2.Response] = Future()

    def run() -> None:
        try:
            reply.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for it
            reply.set_exception(error)

    threading.Thread(target=run, daemon=True, name="aimo2-open-url").start()
    try:
        return reply.result(seconds)
    except TimeoutError:
        reply.add_done_callback(_close_late)
        raise OSError(f"no answer within {seconds:g} s") from None


def _close_late(reply: Future[httpx2.Response]) -> None:
    if reply.exception() is None:
        reply.result().close()
