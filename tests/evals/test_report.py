import re
from pathlib import Path

import pytest

from aimo2.errors import InputError
from aimo2.evals.estimators import Estimate
from aimo2.evals.report import (
    Report,
    length_verdict,
    make_report,
    number,
    percent,
    points,
    run_names,
    size_of_effect,
    spoken_p,
    summary_rows,
)
from aimo2.evals.report_markdown import report_markdown
from aimo2.evals.report_page import report_page
from aimo2.evals.within import WithinTest
from tests.evals.drawn import drawn_run
from tests.pages.reading import read

NAN = float("nan")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("runs")
    first = drawn_run(folder / "first", skill=0.8, longer=3)
    second = drawn_run(folder / "second", skill=0.4, seed=1, with_code=False, with_logprobs=False)
    return make_report([first, second])


def single(report: Report) -> Report:
    return Report(report.runs[:1], (), ())


def test_runs_are_named_by_as_much_of_their_path_as_is_needed() -> None:
    assert run_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert run_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    with pytest.raises(InputError, match="given twice"):
        run_names([Path("/x/a"), Path("/x/../x/a")])


def test_figures_are_written_with_their_intervals() -> None:
    one = Estimate(0.625, 0.5, 0.75)
    assert percent(one) == "62.5 % [50.0, 75.0]"
    assert percent(None) == "–"
    assert percent(Estimate(0.5, NAN, NAN)) == "50.0 %"
    assert points(Estimate(-0.1, -0.2, 0.05)) == "-10.0 points [-20.0, +5.0]"
    assert number(Estimate(1234.5, 1000, 1500)) == "1,234 [1,000, 1,500]"
    assert number(Estimate(0.5, NAN, NAN), signed=True) == "+0.50"
    assert [spoken_p(p) for p in (0.0004, 0.034, 0.34)] == ["< 0.001", "= 0.034", "= 0.34"]
    assert [size_of_effect(d) for d in (0.1, -0.2, 0.4, -0.5)] == [
        "negligible", "small", "medium", "large",
    ]  # fmt: skip


def test_the_claim_on_lengths_gets_a_verdict() -> None:
    def verdict(delta: float, low: float, high: float, p: float, problems: int = 30) -> str:
        return length_verdict(WithinTest(problems, Estimate(delta, low, high), p, 0.5, 0.5))

    assert verdict(0.5, 0.3, 0.7, 0.001).startswith("confirmed: a wrong answer is longer")
    assert "with a chance of 75 %" in verdict(0.5, 0.3, 0.7, 0.001)
    assert verdict(-0.3, -0.5, -0.1, 0.01).startswith("the opposite holds")
    assert verdict(0.4, -0.1, 0.9, 0.2).startswith("not shown")


def test_a_claim_is_confirmed_by_test_interval_and_enough_problems_only() -> None:
    def verdict(low: float, p: float, problems: int) -> str:
        return length_verdict(WithinTest(problems, Estimate(0.5, low, 0.9), p, 0.5, 0.5))

    assert verdict(0.1, 0.049, 10).startswith("confirmed")
    assert verdict(-0.1, 0.049, 10).startswith("not settled, since the interval includes 0")
    assert verdict(0.1, 0.051, 10).startswith("not settled, since the test finds no")
    few = verdict(0.1, 0.001, 9)
    assert few.startswith("too few problems to say: in the 9 problems that have both, a wrong")
    assert verdict(NAN, 0.3, 1).startswith("too few problems to say: in the 1 problem that has")
    assert "nan" not in verdict(NAN, 0.3, 1)


def test_every_row_has_a_value_for_every_run(two: Report) -> None:
    for _, values in summary_rows(two):
        assert len(values) == 2
    rows = dict(summary_rows(two))
    assert rows["samples a problem"] == ["4", "4"]
    assert rows["failed cells"][1] == "–"


def test_the_later_run_is_compared_with_the_first(two: Report) -> None:
    (one,) = two.comparisons
    assert one.problems == 12
    assert one.answered.value < 0
    page = report_page(two, {}, "two")
    assert "second against first, 12 problems" in page
    assert f"{len(one.changed)} problems changed" in page


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_has_every_part_and_only_known_markup(two: Report, count: int) -> None:
    report = two if count == 2 else single(two)
    links = {(0, f"p{n}"): f"report-problems/1-{n}.html" for n in range(5)}
    reader = read(report_page(report, links, "A <title>"))
    for words in (
        "A <title>", "contamination", "grading", "pass@1", "maj@k", "By level", "By subject",
        "Numbers & <b>", "Length of right and wrong answers", "Cliff's delta", "Brier score",
        "Code and accuracy", "Failed cells by cause", "tried again", "Time and tokens",
        "samples not of one mind", "a model <b>", "dataset_sha256",
    ):  # fmt: skip
        assert words in reader.text, words
    assert sum(value.startswith("report-problems/") for _, value in reader.attributes) == 5
    assert ("Compared" in reader.text) == (count == 2)


def test_wrong_and_right_rows_can_be_told_apart(two: Report) -> None:
    page = report_page(single(two), {}, "x")
    rows = re.findall(r'<tr class="((?:right|wrong)[^"]*)"><td class="id">', page)
    results = two.runs[0].results
    assert sum(row.startswith("right") for row in rows) == sum(one.voted for one in results)
    united = sum(one.right in (0, len(one.samples)) for one in results)
    assert sum("united" in row for row in rows) == united


def test_what_a_model_or_a_data_set_wrote_does_not_become_markup(tmp_path: Path) -> None:
    run = drawn_run(tmp_path / "x<script>", ids="<img src=x onerror=y>{}|`", problems=4)
    report = make_report([run])
    read(report_page(report, {(0, "<img src=x onerror=y>0|`"): "a.html"}, "<script>"))
    text = report_markdown(report, "<script>")
    assert "<script>" not in text.replace("\\<script\\>", "")


def test_markdown_has_the_same_figures(two: Report) -> None:
    text = report_markdown(two, "two")
    for name, values in summary_rows(two):
        assert f"| {name.split('(')[0].strip()}" in text
        assert values[0].split(" ")[0] in text
    assert "second against first" in text
    assert "| failed cells by cause | repaired by the next cell | tried again | failed |" in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| pass")]
    assert len(set(widths)) <= 1


def test_runs_of_different_problems_stand_side_by_side_uncompared(tmp_path: Path) -> None:
    first = drawn_run(tmp_path / "a", problems=3)
    second = drawn_run(tmp_path / "b", problems=3, ids="q{}")
    lines = (second / "problems.jsonl").read_text().replace("What is", "How much is")
    (second / "problems.jsonl").write_text(lines)
    report = make_report([first, second])
    assert report.comparisons == []
    assert "not compared" in report_page(report, {}, "x")
    assert "not compared" in report_markdown(report, "x")


def test_a_run_without_golds_has_a_page_without_figures(tmp_path: Path) -> None:
    report = make_report([drawn_run(tmp_path / "a", problems=3, with_gold=False)])
    page = report_page(report, {}, "x")
    assert "no graded problem is done yet" in read(page).text
    assert page.count('class="ungraded') == 3
    assert report_markdown(report, "x").count("–") > 5


def test_one_problem_and_one_sample_have_no_intervals_but_a_page(tmp_path: Path) -> None:
    report = make_report([drawn_run(tmp_path / "a", problems=1, samples=1)])
    page = report_page(report, {}, "x")
    assert "nan" not in read(page).text
    assert "nan" not in report_markdown(report, "x")
    assert "NaN" not in page


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A solver that ended half of its rollouts early, and one that let all of them end."""
    folder = tmp_path_factory.mktemp("cut")
    early = drawn_run(folder / "early", mode="solve", cut=2)
    patient = drawn_run(folder / "patient", mode="solve")
    return make_report([early, patient])


def test_what_a_solver_cut_short_is_no_wrong_sample(cut: Report) -> None:
    early, patient = cut.runs
    assert early.figures is not None
    assert patient.figures is not None
    assert early.figures.cut_short == 2 * len(early.results)
    rows = dict(summary_rows(cut))
    assert rows["samples that the solver cut short"] == ["24", "0"]
    assert rows["samples a problem"] == ["up to 4", "4"]
    # Of 24 samples that ended, few have no answer; the other 24 are not counted.
    assert early.figures.blank.value < 0.25
    assert sum(group.samples for group in early.code.groups) == 24
    ended = [one for result in early.results for one in result.samples[:2]]
    used = [one for group in early.code.groups for one in [group.right.value * group.samples]]
    assert sum(used) == pytest.approx(sum(bool(one.correct) for one in ended))


def test_a_solver_that_cut_nothing_short_has_the_figures_of_samples(cut: Report) -> None:
    early, patient = (run.figures for run in cut.runs)
    assert early is not None
    assert patient is not None
    assert (len(early.maj_k), len(patient.maj_k)) == (0, 4)
    rows = dict(summary_rows(cut))
    assert rows["accuracy of one sample (pass@1)"] == ["–", percent(patient.pass_1)]
    assert not any("rollouts before they had answered" in line for line in patient.caveats)
    assert any("ended 24 of 48 rollouts before" in line for line in early.caveats)


def test_parts_are_told_by_answers_where_samples_were_cut_short(cut: Report) -> None:
    page = read(report_page(cut, {}, "x")).text
    assert "Share of problems whose answer is right" in page
    assert "Mean share of right samples" not in page
    group = cut.runs[0].groups["level"][0]
    assert group.answered.value != group.pass_1.value
    assert f"| {group.name} | {percent(group.answered)} |" in report_markdown(cut, "x")
    alone = Report(cut.runs[1:], (), ())
    assert "Mean share of right samples" in read(report_page(alone, {}, "x")).text


def test_lengths_say_where_the_longest_samples_are_missing(cut: Report) -> None:
    text = report_markdown(cut, "x")
    assert text.count("24 samples that the solver cut short are not in it") == 1
    assert "24 samples that the solver cut short are not in it" in report_page(cut, {}, "x")


def test_a_part_of_a_run_says_what_is_missing(tmp_path: Path) -> None:
    report = make_report([drawn_run(tmp_path / "a", done_problems=8)])
    figures = report.runs[0].figures
    assert figures is not None
    assert figures.problems == 8
    assert figures.caveats[0].startswith(
        "a part of a run: 4 of 12 problems are not finished and are left out, with the 4 samples"
    )
    assert "no gold" not in " ".join(figures.caveats)


def test_a_row_of_several_runs_has_one_cell_for_each(two: Report) -> None:
    rows = re.findall(
        r'<tr class="(?:right|wrong|united)[^"]*"><td class="id">.*?</tr>',
        report_page(two, {}, "x"),
    )
    assert rows
    assert {row.count("<td") for row in rows} == {4}
    share = f"{two.runs[1].results[0].right}/4"
    assert share in rows[0]
