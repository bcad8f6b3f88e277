"""Reports are stored, read back, shown, drawn and compared."""

from pathlib import Path

import pytest

from aimo2.benchmark.figures import Figures, Spread
from aimo2.benchmark.monitor import parse_counters, share
from aimo2.benchmark.report import (
    Report,
    Setup,
    compare,
    efficiencies,
    load_report,
    plain_lines,
    plot,
)
from aimo2.benchmark.runner import Layout, best_layout, layouts
from aimo2.errors import InputError


def figures(
    rate: float, workload: str = "decode", concurrent: int = 4, noise: float = 1
) -> Figures:
    return Figures(
        workload=workload,
        concurrent=concurrent,
        max_tokens=64,
        seconds=10,
        num_tokens=int(rate * 10),
        tokens_per_second=rate,
        useful_share=0.5 if workload == "tir" else 1.0,
        per_stream=rate / concurrent,
        first_token=Spread(median=0.1, p99=0.2),
        between_tokens=None,
        num_calls=9,
        num_failed=0,
        failure=None,
        slices=tuple(rate + noise * (-1) ** index for index in range(10)),
    )


def report(*results: Figures, model: str = "m") -> Report:
    return Report(begun=0, setup=Setup(model=model, engine="vllm"), results=results)


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    stored = report(figures(100), figures(50, "tir"))
    file.write_text(stored.model_dump_json())
    assert load_report(file) == stored


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2}', "nonsense"])
def test_what_is_no_report_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"a\.json is no report"):
        load_report(file)
    with pytest.raises(InputError, match="cannot read"):
        load_report(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("after", "noise", "verdict"),
    [(150, 1, "faster"), (60, 1, "slower"), (101, 30, "no difference seen")],
)
def test_a_difference_is_told_only_where_it_is_larger_than_the_noise(
    after: float, noise: float, verdict: str
) -> None:
    line = compare(report(figures(100, noise=noise)), report(figures(after, noise=noise)))[0]
    assert line.endswith(verdict)
    assert f"ratio {after / 100:.3f}" in line


def test_other_conditions_and_missing_rows_are_told() -> None:
    lines = compare(report(figures(9), model="a"), report(figures(9, concurrent=8), model="b"))
    assert lines == [
        "model: a against b",
        "decode x8: only in the second",
        "decode x4: only in the first",
    ]


def test_useless_tokens_do_not_count() -> None:
    line = compare(report(figures(100, "tir")), report(figures(100, "tir")))[0]
    assert "50 -> 50 tokens/s" in line


def test_efficiency_is_useful_tokens_over_raw_ones_at_the_same_streams() -> None:
    (line,) = efficiencies(report(figures(100), figures(190, "tir"), figures(50, "tree", 8)))
    assert line.startswith("efficiency of tir x4: 100 -> 95 tokens/s, ratio 0.950")
    assert efficiencies(report(figures(50, "tree"))) == []


def test_efficiency_may_be_told_against_the_decode_of_another_report() -> None:
    raw = report(figures(200), figures(150, "tir"))
    setup = raw.setup.model_copy(update={"logprobs": True})
    costly = Report(
        begun=0, setup=setup, results=(figures(180), figures(320, "tir"), figures(9, "tree", 8))
    )
    told, decode, tir, missing = efficiencies(costly, raw)
    assert told == "baseline with logprobs False against True"
    assert "decode x4: 200 -> 180 tokens/s, ratio 0.900" in decode
    assert "tir x4: 200 -> 160 tokens/s, ratio 0.800" in tir
    assert missing == "the baseline has no decode x8 for tree"


def test_a_broken_off_report_says_so_in_a_comparison() -> None:
    broken = report(figures(9)).model_copy(update={"complete": False})
    assert "the second was broken off" in compare(report(figures(9)), broken)[0]


def test_every_measurement_has_a_line() -> None:
    lines = plain_lines(report(figures(1234.5), figures(50, "tir")).results)
    assert len(lines) == 3
    assert len({line.count("\t") for line in lines}) == 1
    assert "1,234" in lines[1]


def test_a_plot_is_drawn_and_a_wrong_suffix_is_named(tmp_path: Path) -> None:
    drawn = report(figures(10, concurrent=1), figures(90, concurrent=64), figures(50, "tir"))
    plot(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="--plot"):
        plot(drawn, tmp_path / "a.nothing")


def test_counters_are_summed_over_labels() -> None:
    text = '# HELP x\nhits_total{engine="0"} 3\nhits_total{engine="1"} 4.5\nbroken\nbad one two\n'
    assert parse_counters(text) == {"hits_total": 7.5}


def test_a_share_is_of_what_has_grown() -> None:
    assert share({"a": 1, "b": 10}, {"a": 4, "b": 16}, "a", "b") == 0.5
    assert share({"b": 10}, {"b": 10}, "a", "b") is None


def test_layouts_use_every_card_once() -> None:
    assert layouts(4) == [Layout(4, 1), Layout(2, 2), Layout(1, 4)]
    assert layouts(1) == [Layout(1, 1)]


def test_a_single_server_is_tried_even_where_it_leaves_cards_idle() -> None:
    assert layouts(6) == [Layout(6, 1), Layout(3, 2), Layout(1, 4)]
    assert layouts(3) == [Layout(3, 1), Layout(1, 2)]
    assert layouts(7) == [Layout(7, 1), Layout(1, 4)]


def test_the_best_layout_may_differ_by_load() -> None:
    wide = report(figures(300, concurrent=1), figures(900, concurrent=64))
    many = report(figures(200, concurrent=1), figures(1900, concurrent=64))
    best = best_layout({Layout(1, 4): wide, Layout(4, 1): many})
    assert best == {("decode", 1): Layout(1, 4), ("decode", 64): Layout(4, 1)}
