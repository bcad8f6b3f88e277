"""Rules that end one rollout: each fires exactly when its definition says."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimo2.config import CutConfig
from aimo2.policy.cut import (
    PROBE_PACES,
    BoxWatch,
    ConfidenceGate,
    LengthGate,
    ProbePace,
    ProbeRule,
    confidence_gate,
    confirmed,
    find_hedge,
    length_gate,
    percentile,
)

ANSWERS = st.lists(st.sampled_from(["1", "2", None]), max_size=30)


@given(ANSWERS, st.integers(1, 5))
def test_probes_end_a_rollout_when_the_last_ones_agree(
    answers: list[str | None], agreeing: int
) -> None:
    rule = ProbeRule(ProbePace(agreeing, 64))
    for count, answer in enumerate(answers, 1):
        last = answers[:count][-agreeing:]
        expected = len(last) == agreeing and answer is not None and set(last) == {answer}
        assert rule.add(answer, f"{answer}}}") == expected


@pytest.mark.parametrize("sampled", ["7} Wait", "7}. Hmm, no", "7} but", "7}。等等"])
def test_a_probe_with_a_word_of_doubt_is_no_answer(sampled: str) -> None:
    rule = ProbeRule(ProbePace(2, 64))
    assert not rule.add("7", "7}.")
    assert not rule.add("7", sampled)
    assert not rule.add("7", "7}.")
    assert rule.add("7", "7}. Now")


def test_probes_compare_integers_by_value() -> None:
    rule = ProbeRule(ProbePace(2, 64))
    assert not rule.add("1,000", "1,000}")
    assert rule.add("1000", "1000}")


@given(st.lists(st.integers(1, 200), max_size=50), st.sampled_from(sorted(PROBE_PACES)))
def test_a_rollout_is_probed_once_in_each_stretch_of_tokens(steps: list[int], level: str) -> None:
    pace = next(pace for name, pace in PROBE_PACES.items() if name == level)
    rule = ProbeRule(pace)
    counts = [sum(steps[:end]) for end in range(1, len(steps) + 1)]
    probed = [count for count in counts if rule.due(count)]
    assert {count // pace.every for count in probed} == {
        count // pace.every for count in counts if count >= pace.every
    }
    assert all(a // pace.every < b // pace.every for a, b in pairwise(probed))


@given(st.lists(st.floats(-5, 20), min_size=1), st.floats(0, 100))
def test_a_percentile_lies_between_its_neighbours(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert min(values) <= found + 1e-9
    assert found <= max(values) + 1e-9
    below = sum(value < found - 1e-9 for value in values)
    assert below <= math.ceil((len(values) - 1) * percent / 100)
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([0, 10], 10) == pytest.approx(1)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_the_first_rollouts_set_the_threshold_and_are_not_cut() -> None:
    gate = ConfidenceGate(warm_up=4, percent=10)
    for lowest in (3.0, 1.0, None, 2.0):
        gate.add(lowest)
        assert not gate.falls(0.0)
    gate.add(4.0)
    assert gate.threshold == pytest.approx(1.3)
    assert gate.falls(1.29)
    assert not gate.falls(1.31)
    assert not gate.falls(None)
    gate.add(100.0)
    assert gate.threshold == pytest.approx(1.3)


def test_length_is_measured_by_the_siblings_that_answered() -> None:
    gate = LengthGate(factor=2, after=3)
    gate.add(100)
    gate.add(1000)
    assert not gate.too_long(10**6)
    gate.add(300)
    assert gate.limit == 600
    assert not gate.too_long(600)
    assert gate.too_long(601)


def test_every_rule_is_off_by_default() -> None:
    off = CutConfig()
    assert confidence_gate(off) is None
    assert length_gate(off) is None
    assert (off.confirmed, off.probe) == (False, None)
    on = CutConfig(confidence=True, warm_up=2, length=1.5)
    assert confidence_gate(on) == ConfidenceGate(2, 10.0)
    assert length_gate(on) == LengthGate(1.5, 3)


@pytest.mark.parametrize("text", ["Wait, that", "I am not sure that", "也许是3", "Let me verify"])
def test_doubt_is_found(text: str) -> None:
    assert find_hedge(text) is not None


@pytest.mark.parametrize("text", ["The waiter sums x.", "Hence n = 3.", "因此答案是3", ""])
def test_reasoning_without_doubt_is_left_alone(text: str) -> None:
    assert find_hedge(text) is None


@given(st.lists(st.integers(0, 80), max_size=6))
def test_boxes_are_seen_wherever_the_chunks_end(cuts: list[int]) -> None:
    text = "so \\boxed{\\frac{1}{2}} or, \\boxed {42}. Not {this} \\boxed{}."
    marks = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    watch = BoxWatch()
    seen = [watch.feed(text[start:end]) for start, end in pairwise(marks)]
    found = [each for each in seen if each]
    assert found[-1] == "42"
    assert found in (["42"], ["\\frac{1}{2}", "42"])


@pytest.mark.parametrize(
    ("answer", "output", "agrees"),
    [
        ("42", "working\n42\n", True),
        ("1,000", "1000", True),
        ("42", "42\ndone", False),
        ("1, 2", "12", False),
        (r"\frac{11}{2}", r"\frac{1}{12}", False),
        ("42", "x = 42", True),
        ("", "", False),
        (None, "42", False),
        ("42", None, False),
    ],
)
def test_an_answer_is_confirmed_by_the_last_line_of_output(
    answer: str | None, output: str | None, agrees: bool
) -> None:
    assert confirmed(answer, output) == agrees
