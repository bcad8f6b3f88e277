"""Which family a model's name tells, and what follows from it."""

import re

import pytest

from aimo2.config import SamplingConfig
from aimo2.errors import ConfigError
from aimo2.prompts.families import UNKNOWN, families, find_family


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss"),
        ("nvidia/OpenMath-Nemotron-14B-Kaggle", "openmath-nemotron"),
        ("nvidia/OpenReasoning-Nemotron-7B", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "deepseek-r1"),
        ("deepseek-r1-distill-llama-8b-awq", "deepseek-r1"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "deepseek-r1"),
        ("deepseek-r1", "deepseek-r1"),
        ("Skywork/Skywork-OR1-7B", "deepseek-r1"),
        ("Qwen/QwQ-32B-AWQ", "deepseek-r1"),
        ("simplescaling/s1.1-32B", "deepseek-r1"),
        ("Qwen/Qwen3-4B", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3-thinking"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen"),
        ("Qwen/Qwen2.5-Math-7B-Instruct", "qwen-math"),
        ("qwen2-math-1.5b", "qwen-math"),
        ("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", "qwen"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("AI-MO/NuminaMath-7B-TIR", "numina"),
        ("deepseek-ai/deepseek-math-7b-rl", "deepseek-math"),
        ("google/gemma-2-9b-it", "without-system"),
        ("google/gemma-2/checkpoint", "unknown"),
        ("open-r1/OpenR1-Qwen-7B", "deepseek-r1"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "thinking"),
        ("moonshotai/Kimi-K2-Thinking", "thinking"),
        ("allenai/Olmo-3-7B-Think", "thinking"),
        ("baidu/ERNIE-4.5-21B-A3B-Thinking", "thinking"),
        ("some/Model-7B-No-Think", "unknown"),
        ("mistralai/Magistral-Small-2509", "magistral"),
        ("mistralai/Magistral-Small-2506", "thinking"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "without-system"),
        ("SmolLM2-135M-Instruct", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_served_name_tells_the_family(model: str | None, family: str) -> None:
    assert find_family(model).name == family


def test_a_family_can_be_asked_for_whatever_the_model_is_called() -> None:
    assert find_family("my-finetune", "qwen3").name == "qwen3"
    assert find_family("Qwen3-4B", "unknown") is UNKNOWN


def test_a_model_whose_template_opens_its_thinking_thinks_whatever_it_is_called() -> None:
    assert find_family("/models/checkpoint", opens_thinking=True).name == "thinking"
    llama = find_family("my-llama", opens_thinking=True)
    assert (llama.name, llama.thinks(), llama.sampling) == (
        "llama",
        True,
        families()["llama"].sampling,
    )
    assert find_family("Qwen3-4B", opens_thinking=True) is find_family("Qwen3-4B")
    assert find_family("/models/checkpoint", "unknown", opens_thinking=True) is UNKNOWN


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'qwen4'.*auto.*deepseek-r1.*unknown"):
        find_family("x", "qwen4")


@pytest.mark.parametrize("name", families())
def test_every_familys_data_hold_together(name: str) -> None:
    family = families()[name]
    re.compile(family.match)
    if family.thinking is not None:
        assert family.thinking.begins in family.thinking.open
        assert family.thinking.ends in family.thinking.close
        assert family.thinking.off is None or family.thinking.ends in family.thinking.off


def test_only_a_model_that_can_be_kept_from_thinking_is() -> None:
    hybrid, always, never = (families()[name] for name in ("qwen3", "deepseek-r1", "llama"))
    assert [hybrid.thinks(wanted) for wanted in ("auto", "on", "off")] == [True, True, False]
    assert always.thinks("off")
    assert not never.thinks("on")


def test_recommended_sampling_yields_to_what_the_user_set() -> None:
    family = families()["qwen3"]
    assert family.sample(SamplingConfig()).temperature == 0.6
    assert family.sample(SamplingConfig(), "off").top_p == 0.8
    chosen = family.sample(SamplingConfig(temperature=1.2))
    assert (chosen.temperature, chosen.top_p) == (1.2, 0.95)
    assert UNKNOWN.sample(SamplingConfig(top_p=0.5)) == SamplingConfig(top_p=0.5)
