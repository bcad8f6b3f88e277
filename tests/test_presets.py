from pathlib import Path

import pytest

from aimo2 import presets
from aimo2.cli.choice import FLAGS
from aimo2.errors import ConfigError
from aimo2.presets import Layer


def test_every_preset_is_a_valid_configuration_that_tells_what_it_is_for() -> None:
    assert set(presets.presets()) == {"fast", "default", "thorough", "aimo2-winner-like"}
    for name, preset in presets.presets().items():
        assert presets.load_preset(name).num_rollouts >= 1
        assert preset.about


def test_the_winner_s_rules_are_those_of_the_paper() -> None:
    config = presets.load_preset("aimo2-winner-like")
    assert (config.stop.rule, config.stop.k, config.num_rollouts) == ("k_equal", 4, 16)
    assert (config.rollout.max_code_runs, config.kernel.cell_timeout) == (6, 2)
    assert (config.rollout.output_chars, config.timeout, config.modulus) == (200, 350, 1000)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'slow'.*aimo2-winner-like, default, fast, thorough"):
        presets.load_preset("slow")


def test_later_layers_beat_earlier_ones_value_by_value() -> None:
    layers = [
        Layer("a", {"stop": {"rule": "k_equal", "k": 3}, "seed": 1, "rollout": {"max_tokens": 9}}),
        Layer("b", {"stop": "never", "rollout": {"max_code_runs": 2}}),
    ]
    config = presets.resolve(layers)
    assert (config.stop.rule, config.stop.k, config.seed) == ("never", 3, 1)
    assert (config.rollout.max_tokens, config.rollout.max_code_runs) == (9, 2)
    assert layers[0].values["stop"] == {"rule": "k_equal", "k": 3}


def test_the_environment_sets_fields_and_leaves_other_variables_alone() -> None:
    layer = presets.environment_layer(
        {
            "AIMO2_NUM_ROLLOUTS": "8",
            "AIMO2_STOP__RULE": "never",
            "AIMO2_OPENINGS": '["plain"]',
            "AIMO2_HOME": "/x",
            "STOP": "k_equal",
        },
        {},
    )
    config = presets.resolve([layer])
    assert (config.num_rollouts, config.stop.rule, config.openings) == (8, "never", ("plain",))
    assert set(layer.values) == {"num_rollouts", "stop", "openings"}


def test_assignments_reach_any_field_also_below_a_short_form() -> None:
    layers = [Layer("", {"stop": "k_equal"}), presets.set_layer(["stop.k=2", "branch.policy=bfs"])]
    config = presets.resolve(layers)
    assert (config.stop.rule, config.stop.k, config.branch.policy) == ("k_equal", 2, "bfs")


def test_a_flag_s_name_is_a_variable_with_the_flag_s_meaning() -> None:
    said = {"AIMO2_TEMPERATURE": "0", "AIMO2_ROLLOUTS": "4", "AIMO2_MAX_TOKENS": "99"}
    config = presets.resolve([presets.environment_layer(said, FLAGS)])
    assert (config.sampling.temperature, config.num_rollouts) == (0, 4)
    assert (config.rollout.max_tokens, config.max_tokens) == (99, None)
    wrong = presets.environment_layer({"AIMO2_ROLLOUTS": "no"}, FLAGS)
    with pytest.raises(ConfigError, match="environment: AIMO2_ROLLOUTS no: "):
        presets.resolve([wrong])


def test_variables_that_set_nothing_are_known() -> None:
    said = ["AIMO2_TEMPRATURE", "AIMO2_TOP_P", "AIMO2_STOP__K", "AIMO2_HOME", "TEMPERATURE"]
    assert presets.unknown_variables(dict.fromkeys(said, "1"), FLAGS) == ["AIMO2_TEMPRATURE"]


@pytest.mark.parametrize(
    "said",
    [["stop.min_votes=3", "stop=never"], ["stop=never", "stop.min_votes=3"]],
)
def test_a_short_word_leaves_the_rest_of_its_section(said: list[str]) -> None:
    config = presets.resolve([presets.set_layer(said)])
    assert (config.stop.rule, config.stop.min_votes) == ("never", 3)
    with pytest.raises(ConfigError, match=r"^--set stop x: input should be"):
        presets.resolve([presets.set_layer(["stop=x"])])


def test_a_limit_for_every_model_voids_a_lower_one_for_those_that_think() -> None:
    preset = presets.preset_layer("default")
    usual = presets.resolve([preset, presets.set_layer(["rollout.max_code_runs=9"])]).rollout
    assert usual.token_limit(thinks=True) > 4 * usual.token_limit(thinks=False)
    given = presets.resolve([preset, presets.set_layer(["rollout.max_tokens=99"])]).rollout
    assert given.token_limit(thinks=True) == given.token_limit(thinks=False) == 99
    both = ["rollout.max_tokens=9", "rollout.max_tokens_thinking=10"]
    assert presets.resolve([preset, presets.set_layer(both)]).rollout.token_limit(thinks=True) == 10


def test_a_setting_is_taken_back_with_none() -> None:
    layers = [presets.preset_layer("aimo2-winner-like"), presets.set_layer(["modulus=none"])]
    assert presets.resolve(layers).modulus is None
    assert presets.resolve([*layers[:1], Layer("f.toml", {"timeout": "none"})]).timeout is None
    with pytest.raises(ConfigError, match="--set num_rollouts None: input should be"):
        presets.resolve([presets.set_layer(["num_rollouts=none"])])


@pytest.mark.parametrize("wrong", ["stop.k", "=3", ""])
def test_an_assignment_without_name_or_value_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        presets.set_layer([wrong])


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Layer("f.toml", {"rollout": {"max_tokens": 0}}), r"f.toml: rollout.max_tokens 0: input"),
        (Layer("f.toml", {"speed": 1}), r"f.toml: speed 1: there is no such setting"),
        (Layer("f.toml", {"stop": {"rule": "x"}}), r"f.toml: stop.rule x: input should be"),
        (presets.environment_layer({"AIMO2_SEED": "x"}, {}), r"environment: AIMO2_SEED x: input"),
        (presets.set_layer(["branch.children=0"]), r"^--set branch.children 0: input"),
        (
            Layer("f.toml", {"stop": {"min_votes": 9, "max_votes": 2}}),
            r"f.toml: stop: min_votes 9 is above max_votes 2",
        ),
        (
            Layer("f.toml", {"branch": {"scorer": "reward"}}),
            r"f.toml: branch: the scorer `reward` needs",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(layer: Layer, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        presets.resolve([presets.preset_layer("default"), layer])


def test_a_file_may_name_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "fast"\nseed = 5\n[stop]\nrule = "never"\n')
    layer, preset = presets.file_layer(path)
    assert preset == "fast"
    assert presets.resolve([presets.preset_layer(preset), layer]).seed == 5


@pytest.mark.parametrize(
    ("text", "said"), [("seed = ", "is no TOML"), ("preset = 3", "preset must be a name")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        presets.file_layer(path)
    with pytest.raises(ConfigError, match=r"none.toml cannot be read"):
        presets.file_layer(tmp_path / "none.toml")
