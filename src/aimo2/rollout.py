"""One rollout: stream, run the code, feed its output back, until there is an answer or a limit.

Knows nothing of other rollouts, of votes or of the terminal. A model's or a kernel's failure ends
the rollout and is a record in its trace; anything else is a bug and is raised.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aimo2 import prompts
from aimo2.answers import Canonical, Extracted, extract
from aimo2.config import SolveConfig
from aimo2.deadline import Deadline
from aimo2.errors import ContextFull, DeadlinePassed, ModelError, SandboxError
from aimo2.llm import Chunk, Conversation, Model, Sampling
from aimo2.parse import (
    BoxSeen,
    CodeBlock,
    Event,
    FenceParser,
    InventedOutput,
    LoopDetector,
    cut_middle,
    indent_lines,
)
from aimo2.sandbox import CellResult, Kernel, Sandbox
from aimo2.types import CodeRun, FinishReason, Opening, Problem, RolloutStop, Trace, Turn

Canonicalise = Callable[[str], Awaitable[Canonical]]
"""A raw answer to its canonical form, by the question's answer type and modulus."""

RolloutState = Literal["sampling", "running code", "done"]
TextKind = Literal["prefix", "sampled", "injected"]

_FORCED_FENCE = "```python\n"
_LONGEST_OUTPUT_ANSWER = 64
_CLOSE_SECONDS = 1.0
"""How long a kernel may take to close before it is left to its sandbox."""


class Observer(Protocol):
    """Whoever watches. Called often and from the event loop: return at once, never raise."""

    def text(self, rollout: int, kind: TextKind, text: str) -> None:
        """More text of a rollout."""
        ...

    def progress(self, rollout: "Rollout") -> None:
        """A rollout changed its state."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rollout answered: as written, where it stood, and its canonical form."""

    extracted: Extracted
    canonical: Canonical


@dataclass(slots=True)
class _TurnSoFar:
    """What the current model call has given so far."""

    parts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    logprob_sum: float = 0.0
    num_logprobs: int = 0
    finish_reason: FinishReason = "closed"

    def take(self, chunk: Chunk) -> None:
        self.parts.append(chunk.text)
        self.num_tokens += chunk.num_tokens
        self.logprob_sum += sum(chunk.logprobs)
        self.num_logprobs += len(chunk.logprobs)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason

    def mean_logprob(self) -> float | None:
        return self.logprob_sum / self.num_logprobs if self.num_logprobs else None


def derive_seed(seed: int, problem_id: str, rollout: int, turn: int) -> int:
    """A seed of 31 bits for one model call; the same for the same four values, everywhere."""
    text = f"{seed}\0{problem_id}\0{rollout}\0{turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


class Rollout:
    """One live attempt at a problem; `run` drives it once, `trace` may be read at any time."""

    def __init__(
        self,
        problem: Problem,
        index: int,
        config: SolveConfig,
        model: Model,
        sandbox: Sandbox,
        canonicalise: Canonicalise,
        observer: Observer,
    ) -> None:
        self.index = index
        self._with_code = config.rollout.max_code_runs > 0
        wanted = config.openings[index % len(config.openings)]
        self.opening: Opening = wanted if self._with_code else "plain"
        self.state: RolloutState = "sampling"
        self.answer: Answer | None = None
        self.stop_reason: RolloutStop | None = None
        self.error: str | None = None
        self.turns: list[Turn] = []
        self._problem = problem
        self._config = config
        self._limits = config.rollout
        self._model = model
        self._sandbox = sandbox
        self._canonicalise = canonicalise
        self._observer = observer
        self._start = prompts.start(
            problem.statement, self.opening, config.answer_type, code=self._with_code
        )
        self._reply = self._start.prefix
        self._kernel: Kernel | None = None
        self._current: _TurnSoFar | None = None
        self._loop_detector = LoopDetector()
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._last_good_output: str | None = None
        self.num_code_runs = 0

    @property
    def num_tokens(self) -> int:
        """Sampled tokens so far, those of the current turn included."""
        current = self._current.num_tokens if self._current else 0
        return sum(turn.num_tokens for turn in self.turns) + current

    @property
    def seconds(self) -> float:
        """Time since the start, up to the end if it has ended."""
        if self._started_at is None:
            return 0.0
        ended = self._ended_at
        return (asyncio.get_running_loop().time() if ended is None else ended) - self._started_at

    async def run(self, deadline: Deadline) -> None:
        """Drive the rollout to its stop reason, by `deadline` at the latest.

        Being cancelled is allowed at any time: streams and kernel are closed, and what there is
        stays readable.
        """
        self._started_at = asyncio.get_running_loop().time()
        self._observer.progress(self)
        self._observer.text(self.index, "prefix", self._start.prefix)
        own = deadline.within(self._limits.timeout)
        try:
            stop = await self._attempt(own)
            if stop == "timeout" and deadline <= own:
                stop = "deadline"
            self._abandon_turn()
            await self._settle_answer(final=True)
        except asyncio.CancelledError:
            self.finish("cancelled")
            raise
        finally:
            await self._close_kernel()
        self.finish("answered" if stop == "no_answer" and self.answer is not None else stop)

    async def _attempt(self, deadline: Deadline) -> RolloutStop:
        """The boundary where a failed model call or kernel becomes a record."""
        try:
            return await self._turns(deadline)
        except DeadlinePassed:
            return "timeout"
        except ContextFull:
            return "max_context"
        except ModelError as error:
            self.error = str(error)
            return "model_error"
        except SandboxError as error:
            self.error = str(error)
            return "sandbox_error"

    async def _turns(self, deadline: Deadline) -> RolloutStop:
        while self.num_tokens < self._limits.max_tokens:
            if deadline.passed():
                raise DeadlinePassed("the deadline came between two turns")
            event = await self._sample(deadline)
            stop = await self._act(event, deadline)
            if stop is not None:
                return stop
        return "max_tokens"

    async def _sample(self, deadline: Deadline) -> Event | Literal["loop"] | None:
        """One model call, up to the first event that ends it; `None` where the reply ended."""
        turn = self._current = _TurnSoFar()
        parser = FenceParser(thinking=_is_thinking(self._reply))
        parser.feed(_FORCED_FENCE if self._reply.endswith(_FORCED_FENCE) else "")
        skipped = parser.offset
        async with aclosing(
            self._model.stream(
                Conversation(self._start.messages, self._reply), self._sampling(), deadline
            )
        ) as chunks:
            async for chunk in chunks:
                turn.take(chunk)
                self._observer.text(self.index, "sampled", chunk.text)
                ending = self._ending(parser.feed(chunk.text), skipped)
                if ending is not None:
                    return ending
                if self._loop_detector.feed(chunk.text):
                    return "loop"
        return self._ending(parser.finish(), skipped)

    def _sampling(self) -> Sampling:
        wanted = self._config.sampling
        return Sampling(
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            max_tokens=self._limits.max_tokens - self.num_tokens,
            seed=derive_seed(self._config.seed, self._problem.id, self.index, len(self.turns)),
            logprobs=1 if wanted.logprobs else 0,
        )

    def _ending(self, events: Sequence[Event], skipped: int) -> Event | None:
        """The first event that ends this call; cuts the turn's text there."""
        for event in events:
            if isinstance(event, BoxSeen):
                if self._limits.stop_at_answer and self._cut(event.end - skipped, extract):
                    return event
            elif isinstance(event, CodeBlock):
                if self._with_code and event.runnable:
                    self._cut(event.end - skipped)
                    return event
            elif self._with_code:
                self._cut(event.start - skipped)
                return event
        return None

    def _cut(self, length: int, only_if: Callable[[str], object] = len) -> bool:
        """Keep `length` characters of the turn, where what is kept passes `only_if`."""
        assert self._current is not None
        kept = "".join(self._current.parts)[: max(0, length)]
        if only_if is extract and extract(kept) is None:
            return False
        self._current.parts = [kept]
        return True

    async def _act(
        self, event: Event | Literal["loop"] | None, deadline: Deadline
    ) -> RolloutStop | None:
        """What follows from how the call ended; a stop reason, or `None` to go on."""
        assert self._current is not None
        if isinstance(event, CodeBlock):
            return await self._run_code(event, deadline)
        if isinstance(event, InventedOutput):
            return self._force_code()
        hit_limit = self._current.finish_reason == "length"
        self._end_turn(None, "")
        if event == "loop":
            return "loop"
        if isinstance(event, BoxSeen):
            return await self._check_answer()
        if not hit_limit:
            return "no_answer"
        # A server whose context is full says "length", too, before our own limit.
        return "max_tokens" if self.num_tokens >= self._limits.max_tokens else "max_context"

    async def _check_answer(self) -> RolloutStop | None:
        """A boxed answer ends the rollout if it is usable; otherwise the model goes on."""
        await self._settle_answer(final=False)
        return None if self.answer is None else "answered"

    async def _run_code(self, block: CodeBlock, deadline: Deadline) -> RolloutStop | None:
        assert self._current is not None
        if not block.closed and self._current.finish_reason == "length":
            self._end_turn(None, "")
            return "max_tokens"
        if self.num_code_runs >= self._limits.max_code_runs:
            self._end_turn(None, "")
            return "max_code_runs"
        result = await self._run_cell(block.code, deadline)
        self.num_code_runs += 1
        shown, cut = self._shown(result)
        run = CodeRun(
            code=block.code,
            output=shown,
            error=result.error,
            seconds=result.seconds,
            truncated=cut or result.bytes_dropped > 0,
        )
        self._last_good_output = result.output if result.error is None else None
        self._end_turn(run, self._feedback(block, run))
        return None

    async def _run_cell(self, code: str, deadline: Deadline) -> CellResult:
        self.state = "running code"
        self._observer.progress(self)
        if self._kernel is None:
            self._kernel = await self._sandbox.create()
        result = await self._kernel.run(
            code, timeout=self._config.kernel.cell_timeout, deadline=deadline
        )
        self.state = "sampling"
        self._observer.progress(self)
        return result

    def _shown(self, result: CellResult) -> tuple[str, bool]:
        """Output and traceback as the model sees them, and whether something was cut."""
        limit = self._limits.output_chars
        trace, trace_cut = cut_middle(result.traceback.strip("\n"), limit)
        room = max(limit - len(trace), limit // 4)
        output, output_cut = cut_middle(result.output.strip("\n"), room)
        parts = [part for part in (output, trace) if part]
        shown = "\n".join(parts) or prompts.SILENT_OUTPUT
        return _defused(shown), trace_cut or output_cut

    def _feedback(self, block: CodeBlock, run: CodeRun) -> str:
        """The text put behind a code block: its output in the same indentation, and a nudge."""
        assert self._current is not None
        text = "".join(self._current.parts)
        before = "" if text.endswith("\n") or not text else "\n"
        if not block.closed:
            before += f"{block.indent}{block.fence}\n"
        fence = _longer_fence(run.output)
        body = indent_lines(f"{fence}output\n{run.output}\n{fence}", block.indent)
        after = ""
        if self.num_code_runs >= self._limits.max_code_runs:
            after = f"{block.indent}{prompts.LAST_RUN_NUDGE}\n"
        elif run.error is not None:
            after = f"{block.indent}{prompts.nudge(run.error)}\n"
        return f"{before}{body}\n{after}"

    def _force_code(self) -> RolloutStop | None:
        """The model wrote output without code: have it write the code instead."""
        text = "".join(self._current.parts) if self._current else ""
        if self.num_code_runs >= self._limits.max_code_runs:
            self._end_turn(None, "")
            return "max_code_runs"
        before = "" if text.endswith("\n") or not text else "\n"
        self._end_turn(None, before + _FORCED_FENCE)
        return None

    def _end_turn(self, run: CodeRun | None, injected: str) -> None:
        assert self._current is not None
        turn = Turn(
            text="".join(self._current.parts),
            num_tokens=self._current.num_tokens,
            finish_reason=self._current.finish_reason,
            run=run,
            injected=injected,
            mean_logprob=self._current.mean_logprob(),
        )
        self._current = None
        self.turns.append(turn)
        self._reply += turn.text + turn.injected
        self._observer.text(self.index, "injected", injected)
        self._observer.progress(self)

    async def _settle_answer(self, *, final: bool) -> None:
        """Read the answer out of the text; where the reply is over, else out of the last output."""
        if self.answer is not None:
            return
        candidates = [extract(self._reply), self._from_output() if final else None]
        for extracted in filter(None, candidates):
            canonical = await self._canonicalise(extracted.raw)
            if canonical.value is not None:
                self.answer = Answer(extracted, canonical)
                return
            self.error = self.error or canonical.note

    def _from_output(self) -> Extracted | None:
        """The last line of the last output, unless a failed run came after it."""
        lines = (self._last_good_output or "").strip().splitlines()
        if not lines or len(lines[-1]) > _LONGEST_OUTPUT_ANSWER:
            return None
        return Extracted(lines[-1].strip(), "output")

    def _abandon_turn(self) -> None:
        """Record a call that ended without an event: an error, the deadline, a cancellation."""
        if self._current is not None:
            self._end_turn(None, "")

    async def _close_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await kernel.close()
        except (TimeoutError, SandboxError):
            pass  # The sandbox ends it with the rest; the answer must not wait for it.

    def finish(self, stop: RolloutStop) -> None:
        """Set the stop reason, the first time only. The owner calls this for one it cancelled."""
        if self.stop_reason is not None:
            return
        self._abandon_turn()
        self.stop_reason = stop
        self.state = "done"
        self._ended_at = asyncio.get_running_loop().time()
        self._observer.progress(self)

    def trace(self) -> Trace:
        """The record of this rollout, which must have ended."""
        assert self.stop_reason is not None, "the rollout has not ended"
        return Trace(
            problem_id=self._problem.id,
            rollout=self.index,
            opening=self.opening,
            seed=self._config.seed,
            prefix=self._start.prefix,
            turns=tuple(self.turns),
            answer=self.answer.canonical.value if self.answer else None,
            raw_answer=self.answer.extracted.raw if self.answer else None,
            answer_source=self.answer.extracted.source if self.answer else None,
            stop_reason=self.stop_reason,
            error=self.error,
            seconds=self.seconds,
        )


def _is_thinking(reply: str) -> bool:
    """Whether the reply so far ends inside a thinking section."""
    return reply.rfind("<think>") > reply.rfind("</think>")


def _defused(output: str) -> str:
    """Printed special tokens, such as an end of turn, must stay text for the server."""
    return output.replace("<|", "< |")


def _longer_fence(output: str) -> str:
    """Three backticks, or one more than the longest run of them in the output."""
    fence = "```"
    while fence in output:
        fence += "`"
    return fence
