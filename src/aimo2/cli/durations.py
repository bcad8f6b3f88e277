"""Spans of time as people write them: `5h`, `4h57m`, `90s`, `1800`. Knows no flags' meaning."""

import re

from aimo2.errors import ConfigError

_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_PART = r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)"
_SPAN = re.compile(rf"(?:{_PART}\s*)+", re.IGNORECASE)


def seconds_of(flag: str, text: str | None) -> float | None:
    """Seconds; a bare number is seconds, too. Raises `ConfigError`, which names the flag."""
    if text is None:
        return None
    plain = text.strip()
    try:
        seconds = float(plain)
    except ValueError:
        if _SPAN.fullmatch(plain) is None:
            raise ConfigError(f"{flag} {text}: give a time such as 90s, 30m or 4h57m") from None
        parts = re.findall(_PART, plain, re.IGNORECASE)
        seconds = sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{flag} {text}: give a time of 0 or more")
    return seconds


def spoken(seconds: float) -> str:
    """A span for people: `42 s`, `7 min 05 s`, `4 h 57 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
