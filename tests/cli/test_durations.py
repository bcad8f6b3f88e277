import pytest

from aimo2.cli.durations import clock_text, parse_duration
from aimo2.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5h", 18000), ("30m", 1800), ("30min", 1800), ("90s", 90), ("4h57m", 17820),
        ("1h 30m 5s", 5405), ("300", 300), ("1.5h", 5400), (" 2M ", 120),
    ],
)  # fmt: skip
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text, "--limit") == seconds


@pytest.mark.parametrize("text", ["", "5x", "h", "-5m", "5h5h", "1..5", "0s", "nan", "1e9", "m5"])
def test_anything_else_names_the_flag_and_the_mend(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--limit .*give a duration such as 5h"):
        parse_duration(text, "--limit")


def test_a_clock_shows_hours_only_where_there_are_some() -> None:
    assert [clock_text(seconds) for seconds in (-1, 5, 725.4, 17820)] == [
        "0:00", "0:05", "12:05", "4:57:00",
    ]  # fmt: skip
