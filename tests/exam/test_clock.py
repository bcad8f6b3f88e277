import pytest

from aimo2.exam.clock import Stopwatch, elapsed_since


class Hands:
    """A clock whose two hands are moved apart."""

    def __init__(self) -> None:
        self.wall, self.steady = 1e9, 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_by(self, steady: float, wall: float | None = None) -> None:
        self.steady += steady
        self.wall += steady if wall is None else wall


@pytest.mark.parametrize(
    ("steady", "wall", "gone"),
    [
        (10, 10, 10),  # an ordinary stretch
        (10, 610, 610),  # the machine slept for ten minutes
        (10, -3590, 10),  # the clock was set back by an hour
        (10, 10.1, 10),  # a time server's slewing is no jump
    ],
)
def test_sleep_costs_time_and_a_clock_set_back_gives_none(
    steady: float, wall: float, gone: float
) -> None:
    clock = Hands()
    stopwatch = Stopwatch(clock, elapsed=5.0)
    clock.pass_by(steady, wall)
    assert stopwatch.elapsed() == pytest.approx(5 + gone)


def test_sleep_after_a_clock_was_set_back_still_costs_time() -> None:
    clock = Hands()
    stopwatch = Stopwatch(clock)
    clock.pass_by(1, -3600)
    assert stopwatch.elapsed() == pytest.approx(1)
    clock.pass_by(1, 301)
    assert stopwatch.elapsed() == pytest.approx(302)
    assert stopwatch.slept == pytest.approx(300)


def test_time_between_two_processes_is_the_wall_clocks_and_never_negative() -> None:
    assert elapsed_since(at=100, elapsed=30, now=160) == 90
    assert elapsed_since(at=100, elapsed=30, now=40) == 30
