import json
from pathlib import Path

from aimo2.config import EngineConfig, ServerConfig, SolveConfig
from aimo2.presets import load_preset
from aimo2.runrecord import beside, run_record, write_run_record


def test_the_record_rebuilds_the_configuration_and_holds_no_key(tmp_path: Path) -> None:
    engine = EngineConfig(server=ServerConfig(base_url="http://h/v1", api_key_env="A_KEY"))
    solve = load_preset("thorough")
    path = beside(tmp_path / "t.jsonl")
    write_run_record(path, run_record(solve, engine, "a-model"))
    read = json.loads(path.read_text())
    assert path.name == "t.jsonl.run.json"
    assert SolveConfig.model_validate(read["solve"]) == solve
    assert EngineConfig.model_validate(read["engine"]) == engine
    assert (read["kind"], read["model"]) == ("run", "a-model")
    assert {"aimo2", "python", "system"} <= set(read["versions"])
