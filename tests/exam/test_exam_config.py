from pathlib import Path

import pytest

from aimo2.errors import ConfigError
from aimo2.exam import competitions, load_competition


def test_the_presets_have_their_competitions_rules() -> None:
    aimo2 = load_competition("aimo2")
    assert (aimo2.num_problems, aimo2.limit, aimo2.usable) == (50, 18000, 17820)  # 4 h 57 min
    assert (aimo2.modulus, aimo2.lowest, aimo2.highest) == (1000, 0, 999)
    aimo3 = load_competition("aimo3")
    assert (aimo3.num_problems, aimo3.usable, aimo3.highest) == (50, 17400, 99999)
    assert all(load_competition(name).competition == name for name in competitions())


def test_changes_replace_fields_and_none_leaves_them() -> None:
    changed = load_competition("aimo2", limit=60.0, reserve=0.0, budget={"policy": "even"})
    assert (changed.usable, changed.budget.policy, changed.modulus) == (60.0, "even", 1000)
    assert load_competition("aimo2", limit=None, budget={"base": None}) == load_competition("aimo2")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('num_problems = 3\nlimit = 60\n[budget]\npolicy = "clamp"\n')
    assert load_competition(str(path)).budget.policy == "clamp"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_problems = 0", "num_problems: Input should be greater"),
        ("limit = 5\nreserve = 5", "leaves nothing of the limit"),
        ('modulus = 9\nanswer_type = "expr"', "a modulus needs integer"),
        ("speed = 3", "speed: Extra inputs"),
        ("limit = ", "not valid TOML"),
        ('[budget]\npolicy = "magic"', "budget.policy"),
    ],
)
def test_bad_rules_are_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as raised:
        load_competition(str(path))
    assert "mine.toml" in str(raised.value)


def test_an_unknown_competition_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="aimo2, aimo3"):
        load_competition("imo")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_competition("none.toml")


@pytest.mark.parametrize(
    ("answer", "admitted"),
    [("0", True), ("999", True), ("-1", False), ("1000", False), ("x", False)],
)
def test_only_answers_in_range_are_admitted(answer: str, admitted: bool) -> None:
    assert load_competition("aimo2").admits(answer) is admitted
