"""Durations as people write them: `5h`, `30m`, `90s`, `1h30m`, or seconds. Knows no commands."""

import re

from aimo2.errors import ConfigError

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}


def parse_duration(text: str, flag: str) -> float:
    """Seconds, above 0. Raises `ConfigError` that names the flag and what may stand there."""
    wanted = f"{flag} {text}: give a duration such as 5h, 30m, 90s, 4h57m or 300"
    stripped = text.strip().lower()
    try:
        seconds = float(stripped) if re.fullmatch(r"[\d.]+", stripped) else _summed(stripped)
    except ValueError as error:
        raise ConfigError(wanted) from error
    if not 0 < seconds < 1e7:
        raise ConfigError(wanted + ", above 0")
    return seconds


def _summed(text: str) -> float:
    parts = list(_PART.finditer(text))
    if not parts or _PART.sub("", text).strip():
        raise ValueError(text)
    units = [part[2] for part in parts]
    if len(set(units)) < len(units):
        raise ValueError(text)
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)


def clock_text(seconds: float) -> str:
    """A duration as a clock shows it: `4:57:00`, `12:05`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
