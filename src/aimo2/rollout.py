"""One rollout: stream, run the code, feed its output back, until there is an answer or a limit.

At a turn's end it can fork: text and kernel together (`Rollout.fork`, or `hold` to fork later).
The parent goes on as one of the branches, so that nothing that it has is copied for it; it ends
as "forked" only where its owner says so. Knows nothing of other rollouts, of votes or of the
terminal; whoever owns it (`Owner`) may watch it and decide at its turns' ends. A model's or a
kernel's failure ends the rollout and is a record in its trace; anything else is a bug and raised.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aimo2 import prompts, salvage
from aimo2.answers import Extracted, extract
from aimo2.attempt import (
    SAME,
    Answer,
    Attempt,
    BoundaryKind,
    Break,
    Path,
    Question,
    Stepper,
    Variation,
    Watcher,
    derive_seed,
)
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import ContextFull, DeadlinePassed, ModelError, SandboxError
from aimo2.feedback import code_run, line_break, output_block
from aimo2.llm import Chunk, Conversation, Sampling
from aimo2.parse import BoxSeen, CodeBlock, Event, FenceParser, InventedOutput, LoopDetector
from aimo2.policy.fence import FenceRule
from aimo2.policy.repair import repair_step
from aimo2.prompts.families import style_of
from aimo2.sandbox import CellResult, Kernel
from aimo2.types import CodeRun, Opening, RolloutStop

_LONGEST_OUTPUT_ANSWER = 64
_CLOSE_SECONDS = 1.0
"""How long a kernel may take to close before it is left to its sandbox."""
_CELL_REPORT_SECONDS = 0.1
"""A cell ends this long before sampling does, so that what it printed is still recorded."""
_NOT_FORCED: frozenset[RolloutStop] = frozenset(
    {"answered", "unsure", "too_long", "forked", "pruned", "cancelled", "model_error"}
)
"""Stops after which no answer is forced: there is one, there should be none, or no model is."""


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A watcher or the loop detector ended the rollout."""

    reason: RolloutStop


@dataclass(frozen=True, slots=True)
class _Injected:
    """We put text behind what was sampled, and the model goes on from there."""

    text: str


_Ending = Event | Break | _Stopped | _Injected


class Rollout(Attempt):
    """One live attempt at a problem; `run` drives it, `trace` may be read once it has ended.

    A root begins with an opening; a branch, made by `fork`, where its parent's path ended.
    """

    def __init__(
        self,
        question: Question,
        index: int,
        *,
        opening: Opening | None = None,
        path: Path | None = None,
        kernel: Kernel | None = None,
        variation: Variation = SAME,
    ) -> None:
        """`opening`: of a root; `None` takes the question's openings in turn."""
        super().__init__(question, index, opening, path, variation)
        self._limits = question.config.rollout
        self._max_tokens = self._limits.token_limit(thinks=self._start.thinks)
        self._with_code = self._start.with_code
        self._fence = FenceRule(self._start.opening, thinks=self._start.thinks)
        self._nudge = variation.nudge
        self._kernel = kernel
        self._loop_detector = LoopDetector()
        self._watchers: Sequence[Watcher] = ()
        self._own_end = self._question_end = self._deadline = NEVER
        self._scope: asyncio.Timeout | None = None
        self._late: RolloutStop = "deadline"

    async def run(self, deadline: Deadline, wind_down: Deadline = NEVER) -> None:
        """Drive the rollout on, to its stop reason or until its owner parks it (`waiting`).

        At `wind_down` it stops sampling and is made to answer; by `deadline` it has ended.
        Being cancelled is allowed at any time: streams and kernel are closed, and what there is
        stays readable.
        """
        self._begin()
        self.move(deadline, wind_down)
        try:
            stop = await self._attempt()
            if stop is None:
                await self._close_watchers()
                return
            await self._conclude(stop)
        except asyncio.CancelledError:
            self.finish("cancelled")
            raise
        finally:
            if self.state != "waiting":
                await self.close()

    def move(
        self, deadline: Deadline, wind_down: Deadline = NEVER, late: RolloutStop = "deadline"
    ) -> None:
        """Set other instants than those that `run` was given, also while it runs.

        `late`: the stop reason where an instant comes and no answer can be had.
        """
        self._deadline = deadline
        self._late = late
        self._question_end = min(deadline, wind_down)
        self._soft = min(self._question_end, self._own_end)
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(self._soft.when())

    def _begin(self) -> None:
        self.state = "sampling"
        if self._started_at is None:
            self._started_at = asyncio.get_running_loop().time()
            self._own_end = Deadline.after(self._limits.timeout)
            self._watchers = self._question.owner.watchers(self)
            self._observer.progress(self)
            self._observer.text(self.index, "prefix", self._reply)
            if self._nudge:
                self._inject(self._nudge)
        else:
            self._observer.progress(self)

    async def _attempt(self) -> RolloutStop | None:
        """The boundary where a failed model call or kernel becomes a record; `None` if parked."""
        try:
            async with asyncio.timeout_at(self._soft.when()) as self._scope:
                return await self._turns()
        except (TimeoutError, DeadlinePassed):
            return "timeout" if self._own_end < self._question_end else self._late
        except ContextFull:
            return "max_context"
        except ModelError as error:
            self.error = str(error)
            return "model_error"
        except SandboxError as error:
            self.error = str(error)
            return "sandbox_error"
        finally:
            self._scope = None
            self._abandon_turn()

    async def _turns(self) -> RolloutStop | None:
        while self.num_tokens < self._max_tokens:
            if self._soft.passed():
                raise DeadlinePassed("the deadline came between two turns")
            ending = await self._sample()
            stop = await self._act(ending)
            if stop is not None:
                return stop
            if (kind := _boundary(ending)) is not None:
                onward = await self._question.owner.boundary(self, kind)
                if onward == "park":
                    self.state = "waiting"
                    self._observer.progress(self)
                    return None
                if onward != "go on":
                    return onward
        return "max_tokens"

    async def _sample(self) -> _Ending | None:
        """One model call, up to the first event that ends it; `None` where the reply ended."""
        turn = self._current = self._new_turn()
        family = self._question.family
        inside = prompts.is_thinking(self._reply, family)
        style = style_of(family)
        thinking = salvage.ThinkingMeter(style, inside=inside)
        parser = FenceParser(thinking=inside, marks=(style.begins, style.ends))
        in_fence = self._question.continues and self._reply.endswith(family.fence)
        parser.feed(family.fence if in_fence else "")
        skipped = parser.offset
        self._fence.begin()
        stepper = self._question.owner.stepper(self)
        asked = Conversation(self._start.messages, self._reply)
        try:
            async with aclosing(
                # Not told the deadline, which may be moved: `_attempt` ends the call in time.
                self._question.model.stream(asked, self._sampling(), NEVER)
            ) as chunks:
                async for chunk in chunks:
                    turn.take(chunk)
                    self.confidence.take(chunk)
                    self._observer.text(self.index, "sampled", chunk.text)
                    events = parser.feed(chunk.text)
                    self.in_block = parser.in_block
                    ending: _Ending | None = (
                        self._thought(thinking, chunk)
                        or self._ending(events, skipped)
                        or self._watched(chunk)
                        or self._fenced(chunk)
                        or self._stepped(None if parser.in_block else stepper, chunk)
                    )
                    if ending is not None:
                        return ending
        finally:
            self._num_thinking_tokens += thinking.num_tokens
        return self._ending(parser.finish(), skipped)

    def _sampling(self) -> Sampling:
        config = self._question.config
        wanted = self._question.family.sample(config.sampling, config.thinking)
        seed = derive_seed(config.seed, self._question.problem.id, self.index, len(self.turns))
        return Sampling(
            temperature=wanted.temperature if self._temperature is None else self._temperature,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            top_k=wanted.top_k,
            max_tokens=self._max_tokens - self.num_tokens,
            seed=seed,
            logprobs=config.top_candidates,
            special_tokens=self._question.family.keeps_special_tokens,
        )

    def _thought(self, thinking: salvage.ThinkingMeter, chunk: Chunk) -> _Injected | None:
        """Budget forcing, both ways: thinking that ends too early, thinking that does not end."""
        ended = thinking.feed(chunk.text, chunk.num_tokens)
        num_tokens = self._num_thinking_tokens + thinking.num_tokens
        limits, family = self._limits, self._question.family
        if ended and num_tokens < (limits.min_thinking_tokens or 0):
            assert self._current is not None
            end = prompts.thinking_end(self._current.text, family)
            if end is not None and self._num_waits < limits.max_waits:
                self._num_waits += 1
                self._cut(end)
                return _Injected(prompts.go_on_thinking(self.text))
        elif thinking.inside and num_tokens >= (limits.max_thinking_tokens or num_tokens + 1):
            return _Injected(prompts.close_thinking(self.text, family))
        return None

    def _watched(self, chunk: Chunk) -> _Stopped | None:
        if self._loop_detector.feed(chunk.text):
            return _Stopped("loop")
        for watcher in self._watchers:
            if (stop := watcher.feed(chunk, self)) is not None:
                return _Stopped(stop)
        return None

    def _fenced(self, chunk: Chunk) -> _Injected | None:
        """Begin a code block for the model where its opening says so."""
        if self._fence.over or not self._may_begin_fence:
            return None
        at = self._fence.feed(chunk.text, self.num_tokens, in_block=self.in_block)
        if at is None:
            return None
        self._cut(at)
        return _Injected(self._begun_fence())

    @property
    def _may_begin_fence(self) -> bool:
        return self._question.continues and self._with_code and not self._has_code

    def _begun_fence(self) -> str:
        """A code block that is begun for the model, behind one line of its opening's."""
        assert self._current is not None
        lead = self._start.opening.lead
        return (
            f"{line_break(self._current.text)}{lead}{line_break(lead)}{self._question.family.fence}"
        )

    def _stepped(self, stepper: Stepper | None, chunk: Chunk) -> Break | None:
        assert self._current is not None
        found = stepper.feed(chunk, self._current.text) if stepper else None
        if found is not None:
            self._cut(found.keep)
        return found

    def _ending(self, events: Sequence[Event], skipped: int) -> Event | None:
        """The first event that ends this call; cuts the turn's text there."""
        for event in events:
            if isinstance(event, BoxSeen):
                if self._limits.stop_at_answer and self._boxes_at(event.end - skipped):
                    self._cut(event.end - skipped)
                    return event
            elif isinstance(event, CodeBlock):
                if self._with_code and event.runnable:
                    self._cut(event.end - skipped)
                    return event
            elif self._with_code:
                self._cut(event.start - skipped)
                return event
        return None

    def _boxes_at(self, length: int) -> bool:
        """Whether the turn's first `length` characters hold an answer."""
        assert self._current is not None
        inside = prompts.is_thinking(self._reply, self._question.family)
        return self._said(self._current.text[: max(0, length)], inside=inside) is not None

    def _said(self, text: str, *, inside: bool = False) -> Extracted | None:
        """The answer in `text`; a box in the thinking is none, it is only considered there."""
        said = prompts.outside_thinking(text, self._question.family, inside=inside)
        return extract(said, several=self._question.config.answer_type == "expr")

    async def _act(self, ending: _Ending | None) -> RolloutStop | None:
        """What follows from how the call ended; a stop reason, or `None` to go on."""
        assert self._current is not None
        if isinstance(ending, CodeBlock):
            return await self._run_code(ending)
        if isinstance(ending, InventedOutput):
            return self._force_code()
        if isinstance(ending, _Injected):
            self._end_turn(None, ending.text)
            return None
        hit_limit = self._current.finish_reason == "length"
        ended = isinstance(ending, BoxSeen) or (ending is None and not hit_limit)
        if ended and self._start.opening.fence_at_answer and self._may_begin_fence:
            self._end_turn(None, self._begun_fence())
            return None
        self._end_turn(None, "")
        if isinstance(ending, Break):
            return None
        if isinstance(ending, _Stopped):
            return ending.reason
        if isinstance(ending, BoxSeen):
            return await self._check_answer()
        if not hit_limit:
            return "no_answer"
        # A server whose context is full says "length", too, before our own limit.
        return "max_tokens" if self.num_tokens >= self._max_tokens else "max_context"

    async def _check_answer(self) -> RolloutStop | None:
        """A boxed answer ends the rollout if it is usable; otherwise the model goes on."""
        await self._read_answer(self._said(self._reply))
        return None if self.answer is None else "answered"

    async def _run_code(self, block: CodeBlock) -> RolloutStop | None:
        assert self._current is not None
        if not block.closed and self._current.finish_reason == "length":
            self._end_turn(None, "")
            return "max_tokens"
        if self.num_code_runs >= self._limits.max_code_runs:
            self._end_turn(None, "")
            return "max_code_runs"
        result = await self._run_cell(block.code)
        run = code_run(block.code, result, self._limits.output_chars)
        self.last_good_output = result.output if result.error is None else None
        self._end_turn(run, output_block(self._current.text, block, run, self._hint(run)))
        return None

    async def _run_cell(self, code: str) -> CellResult:
        self.state = "running code"
        self._observer.progress(self)
        if self._kernel is None:
            self._kernel = await self._question.sandbox.create()
        result = await self._kernel.run(
            code,
            timeout=self._question.config.kernel.cell_timeout,
            deadline=self._soft.earlier(_CELL_REPORT_SECONDS),
        )
        self.state = "sampling"
        self._observer.progress(self)
        return result

    def _hint(self, run: CodeRun) -> str:
        """What the model is told behind the output of `run`, which is about to be recorded."""
        opening = self._start.opening
        if self.num_code_runs + 1 >= self._limits.max_code_runs:
            return prompts.line("last_run", opening)
        if run.error is None:
            return ""
        before = _failures_at_end([turn.run for turn in self.turns if turn.run is not None])
        return prompts.hint(run.error, opening, repair_step([*before, run], self._limits.repairs))

    def _force_code(self) -> RolloutStop | None:
        """The model wrote output without code: have it write the code instead."""
        assert self._current is not None
        if self.num_code_runs >= self._limits.max_code_runs:
            self._end_turn(None, "")
            return "max_code_runs"
        begun = line_break(self._current.text) + self._question.family.fence
        self._end_turn(None, begun if self._question.continues else "")
        return None

    async def _conclude(self, stop: RolloutStop) -> None:
        """Read the answer, or have one forced, and end as `stop` or by what came of that."""
        if stop in ("unsure", "forked", "pruned"):
            self.finish(stop)
            return
        await self._read_answer(self.offered)
        await self._read_answer(self._said(self._reply))
        forcing = self._question.config.salvage.enabled and stop not in _NOT_FORCED
        if self.answer is None and forcing and self.has_text:
            forced = await self._force_answer(stop)
            stop = "salvaged" if forced and stop != "certain" else stop
        await self._read_answer(self._from_output())
        self.finish("answered" if stop == "no_answer" and self.answer is not None else stop)

    async def _force_answer(self, stop: RolloutStop) -> bool:
        """Salvage: begin the answer for the model and have it filled in, by the deadline."""
        if stop == "max_context" and not self._make_room():
            return False
        config = self._question.config
        self._inject(prompts.answer_prefix(self._reply, self._question.family, config.answer_type))
        sampling = Sampling(
            temperature=0.0,
            top_p=1.0,
            max_tokens=config.salvage.max_tokens,
            seed=derive_seed(config.seed, self._question.problem.id, self.index, len(self.turns)),
            special_tokens=self._question.family.keeps_special_tokens,
        )
        turn = self._current = self._new_turn()
        asked = Conversation(self._start.messages, self._reply)
        try:
            async with (
                asyncio.timeout_at(self._deadline.when()),
                aclosing(self._question.model.stream(asked, sampling, self._deadline)) as chunks,
            ):
                async for chunk in chunks:
                    turn.take(chunk)
                    if salvage.box_end(turn.text) is not None:
                        break
        except (TimeoutError, ModelError):
            pass  # What came so far is read all the same.
        read = salvage.forced(turn.text)
        turn.parts = [read.text]
        self._observer.text(self.index, "sampled", read.text)
        self._end_turn(None, read.closing)
        await self._read_answer(read.answer)
        return self.answer is not None

    async def _read_answer(self, extracted: Extracted | None) -> None:
        """Take what was extracted as the answer, unless there is one or it is not usable."""
        if self.answer is not None or extracted is None:
            return
        canonical = await self._question.canonicalise(extracted.raw)
        if canonical.value is not None:
            self.answer = Answer(extracted, canonical)
        else:
            self.error = self.error or canonical.note

    def _from_output(self) -> Extracted | None:
        """The last line of the last output, unless a failed run came after it."""
        lines = (self.last_good_output or "").strip().splitlines()
        if not lines or len(lines[-1]) > _LONGEST_OUTPUT_ANSWER:
            return None
        return Extracted(lines[-1].strip(), "output")

    async def guess(self) -> None:
        """A last resort where no rollout has answered: what it considered in its thinking, or the
        last number that it mentions.
        """
        if self.has_text and self.stop_reason != "unsure":
            await self._read_answer(self._said(self._reply))
            if (considered := extract(self._sampled_text())) is not None:
                await self._read_answer(Extracted(considered.raw, "guessed"))
            await self._read_answer(salvage.guess(self._sampled_text(), self.last_good_output))

    async def fork(
        self,
        index: int,
        variation: Variation = SAME,
    ) -> "Rollout":
        """A branch that goes on from the end of the last turn, text and kernel together.

        Allowed between two turns: at a boundary, while it waits, or before it has begun. The
        branch is run by whoever forked it; this rollout goes on as it would have without it.
        Raises `SandboxError` where the kernel cannot be forked.
        """
        return await _fork(self._question, self._kernel, self.path(), index, variation)

    async def hold(self) -> "BranchPoint":
        """Keep this point, text and kernel, to fork from it later; as for `fork`."""
        kernel = None if self._kernel is None else await self._kernel.fork()
        return BranchPoint(self._question, self.path(), kernel)

    async def close(self) -> None:
        """Let go of the kernel and the watchers. Idempotent; a rollout that waits needs it."""
        await self._close_watchers()
        kernel, self._kernel = self._kernel, None
        await _close_kernel(kernel)

    async def _close_watchers(self) -> None:
        for watcher in self._watchers:
            await watcher.close()


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A point that branches can start from, long after its rollout has gone on. Close it."""

    question: Question
    path: Path
    kernel: Kernel | None
    """Nobody runs anything in it; branches get forks of it."""

    async def fork(
        self,
        index: int,
        variation: Variation = SAME,
    ) -> Rollout:
        """A branch; see `Rollout.fork`."""
        return await _fork(self.question, self.kernel, self.path, index, variation)

    async def close(self) -> None:
        """Let go of the kernel. Idempotent."""
        await _close_kernel(self.kernel)


async def _fork(
    question: Question, kernel: Kernel | None, path: Path, index: int, variation: Variation
) -> Rollout:
    seed = derive_seed(question.config.seed, question.problem.id, index, len(path.turns))
    forked = None if kernel is None else await kernel.fork(reseed=seed)
    return Rollout(question, index, path=path, kernel=forked, variation=variation)


async def _close_kernel(kernel: Kernel | None) -> None:
    if kernel is None:
        return
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await kernel.close()
    except (TimeoutError, SandboxError):
        pass  # The sandbox ends it with the rest; the answer must not wait for it.


def _failures_at_end(runs: Sequence[CodeRun]) -> Sequence[CodeRun]:
    """The cells at the end that failed in a row, oldest first."""
    good = next((n for n, run in enumerate(reversed(runs)) if run.error is None), len(runs))
    return runs[len(runs) - good :]


def _boundary(ending: _Ending | None) -> BoundaryKind | None:
    if isinstance(ending, CodeBlock):
        return "code"
    return ending.kind if isinstance(ending, Break) else None
