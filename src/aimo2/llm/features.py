"""Say what a connected server can do, and in words what it cannot. Pure."""

from dataclasses import dataclass

from aimo2.llm.dialect import Dialect, Mode


@dataclass(frozen=True, slots=True)
class Features:
    """What works with the connected server.

    `exact_continuation`: a reply goes on exactly where its text ends. `template`: where the chat
    template comes from. `logprobs`: the server was seen to send them. `min_p`, `seed`: the server
    did not refuse them; some ignore them silently. `opens_thinking`: the template was seen to begin
    each reply's thinking. `reduced`: one line for each thing that works
    less well than it could, with its mend where there is one.
    """

    mode: Mode
    exact_continuation: bool
    template: str
    logprobs: bool
    min_p: bool
    seed: bool
    opens_thinking: bool = False
    reduced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What start-up found out besides the dialect."""

    template: str
    why_chat: str | None
    exact_chat: bool
    logprobs: bool
    thinks: bool = False
    """Whether the template begins each reply's thinking."""


def features(dialect: Dialect, seen: Seen) -> Features:
    """The features of a dialect; call again when the dialect has learnt another refusal."""
    exact = dialect.mode == "raw" or (
        seen.exact_chat and "continue_final_message" not in dialect.refused
    )
    logprobs = seen.logprobs and "logprobs" not in dialect.refused
    return Features(
        mode=dialect.mode,
        exact_continuation=exact,
        template=seen.template,
        logprobs=logprobs,
        min_p="min_p" not in dialect.refused,
        seed="seed" not in dialect.refused and dialect.sends_seeds,
        opens_thinking=seen.thinks,
        reduced=tuple(_reduced(dialect, seen, exact, logprobs)),
    )


def _reduced(dialect: Dialect, seen: Seen, exact: bool, logprobs: bool) -> list[str]:
    lines = []
    if seen.why_chat is not None:
        lines.append(f"chat mode: {seen.why_chat}")
    if not exact:
        lines.append(
            "the server may begin a new message instead of continuing a reply: no code block and "
            "no thinking is begun for the model"
        )
    if not logprobs:
        lines.append("the server gives no log-probabilities")
    if not dialect.sends_seeds and "seed" not in dialect.refused:
        lines.append(
            "requests carry no seed, so replies differ from run to run; --request-seeds sends it "
            "(at 512 streams vLLM is half as fast then)"
        )
    lines += [text for name, text in _MISSING.items() if name in dialect.refused]
    return lines


_MISSING = {
    "min_p": "the server does not take min-p",
    "top_k": "the server does not take top-k: it uses its own",
    "seed": "the server does not take a seed: a run cannot be repeated",
    "stop": "the server does not take stop strings: the client stops the stream",
    "temperature": "the server does not take a temperature: it uses its own",
    "top_p": "the server does not take top-p: it uses its own",
    "stream_options": "the server does not count tokens: they are counted by events",
}
