import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.policy.budget import BudgetConfig, Ledger, Standing, bank, grant

NVIDIA = BudgetConfig(policy="bank", base=350, draw=210)


def ledger(left: float, *spent: float, total: float = 18_000, num_problems: int = 50) -> Ledger:
    return Ledger(total, left, num_problems, spent)


def test_even_shares_what_is_left() -> None:
    assert grant(BudgetConfig(policy="even"), ledger(18_000), Standing()).seconds == 360
    spent = [60.0] * 25
    left = 18_000 - sum(spent)
    assert grant(BudgetConfig(policy="even"), ledger(left, *spent), Standing()).seconds == 660


@pytest.mark.parametrize(
    ("spent", "seconds"),
    [((), 350), ((300,), 400), ((100,), 560), ((10, 10, 10), 560), ((560, 50), 560)],
)
def test_bank_draws_what_was_saved_up_to_its_cap(spent: tuple[float, ...], seconds: float) -> None:
    assert grant(NVIDIA, ledger(18_000 - sum(spent), *spent), Standing()).seconds == seconds


def test_an_overdraft_is_forgiven_and_the_bank_never_negative() -> None:
    assert bank(350, [1000, 300]) == 50


def test_bank_and_clamp_scale_with_the_exam_where_no_seconds_are_given() -> None:
    short = ledger(1_000, total=1_000, num_problems=10)
    assert grant(BudgetConfig(policy="bank"), short, Standing()).seconds == 100
    saved = ledger(900, 0.0, total=1_000, num_problems=10)
    assert grant(BudgetConfig(policy="bank"), saved, Standing()).seconds == 160


def test_clamp_leaves_every_other_problem_its_base() -> None:
    notebook = BudgetConfig(policy="clamp", base=270, high=900)
    first = grant(notebook, ledger(17_400, total=17_400), Standing())
    assert first.seconds == 900
    tight = grant(notebook, ledger(270 * 50 + 40, total=17_400), Standing())
    assert tight.seconds == pytest.approx(310)


def test_a_late_start_shrinks_every_base() -> None:
    for policy in ("bank", "clamp"):
        config = BudgetConfig.model_validate({"policy": policy, "base": 350})
        assert grant(config, ledger(500), Standing()).seconds == 10


def test_the_last_problem_may_use_all_that_is_left_up_to_the_hard_limit() -> None:
    last = ledger(5_000, *[100.0] * 49)
    for policy in ("even", "bank", "clamp"):
        config = BudgetConfig.model_validate({"policy": policy})
        assert grant(config, last, Standing()).seconds == 5_000
        assert grant(config, last, Standing(), most=1_800).seconds == 1_800


def test_more_problems_than_announced_find_what_is_left() -> None:
    over = ledger(10, *[100.0] * 60)
    assert grant(NVIDIA, over, Standing()).seconds == 10


@given(
    policy=st.sampled_from(["even", "bank", "clamp"]),
    left=st.floats(0, 20_000),
    spent=st.lists(st.floats(0, 2_000), max_size=60),
    most=st.none() | st.floats(0, 2_000),
)
def test_no_grant_passes_what_is_left_or_the_limit(
    policy: str, left: float, spent: list[float], most: float | None
) -> None:
    config = BudgetConfig.model_validate({"policy": policy})
    given_ = grant(config, ledger(left, *spent), Standing(), most=most)
    assert 0 <= given_.seconds <= left
    assert most is None or given_.seconds <= most
    assert given_.stop is None
