"""Failures get our names, one clear line, and never the key."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from aimo2.errors import ConfigError, ContextFull, ModelUnavailable, RequestRejected
from aimo2.llm.transport import Endpoint, Unavailable, failure, proxy_for, shown

URL = "http://127.0.0.1:8000/v1/completions"


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/v1", "http://", "", "/v1"])
def test_a_url_of_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url"):
        Endpoint(url)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_no_header_may_hold_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError, match="--api-key-env") as caught:
        Endpoint("http://x/v1", key)
    assert not key or key not in str(caught.value)


def test_an_endpoint_hides_its_key() -> None:
    assert "sk-1" not in repr(Endpoint("http://x/v1", "sk-1"))


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_root_is_the_url_without_version(slash: str) -> None:
    assert Endpoint(f"http://x:1/api/v1{slash}").root == "http://x:1/api"


def test_a_url_is_shown_without_its_secrets() -> None:
    assert shown("https://me:secret@x.org:8/v1?key=secret#secret") == "https://x.org:8/v1"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_overload_is_worth_another_try(status: int) -> None:
    error = failure(status, b"busy", URL)
    assert isinstance(error, Unavailable)
    assert isinstance(error, ModelUnavailable)
    assert error.reached


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 422, 301])
def test_a_refusal_is_not(status: int) -> None:
    error = failure(status, b"no", URL, headers={"Location": "http://y/v1"})
    assert isinstance(error, RequestRejected)
    assert not isinstance(error, ContextFull)


def test_an_empty_account_is_not_overload() -> None:
    body = b'{"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}'
    assert isinstance(failure(429, body, URL), RequestRejected)


@pytest.mark.parametrize(
    "said",
    [
        '{"error":{"type":"exceed_context_size_error","message":"x","n_ctx":2048}}',
        "This model's maximum context length is 8192 tokens. However, you requested 9000",
        '{"error":{"code":"context_length_exceeded"}}',
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    ],
)
def test_a_full_context_window_is_recognised(said: str) -> None:
    assert isinstance(failure(400, said.encode(), URL), ContextFull)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error":{"message":"bad\\n  thing"}}', "bad thing"),
        ('{"error":"bad thing"}', "bad thing"),
        ('{"message":"bad thing","code":3}', "bad thing"),
        ('{"detail":"bad thing"}', "bad thing"),
        ("bad thing", "bad thing"),
    ],
)
def test_the_server_s_message_is_one_line(body: str, message: str) -> None:
    assert str(failure(400, body.encode(), URL)) == f"{URL} answered 400: {message}"


def test_a_long_message_is_cut() -> None:
    assert len(str(failure(400, b"x" * 5000, URL))) < 500


def test_a_key_that_the_server_repeats_is_cut_out() -> None:
    error = failure(401, b'{"error":{"message":"Incorrect key sk-123"}}', URL, "sk-123")
    assert "sk-123" not in str(error) + str(vars(error))
    assert "--api-key-env" in str(error)


def test_a_moved_server_is_named() -> None:
    error = failure(308, b"", URL, headers={"Location": "https://y.org/v1/completions"})
    assert "https://y.org/v1/completions" in str(error)
    assert "--base-url" in str(error)


def retry_after(value: str) -> float | None:
    error = failure(503, b"", URL, headers={"Retry-After": value})
    assert isinstance(error, Unavailable)
    return error.retry_after


def test_both_forms_of_retry_after_are_read() -> None:
    assert retry_after("17") == 17
    assert retry_after(" 2.5 ") == 2.5
    for nonsense in ("soon", "²", "", "-1", "nan", "9" * 400, "Mon, 99 Foo 99999 25:61:61"):
        assert retry_after(nonsense) is None
    without_zone = f"{datetime.now(UTC) + timedelta(hours=1):%a, %d %b %Y %H:%M:%S}"
    for zone in ("", " -0000"):
        assert retry_after(without_zone + zone) == pytest.approx(3600, abs=60)
    assert retry_after(format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)) == 0
    later = retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert later == pytest.approx(3600, abs=60)


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@[::1", "http://x:99999/v1", "http://x:ab/v1", "http://[zz]/v1", "x/v1", ""],
)
def test_what_is_no_url_is_refused_with_the_flag_and_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url") as caught:
        Endpoint(url)
    assert "secret" not in str(caught.value)


def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.org")
    assert proxy_for("http://127.0.0.1:8000/v1") is None
    assert proxy_for("http://localhost/v1") is None
    assert proxy_for("http://inside.org/v1") is None
    assert proxy_for("http://outside.org/v1") == "http://proxy:3128"
