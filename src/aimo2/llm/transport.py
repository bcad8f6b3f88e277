"""HTTP to an inference server: opens streams, reads JSON, gives every failure our name.

Knows no prompts and no retries. Foreign errors end here; the key is in no message and no repr.
"""

import asyncio
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from aimo2.deadline import Deadline
from aimo2.errors import (
    ConfigError,
    ContextFull,
    DeadlinePassed,
    KeyRefused,
    ModelUnavailable,
    RequestRejected,
)

_BODY_LIMIT = 64 * 1024
_SHOWN = 300
_TIMER_SLACK = 0.01
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_CONTEXT_FULL = re.compile(
    r"exceed_context_size|context_length_exceeded|context (?:length|size|window)"
    r"|longer than the model|prompt is too long|max_model_len",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how to be let in.

    `base_url`: up to and including `/v1`. `api_key`: the key itself; never shown.

    Raises `ConfigError` where one of them cannot be used.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_url(self.base_url):
            raise ConfigError(
                f"--base-url {shown(self.base_url)} is no URL of a server: "
                "give one such as http://127.0.0.1:8000/v1"
            )
        if self.api_key is not None and not re.fullmatch(r"[\x21-\x7e]+", self.api_key):
            raise ConfigError(
                "the API key is empty or holds a space, a line break or a non-ASCII character: "
                "check the variable that --api-key-env names"
            )
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    @property
    def root(self) -> str:
        """The URL without `/v1`, where servers keep what OpenAI's API does not have."""
        return self.base_url.removesuffix("/v1")

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:  # half an IPv6 address, a port that is no number
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How long to wait and how often to try again. Times are in seconds.

    `first_byte`: an answer may take as long as its prompt and the requests before it.
    `idle`: between two reads of a stream. `max_retries`: failures in a row without a new token.
    `backoff`: before the first retry, doubled each time up to `max_backoff`, times a random
    factor from 0.5 to 1. `max_retry_after`: a server that asks for a longer pause is given up.
    """

    connect: float = 10.0
    first_byte: float = 600.0
    idle: float = 120.0
    max_retries: int = 6
    backoff: float = 0.25
    max_backoff: float = 8.0
    max_retry_after: float = 120.0


class Unavailable(ModelUnavailable):
    """Worth another try. `retry_after`: seconds that the server asked for.

    `reached`: whether the server answered at all.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, reached: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reached = reached


class Rejected(RequestRejected):
    """A 4xx answer. `body`: what the server said, as it said it."""

    def __init__(self, message: str, *, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class Unadmitted(Rejected, KeyRefused):
    """A 401 or 403 answer."""


class Overflow(ContextFull):
    """A 4xx answer that blames the context window. `body`: what the server said."""

    def __init__(self, message: str, *, body: str) -> None:
        super().__init__(message)
        self.body = body


class Transport:
    """One HTTP session to a server whose address may change between requests."""

    def __init__(self, endpoint: Callable[[], Endpoint], limits: ClientLimits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # llama.cpp drops kept connections without a word, and a stream that we end early
            # could not be kept anyway; a new local connection costs 0.2 ms.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "aimo2", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None

    @property
    def where(self) -> str:
        """The server's base URL, fit to be shown."""
        return shown(self._endpoint().base_url)

    async def get(self, path: str, deadline: Deadline, *, root: bool = False) -> Any:
        """The JSON value at a path below `/v1`, or below the server's root.

        Raises `ModelUnavailable`, `RequestRejected` or `DeadlinePassed`.
        """
        return await self._json("GET", path, None, deadline, root)

    async def post(
        self, path: str, asked: Mapping[str, Any], deadline: Deadline, *, root: bool = False
    ) -> Any:
        """The JSON answer to a JSON request; as `get`."""
        return await self._json("POST", path, asked, deadline, root)

    async def fetch(self, url: str, token: str | None, deadline: Deadline) -> bytes | None:
        """A small file of another server; `None` where it is not there or not to be had."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with (
                asyncio.timeout_at(deadline.when()),
                self._open_session.get(url, headers=headers, proxy=proxy_for(url)) as response,
            ):
                return await response.read() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def open(self, path: str, asked: Mapping[str, Any], deadline: Deadline) -> "Answer":
        """A streamed answer, opened; as `get`. Whoever opens it closes it."""
        endpoint = self._endpoint()
        url = f"{endpoint.base_url}/{path}"
        response = await self._request("POST", url, asked, endpoint, deadline)
        answer = Answer(response, url, endpoint.api_key, deadline, self._limits.idle)
        if response.content_type in ("application/json", "text/html"):
            answer.close()
            raise RequestRejected(
                f"{shown(url)} answered {response.content_type} instead of a stream: "
                "use a server that streams completions"
            )
        return answer

    async def _json(
        self,
        method: str,
        path: str,
        asked: Mapping[str, Any] | None,
        deadline: Deadline,
        root: bool,
    ) -> Any:
        endpoint = self._endpoint()
        url = f"{endpoint.root if root else endpoint.base_url}/{path}"
        response = await self._request(method, url, asked, endpoint, deadline)
        try:
            async with asyncio.timeout_at(deadline.within(self._limits.idle).when()):
                body = await response.read()
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _late(url) if _is_over(deadline) else _lost(url, error) from error
        finally:
            response.close()
        try:
            return orjson.loads(body)
        except ValueError as error:
            raise RequestRejected(
                f"{shown(url)} did not answer in JSON: is --base-url the server's API, "
                "with /v1 at its end?"
            ) from error

    async def _request(
        self,
        method: str,
        url: str,
        asked: Mapping[str, Any] | None,
        endpoint: Endpoint,
        deadline: Deadline,
    ) -> aiohttp.ClientResponse:
        """An answer with status 200; its body is still to be read."""
        try:
            async with asyncio.timeout_at(deadline.within(self._limits.first_byte).when()):
                response = await self._open_session.request(
                    method,
                    url,
                    data=None if asked is None else orjson.dumps(asked),
                    headers=_headers(endpoint),
                    allow_redirects=False,
                    proxy=proxy_for(url),
                )
                if response.status == 200:
                    return response
                try:
                    body = await response.content.read(_BODY_LIMIT)
                finally:
                    response.close()
        except (aiohttp.ClientError, OSError) as error:
            if _is_over(deadline):
                raise _late(url) from error
            raise _unreached(url, error) from error
        raise failure(response.status, body, url, endpoint.api_key, response.headers)

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("enter the model's `async with` before using it")
        return self._session


class Answer:
    """One streamed answer; `close` ends its connection at once.

    One timer watches the deadline and the idle time of the whole stream, not one a read: a fast
    server sends 20,000 reads a second.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        url: str,
        api_key: str | None,
        deadline: Deadline,
        idle: float,
    ) -> None:
        self._response = response
        self._url = url
        self._api_key = api_key
        self._deadline = deadline
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    async def read(self) -> bytes:
        """What has arrived since the last read, waiting for it; empty at the end.

        Raises `ModelUnavailable` or `DeadlinePassed`.
        """
        self._waiting_since = self._loop.time()
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._waiting_since = None

    def close(self) -> None:
        """Close the connection, unless the answer was read to its end. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()

    def reported(self, status: int, body: bytes) -> Exception:
        """Our error for an error object inside the stream."""
        return failure(status, body, self._url, self._api_key)

    def broken(self, why: str) -> Exception:
        """Our error for a stream that makes no sense."""
        return Unavailable(f"{shown(self._url)}: {why}", reached=True)

    def _watch(self) -> None:
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        due = min(self._deadline.at, since + self._idle)
        if due <= now:
            self._expired = True
            self._response.close()
        else:
            self._timer = self._loop.call_at(due, self._watch)

    def _failure(self, error: Exception) -> Exception:
        if not self._expired:
            return _lost(self._url, error)
        if _is_over(self._deadline):
            return _late(self._url)
        return Unavailable(f"{shown(self._url)} sent nothing for {self._idle:g} s", reached=True)


def failure(
    status: int,
    body: bytes,
    url: str,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Exception:
    """Our error for an answer that is none: what the server said and the mend, in one line."""
    said = body.decode(errors="replace")
    if api_key:
        said = said.replace(api_key, "[key]")
    line = f"{shown(url)} answered {status}: {_message_in(said)}"
    if status in (401, 403):
        had = "the key was refused: check" if api_key else "a key is needed: put it in"
        return Unadmitted(
            f"{line} ({had} the variable that --api-key-env names)", status=status, body=said
        )
    if status == 429 and "insufficient_quota" in said:
        return Rejected(f"{line} (the account has no credit left)", status=status, body=said)
    if status in _RETRYABLE:
        return Unavailable(line, retry_after=_retry_after(headers or {}), reached=True)
    if status in (400, 413, 422) and _CONTEXT_FULL.search(said):
        return Overflow(line, body=said)
    if 300 <= status < 400:
        to = shown((headers or {}).get("Location", "another address"))
        line = f"{shown(url)} has moved to {to}: give that with --base-url"
    elif status == 404:
        line += " (is --base-url right, with /v1 at its end?)"
    return Rejected(line, status=status, body=said)


def shown(url: str) -> str:
    """The URL without user name, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"//[^/]*@", "//", re.split("[?#]", url)[0])
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this URL; none for this machine's own servers."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if Endpoint(url).is_local or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key is not None:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return headers


def _message_in(said: str) -> str:
    """The message of an error body in any of the usual shapes, on one line."""
    try:
        value = orjson.loads(said)
    except ValueError:
        value = said
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    line = " ".join(str(value).split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value):  # some servers send fractions
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _is_over(deadline: Deadline) -> bool:
    """Whether a timer that was set to the deadline may have fired: some fire a little early."""
    return deadline.remaining() <= _TIMER_SLACK


def _late(url: str) -> DeadlinePassed:
    return DeadlinePassed(f"the deadline came before {shown(url)} had answered: allow more time")


def _unreached(url: str, error: Exception) -> ModelUnavailable:
    if isinstance(error, aiohttp.ClientSSLError):  # trying again would not help
        return ModelUnavailable(
            f"{shown(url)} cannot be trusted ({_reason(error)}): "
            "install its certificate or correct --base-url"
        )
    return Unavailable(
        f"cannot reach {shown(url)} ({_reason(error)}): is the server running, "
        "and is --base-url right?"
    )


def _lost(url: str, error: Exception) -> Unavailable:
    return Unavailable(f"lost the connection to {shown(url)} ({_reason(error)})")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    number = getattr(getattr(error, "os_error", error), "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return " ".join(str(error).split()) or type(error).__name__
