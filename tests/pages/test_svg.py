from hypothesis import given
from hypothesis import strategies as st

from aimo2.pages.svg import Scale


def test_a_long_logarithmic_scale_has_ones_twos_and_fives() -> None:
    assert Scale(8, 900, log=True).ticks(7) == [10, 20, 50, 100, 200, 500]


def test_a_short_logarithmic_scale_is_not_left_with_one_tick() -> None:
    assert Scale(11, 41, log=True).ticks(6) == [15, 20, 25, 30, 35, 40]


@given(st.floats(1e-3, 1e6), st.floats(1.05, 1e5), st.booleans(), st.integers(5, 9))
def test_ticks_are_inside_in_order_and_about_as_many_as_wanted(
    low: float, factor: float, log: bool, wanted: int
) -> None:
    scale = Scale(low, low * factor, log=log)
    ticks = scale.ticks(wanted)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= wanted + 2
    places = [scale.at(tick) for tick in ticks]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
