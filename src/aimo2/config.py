"""Frozen, validated configuration values. Knows no terminal and no defaults of a machine."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aimo2.types import ErrorKind, Opening, StopRule

AnswerType = Literal["int", "expr"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SamplingConfig(_Config):
    """How tokens are drawn."""

    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Most probable tokens that are drawn from; 0 is all. `None` is all, too, but leaves llama.cpp
    its own 40: cutting there first is what keeps its top-p cheap."""
    request_seeds: bool | None = None
    """Whether requests carry a seed; `None`: to every server but vLLM, which draws for seeded
    requests one by one (half its speed at 512 streams)."""
    logprobs: bool = False
    """Whether to ask for each token's log-probability, where the server has them."""
    token_spans: bool = False
    """With `logprobs`, whether traces keep them along the text, too: about 7 bytes a token."""


class OpeningConfig(_Config):
    """One way to start a rollout, and how it is led to code; `prompts/openings.toml` has examples.

    A code block is begun for the model ("forced") at most once a rollout, while it has run none,
    when one of the three conditions holds and its text has reached the end of a sentence.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=32)]
    about: str = ""
    """For people."""
    language: Literal["en", "zh"] = "en"
    code: bool = True
    """Whether the model is offered code."""
    task: Annotated[str, Field(min_length=1)] | None = None
    """Replaces the instruction; the form of the answer is added to it."""
    prefix: str = ""
    """What the reply is begun with; of a thinking model, its thinking."""
    fence_after: Annotated[int, Field(ge=1)] | None = None
    """Sampled tokens after which a code block is forced."""
    fence_after_thinking: Annotated[int, Field(ge=1)] | None = None
    """The same for a model that thinks; `None` takes `fence_after`."""
    fence_at_hedge: bool = False
    """Whether the first word of doubt forces one."""
    fence_at_answer: bool = False
    """Whether an answer that no code run stands behind forces one, instead of counting."""
    lead: str = ""
    """One line in the model's own voice before a forced code block."""
    nudges: dict[ErrorKind, str] = {}
    """Replace the hints behind failed cells, by cause."""


class KernelConfig(_Config):
    """Limits of one code cell and one kernel."""

    cell_timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds of wall-clock time a cell."""
    memory_mib: Annotated[int, Field(ge=64)] = 2048
    """Private memory of one kernel."""
    preload: tuple[str, ...] | None = None
    """Modules that kernels find imported; `None` takes the sandbox's own list."""
    output_bytes: Annotated[int, Field(ge=256)] = 64 * 1024
    """Output kept of one cell; what the model sees is `RolloutConfig.output_chars`."""


class RolloutConfig(_Config):
    """Limits of one rollout."""

    max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Sampled tokens, all turns together."""
    max_tokens_thinking: Annotated[int, Field(ge=1)] | None = None
    """The same for a model that thinks; `None` takes `max_tokens`, and so does every layer that
    sets only that, above one that sets this."""
    max_code_runs: Annotated[int, Field(ge=0)] = 4
    """0 means that the model is not offered code."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds, code runs included; `None` leaves only the question's deadline."""
    output_chars: Annotated[int, Field(ge=64)] = 600
    """Characters of a cell's output given back to the model, cut in the middle."""
    stop_at_answer: bool = True
    """End at the first usable boxed answer instead of at the end of the reply."""
    repairs: Annotated[int, Field(ge=0)] = 2
    """Failed cells in a row that are mended by their cause before another way is asked for; one
    that fails as the last did asks for it at once."""
    min_thinking_tokens: Annotated[int, Field(ge=1)] | None = None
    """Thinking that ends earlier is made to go on, `max_waits` times at most."""
    max_thinking_tokens: Annotated[int, Field(ge=1)] | None = None
    """Thinking that takes longer is ended, and the answer asked for."""
    max_waits: Annotated[int, Field(ge=0)] = 2

    def token_limit(self, *, thinks: bool) -> int:
        """Sampled tokens of a rollout whose model thinks, or does not."""
        return (self.max_tokens_thinking if thinks else None) or self.max_tokens


class SalvageConfig(_Config):
    """Forcing an answer out of a rollout that ends without one."""

    enabled: bool = True
    seconds: Annotated[float, Field(gt=0)] | None = None
    """How long before the deadline every rollout is made to answer; `None` learns it from the
    observed speed."""
    max_tokens: Annotated[int, Field(ge=1)] = 32
    """Tokens of a forced answer; they come on top of the rollout's own limit."""


class StopConfig(_Config):
    """When a question is decided before every rollout has ended; `policy.stop` has the rules."""

    rule: StopRule = "majority"
    min_votes: Annotated[int, Field(ge=1)] | None = None
    """No rule fires below it; `None` takes the rule's own: 7 of 16 in proportion for `majority`."""
    max_votes: Annotated[int, Field(ge=1)] | None = None
    """The question ends with so many votes, whatever they say."""
    k: Annotated[int, Field(ge=1)] = 4
    """Agreeing votes that `k_equal` asks for."""
    speed: Annotated[int, Field(ge=1, le=5)] = 3
    """Of `window`: 1 is the fastest and ends with 6 answers, 5 with 10, whatever they say."""
    certainty: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Probability at which `adaptive_consistency` stops."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_votes and self.max_votes and self.min_votes > self.max_votes:
            raise ValueError(f"min_votes {self.min_votes} is above max_votes {self.max_votes}")
        return self


ProbeLevel = Literal["mild", "low", "mid", "high", "crazy"]
"""How eagerly agreeing probes end a rollout; `policy.cut` has the figures."""


class CutConfig(_Config):
    """When a rollout is ended before its reply is; `policy.cut` has the rules. All are off."""

    confirmed: bool = False
    """End at an answer, in the thinking too, that the last good cell's output confirms."""
    probe: ProbeLevel | None = None
    """End where answers that are forced now and then, and thrown away, agree."""
    confidence: bool = False
    """End, without a vote, where the confidence falls; asks for 20 candidates a token."""
    warm_up: Annotated[int, Field(ge=1)] = 16
    """Rollouts that set the threshold of `confidence`."""
    percentile: Annotated[float, Field(ge=0, le=100)] = 10.0
    """Of their lowest windows, that is the threshold."""
    window: Annotated[int, Field(ge=1)] = 2048
    """Tokens of the windows of `confidence`."""
    length: Annotated[float, Field(gt=1)] | None = None
    """End what is so many times as long as the median of those that have answered."""
    length_after: Annotated[int, Field(ge=1)] = 3
    """Answers that `length` needs."""


class VerifyConfig(_Config):
    """Having a model compare the solutions and vote, too (GenSelect); `verifier` does it."""

    comparisons: Annotated[int, Field(ge=0)] = 0
    """0 is off."""
    size: Annotated[int, Field(ge=2)] = 8
    """Solutions in one comparison, at most."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of all its votes together, in terms of all others together."""
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Of one comparison."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    summary_chars: Annotated[int, Field(ge=100)] = 1500
    """Characters of a solution that are shown."""
    seconds: Annotated[float, Field(gt=0)] = 30.0
    """Kept for it at the end of a question that has a deadline; a quarter of its time at most."""


WeighRule = Literal[
    "count",
    "mean_confidence",
    "tail_confidence",
    "bottom_confidence",
    "min_confidence",
    "inverse_entropy",
    "short_first",
    "calibrated",
]
"""What a vote weighs; `policy.weigh` has the rules."""


class Calibration(_Config):
    """A logistic model of the probability that a trace is right, as `aimo2 calibrate` fits it.

    log-odds = intercept + sum over the features of coefficient x (value - mean) / scale; the names
    are those of `policy.calibrate.features`.
    """

    intercept: float
    coefficients: dict[str, float]
    means: dict[str, float]
    scales: dict[str, float]
    shift: float = 0.0
    """Log-odds added to a vote before it is cut at 0: -log of the probability that two wrong traces
    of a problem agree. Above 0, because wrong answers scatter."""
    num_traces: int = 0
    """That it was fitted on."""
    num_problems: int = 0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = set(self.coefficients)
        if names != set(self.means) or names != set(self.scales):
            raise ValueError("coefficients, means and scales must have the same names")
        if any(scale <= 0 for scale in self.scales.values()):
            raise ValueError("scales must be above 0")
        return self


class WeighConfig(_Config):
    """What a vote weighs: a rule, then a filter, a prior and the discounts that always hold."""

    rule: WeighRule = "count"
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the votes that weigh anything at all: the surest ones (DeepConf's filter: 0.1)."""
    keep_by: Literal["tail_confidence", "bottom_confidence"] = "tail_confidence"
    """What `keep` sorts by."""
    shortest: Annotated[int, Field(ge=1)] | None = None
    """Votes that `short_first` counts; `None` takes half of them."""
    trivial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor for answers that are guessed often: integers up to 20 and multiples of 100."""
    calibration: Calibration | None = None
    """Of `calibrated`."""

    @model_validator(mode="after")
    def _has_calibration(self) -> Self:
        if self.rule == "calibrated" and self.calibration is None:
            raise ValueError(
                "weights of `calibrated` need a calibration: fit one with `aimo2 calibrate -o F`"
                " and give it with --config F"
            )
        return self


BranchPolicy = Literal["independent", "bfs", "entropy", "rebase", "beam", "dvts"]
"""Where rollouts fork; `policy.branch` has the rules."""
STEP_POLICIES: frozenset[BranchPolicy] = frozenset({"rebase", "beam", "dvts"})
"""Those whose rollouts go step by step, and wait for each other after each."""


class BranchConfig(_Config):
    """How a question's rollouts fork."""

    policy: BranchPolicy = "independent"
    roots: Annotated[int, Field(ge=1)] = 3
    """`bfs`, `entropy`: rollouts opened from the problem before any branch is."""
    children: Annotated[int, Field(ge=1)] = 3
    """`bfs`, `entropy`: ways that a forked rollout goes on in, its own included."""
    max_depth: Annotated[int, Field(ge=1)] = 3
    """`bfs`, `entropy`: forks above a rollout, at most."""
    entropy: Annotated[float, Field(gt=0)] = 1.0
    """`entropy`: of the top 5 candidates of a token, in nats (at most 1.61), at which it forks."""
    width: Annotated[int, Field(ge=1)] | None = None
    """`beam`, `dvts`: ways that a beam goes on in; `None` is 4. The number of rollouts is that of
    the beams, or REBASE's W."""
    max_steps: Annotated[int, Field(ge=1)] = 40
    """`rebase`, `beam`, `dvts`: afterwards every rollout goes on by itself."""
    step_tokens: Annotated[int, Field(ge=1)] = 256
    """`rebase`: a step's tokens. `bfs`: tokens without code after which a rollout forks at a blank
    line. `entropy`: a quarter of it lies between the start of a call and a fork."""
    sharpness: Annotated[float, Field(gt=0)] = 0.2
    """`rebase`: the temperature of the scores."""
    scorer: Literal["confidence", "agreement", "code", "reward"] = "confidence"
    """`rebase`, `beam`, `dvts`: what says which rollouts are worth going on with."""
    reward_url: str | None = None
    """Of a process reward model behind vLLM, up to and including `/v1`; for `reward`."""
    reward_model: str | None = None
    """Its name; `None` takes the first that the server lists."""
    temperatures: tuple[Annotated[float, Field(ge=0, le=5)], ...] = ()
    """Of the branches at a point, in turn; empty leaves the question's."""
    nudges: tuple[str, ...] = ()
    """Text that the branches at a point go on with, in turn; the seed alone differs if empty."""

    @model_validator(mode="after")
    def _has_reward_model(self) -> Self:
        if self.scorer == "reward" and self.reward_url is None:
            raise ValueError("the scorer `reward` needs the reward model's URL (--reward-url)")
        return self


class SolveConfig(_Config):
    """How one question is solved."""

    num_rollouts: Annotated[int, Field(ge=1)] = 4
    """Started in all, branches included; of `rebase`, `beam` and `dvts`: alive at the same time."""
    concurrency: Annotated[int, Field(ge=1)] = 1
    """Rollouts that stream at the same time."""
    openings: tuple[Opening, ...] = ("code", "code", "code", "plain")
    """Taken in turn: rollout i has opening i modulo their number."""
    custom_openings: tuple[OpeningConfig, ...] = ()
    """The user's own; one replaces the built-in opening of its name."""
    family: str = "auto"
    """Model family, which decides how the model is asked; `auto` tells it by the model's name."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Whether a model that can think does so before it answers."""
    branch: BranchConfig = BranchConfig()
    cut: CutConfig = CutConfig()
    weigh: WeighConfig = WeighConfig()
    verify: VerifyConfig = VerifyConfig()
    stop: StopConfig = StopConfig()
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Sampled tokens of the whole question; then every rollout is made to answer."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds for the question; one absolute deadline is computed from it."""
    seed: int = 0
    answer_type: AnswerType = "int"
    modulus: Annotated[int, Field(ge=1)] | None = None
    """Integer answers are reduced by it outside the model; the model is never told."""
    lowest: int | None = None
    """Integers below cannot be right: they are no answer, and have no vote."""
    highest: int | None = None
    """Integers above; after the modulus."""
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    salvage: SalvageConfig = SalvageConfig()
    kernel: KernelConfig = KernelConfig()

    @field_validator("branch", mode="before")
    @classmethod
    def _branch_by_name(cls, value: object) -> object:
        """`branch = "bfs"` is short for its policy, the rest being as it is by default."""
        return {"policy": value} if isinstance(value, str) else value

    @field_validator("stop", "weigh", mode="before")
    @classmethod
    def _rule_by_name(cls, value: object) -> object:
        """`stop = "never"` is short for its rule."""
        return {"rule": value} if isinstance(value, str) else value

    @property
    def top_candidates(self) -> int:
        """Log-probabilities wanted a token: what the policies need, and the record. 0 is none."""
        wants = [1 if self.sampling.logprobs else 0]
        if self.branch.policy == "entropy":
            wants.append(5)
        if self.branch.policy in STEP_POLICIES and self.branch.scorer == "confidence":
            wants.append(1)
        if self.weigh.rule == "inverse_entropy":
            wants.append(5)
        if self.cut.confidence or self.weigh.rule.endswith("_confidence") or self.weigh.keep < 1:
            wants.append(20)
        return max(wants)


Routing = Literal["prefix", "load"]
"""Which replica a request goes to: where its prefix is cached, or the least busy in any case."""


class ServerConfig(_Config):
    """An inference server that somebody else runs."""

    base_url: str
    """Up to and including `/v1`."""
    more_urls: tuple[str, ...] = ()
    """Of further replicas of the same model, with the same key."""
    routing: Routing = "prefix"
    """Over the replicas, where there are several."""
    model: str | None = None
    """Name to ask for; `None` takes the first that the server lists."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is never stored."""
    chat_template: str | None = None
    """A file with the Jinja source, or `chatml`; `None` takes the server's or the model's own."""


class LocalServerConfig(_Config):
    """A llama.cpp server that we start."""

    model_path: Path
    concurrency: Annotated[int, Field(ge=1)] = 1
    """Parallel slots."""
    context: Annotated[int, Field(ge=256)] = 4096
    """Tokens a slot, prompt and reply together."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """`None` takes the machine's physical cores that this process may use."""


class EngineConfig(_Config):
    """Which engine samples the tokens, and how it is sized."""

    server: ServerConfig | None = None
    """A server that somebody else runs; `None` starts our own with `model_path`."""
    model_path: Path | None = None
    reasoner: ServerConfig | None = None
    """Of another model, which reasons before ours goes on (`handover`)."""
    verifier: ServerConfig | None = None
    """Of another model, which compares the solutions (`verifier`); `None` is ours."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Rollouts that stream at the same time; `None` sizes it to the engine."""
    context: Annotated[int, Field(ge=256)] = 4096
    """Tokens a slot of our own server, prompt and reply together."""
    threads: Annotated[int, Field(ge=1)] | None = None
    sandbox: Literal["auto", "strict"] = "auto"
    """`strict` refuses to run where network or files cannot be closed off from the code."""
