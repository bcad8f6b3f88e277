"""Flags that choose how a question is solved, each empty where it was not given (see `choice`)."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from aimo2.config import AnswerType as AnswerTypeValue
from aimo2.config import BranchConfig, BranchPolicy, ProbeLevel, WeighRule
from aimo2.prompts.families import Thinking as ThinkingWish
from aimo2.types import StopRule

_SOLVING = "How a question is solved"
_VOTES = "Votes"
_TREE = "The tree of attempts"
_LIMITS = "Limits"
_CUTS = "Ending single attempts"


def _names(title: str, values: object) -> type[StrEnum]:
    """An enumeration for typer of a `Literal`'s values."""
    return StrEnum(title, {str(value).upper(): str(value) for value in get_args(values)})  # type: ignore[return-value]


AnswerTypeName: Any = _names("AnswerTypeName", AnswerTypeValue)
ThinkingName: Any = _names("ThinkingName", ThinkingWish)
ProbeName: Any = _names("ProbeName", ProbeLevel)
StopName: Any = _names("StopName", StopRule)
WeighName: Any = _names("WeighName", WeighRule)
BranchName: Any = _names("BranchName", BranchPolicy)
ScorerName: Any = _names("ScorerName", BranchConfig.model_fields["scorer"].annotation)


def _option(panel: str, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **rest)


Preset = Annotated[
    str | None,
    _option(
        _SOLVING,
        "--preset",
        envvar="AIMO2_PRESET",
        help="A named configuration to start from; aimo2 presets lists them. [default: default]",
    ),
]
ConfigFile = Annotated[
    Path | None,
    _option(
        _SOLVING,
        "--config",
        envvar="AIMO2_CONFIG",
        help="TOML of the same form as a preset; beats the preset.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    _option(
        _SOLVING,
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting by its path, such as branch.entropy=1.2. May be given again.",
    ),
]
Rollouts = Annotated[
    int | None, _option(_SOLVING, "--rollouts", "-n", help="Attempts a problem, at most.")
]
Concurrency = Annotated[
    int | None, _option(_SOLVING, "--concurrency", help="Attempts that run at the same time.")
]
Openings = Annotated[
    str | None,
    _option(
        _SOLVING,
        "--openings",
        help="How attempts start: names behind commas, taken in turn, or a mix such as"
        " code:3,late:1.",
    ),
]
OpeningsFile = Annotated[
    Path | None,
    _option(_SOLVING, "--openings-file", help="TOML with openings of your own, and their mix."),
]
Code = Annotated[
    bool | None, _option(_SOLVING, "--code/--no-code", help="Whether the model may run code.")
]
Family = Annotated[
    str | None,
    _option(_SOLVING, "--family", help="The model's family, where its name does not tell it."),
]
Thinking = Annotated[
    ThinkingName | None,
    _option(_SOLVING, "--thinking", help="Whether a model that can think does so first."),
]
Repairs = Annotated[
    int | None,
    _option(
        _SOLVING,
        "--repairs",
        help="Failed code runs in a row that are mended before another approach is asked for.",
    ),
]
AnswerType = Annotated[
    AnswerTypeName | None,
    _option(_SOLVING, "--answer-type", help="Integers, or any expression."),
]
Modulus = Annotated[
    int | None,
    _option(_SOLVING, "--modulus", help="Reduce integer answers modulo this (1000 for AIMO-2)."),
]
Temperature = Annotated[
    float | None, _option(_SOLVING, "--temperature", help="Sampling temperature.")
]
TopP = Annotated[float | None, _option(_SOLVING, "--top-p", help="Nucleus sampling.")]
MinP = Annotated[
    float | None, _option(_SOLVING, "--min-p", help="Least probability, relative to the best.")
]
Logprobs = Annotated[
    bool | None,
    _option(_SOLVING, "--logprobs/--no-logprobs", help="Record log-probabilities."),
]
Seed = Annotated[int | None, _option(_SOLVING, "--seed", help="Same seed, same requests.")]
RequestSeeds = Annotated[
    bool | None,
    _option(
        _SOLVING,
        "--request-seeds/--no-request-seeds",
        help="Whether the server is told the seed; by default every one but vLLM, which is slower"
        " then.",
    ),
]

Stop = Annotated[StopName | None, _option(_VOTES, "--stop", help="When the vote is decided early.")]
MinVotes = Annotated[
    int | None, _option(_VOTES, "--min-votes", help="Votes below which no rule decides.")
]
MaxVotes = Annotated[
    int | None, _option(_VOTES, "--max-votes", help="Votes that end a question in any case.")
]
EqualVotes = Annotated[
    int | None, _option(_VOTES, "--equal-votes", help="Agreeing votes that k_equal asks for.")
]
Certainty = Annotated[
    float | None,
    _option(_VOTES, "--certainty", help="Probability at which adaptive_consistency stops."),
]
Weigh = Annotated[WeighName | None, _option(_VOTES, "--weigh", help="What a vote weighs.")]
Keep = Annotated[
    float | None,
    _option(_VOTES, "--keep", help="Part of the votes that count: the most confident."),
]
Trivial = Annotated[
    float | None,
    _option(_VOTES, "--trivial", help="Factor for answers up to 20 and multiples of 100."),
]

Genselect = Annotated[
    int | None,
    _option(
        _VOTES,
        "--genselect",
        metavar="N",
        help="Where votes differ, have a model compare the solutions N times. [default: 0]",
    ),
]

Confirmed = Annotated[
    bool | None,
    _option(
        _CUTS,
        "--confirmed/--no-confirmed",
        help="End an attempt at an answer, in its thinking too, that its code printed.",
    ),
]
Probe = Annotated[
    ProbeName | None,
    _option(_CUTS, "--probe", help="End an attempt whose forced answers agree: how eagerly."),
]
CutUnsure = Annotated[
    bool | None,
    _option(
        _CUTS,
        "--cut-unsure/--no-cut-unsure",
        help="End attempts that are less sure than the first ones; they do not vote.",
    ),
]
CutLong = Annotated[
    float | None,
    _option(
        _CUTS,
        "--cut-long",
        metavar="TIMES",
        help="End attempts so many times as long as the median of those that answered.",
    ),
]

Branch = Annotated[BranchName | None, _option(_TREE, "--branch", help="Where attempts fork.")]
Roots = Annotated[
    int | None, _option(_TREE, "--roots", help="Attempts that are opened before any fork.")
]
Children = Annotated[
    int | None, _option(_TREE, "--children", help="Ways that a forked attempt goes on in.")
]
Width = Annotated[
    int | None, _option(_TREE, "--width", help="Ways that a beam goes on in (beam, dvts).")
]
Scorer = Annotated[
    ScorerName | None,
    _option(_TREE, "--scorer", help="What rebase, beam and dvts go by."),
]
RewardUrl = Annotated[
    str | None,
    _option(_TREE, "--reward-url", help="A process reward model's server, for --scorer reward."),
]
RewardModel = Annotated[
    str | None, _option(_TREE, "--reward-model", help="Its name, where the server has several.")
]

MaxTokens = Annotated[
    int | None, _option(_LIMITS, "--max-tokens", help="Sampled tokens an attempt, at most.")
]
TokenBudget = Annotated[
    int | None, _option(_LIMITS, "--token-budget", help="Sampled tokens a problem, at most.")
]
MaxCodeRuns = Annotated[
    int | None, _option(_LIMITS, "--max-code-runs", help="Code runs an attempt, at most.")
]
CellTimeout = Annotated[
    float | None, _option(_LIMITS, "--cell-timeout", help="Seconds a code run may take.")
]
Timeout = Annotated[
    float | None,
    _option(_LIMITS, "--timeout", help="Seconds a problem may take; never passed by over 1 s."),
]
RolloutTimeout = Annotated[
    float | None, _option(_LIMITS, "--rollout-timeout", help="Seconds an attempt may take.")
]
MinThinking = Annotated[
    int | None,
    _option(
        _LIMITS,
        "--min-thinking-tokens",
        help="Thinking that ends before is made to go on.",
    ),
]
MaxThinking = Annotated[
    int | None,
    _option(_LIMITS, "--max-thinking-tokens", help="Thinking is ended after so many tokens."),
]
Salvage = Annotated[
    bool | None,
    _option(
        _LIMITS,
        "--salvage/--no-salvage",
        help="Force an answer out of attempts that end without one.",
    ),
]
SalvageSeconds = Annotated[
    float | None,
    _option(
        _LIMITS,
        "--salvage-seconds",
        help="How long before the deadline. [default: learned from the speed]",
    ),
]


@dataclass(frozen=True, slots=True)
class SolveFlags:
    """The flags of every command that solves questions; `None` is one that was not given."""

    preset: Preset = None
    config_file: ConfigFile = None
    openings: Openings = None
    openings_file: OpeningsFile = None
    code: Code = None
    family: Family = None
    thinking: Thinking = None
    repairs: Repairs = None
    modulus: Modulus = None
    temperature: Temperature = None
    top_p: TopP = None
    min_p: MinP = None
    logprobs: Logprobs = None
    seed: Seed = None
    request_seeds: RequestSeeds = None
    assignments: Assignments = None
    stop: Stop = None
    min_votes: MinVotes = None
    max_votes: MaxVotes = None
    equal_votes: EqualVotes = None
    certainty: Certainty = None
    weigh: Weigh = None
    keep: Keep = None
    trivial: Trivial = None
    genselect: Genselect = None
    confirmed: Confirmed = None
    probe: Probe = None
    cut_unsure: CutUnsure = None
    cut_long: CutLong = None
    branch: Branch = None
    roots: Roots = None
    children: Children = None
    width: Width = None
    scorer: Scorer = None
    reward_url: RewardUrl = None
    reward_model: RewardModel = None
    max_tokens: MaxTokens = None
    token_budget: TokenBudget = None
    max_code_runs: MaxCodeRuns = None
    cell_timeout: CellTimeout = None
    rollout_timeout: RolloutTimeout = None
    min_thinking_tokens: MinThinking = None
    max_thinking_tokens: MaxThinking = None
    salvage: Salvage = None
    salvage_seconds: SalvageSeconds = None
