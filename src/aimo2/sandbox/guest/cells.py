"""Run cells as a notebook does, in one namespace, and say plainly what went wrong.

Knows no sockets, no processes and no limits but the output's; a time-out reaches it as SIGINT.
"""

import ast
import asyncio
import builtins
import errno
import inspect
import io
import linecache
import random
import re
import signal
import sys
import textwrap
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, cast

from .output import Output, OutputFlood

__all__ = ["CellInterrupted", "InputUnavailable", "Notebook", "Verdict"]

_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_MESSAGE_CHARS: Final = 1_000
_TRACEBACK_FRAMES: Final = 8
_NOTEBOOK_COMMAND: Final = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)


class CellInterrupted(KeyboardInterrupt):
    """The cell's time is over."""


class InputUnavailable(EOFError):  # noqa: N818 - shown to the model
    """The cell asked for keyboard input."""

    __module__ = "builtins"  # its name in a traceback is then without a prefix


class Verdict:
    """How a cell ended: `error` is an error kind or `None`; `traceback` is empty on success."""

    __slots__ = ("error", "traceback")

    def __init__(self, error: str | None = None, traceback: str = "") -> None:
        self.error = error
        self.traceback = traceback


# First match wins: a subclass stands before its base.
_KINDS: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...]] = (
    (CellInterrupted, "timeout"),
    (OutputFlood, "output"),
    (InputUnavailable, "input"),
    (SyntaxError, "syntax"),
    (NameError, "name"),
    (ImportError, "import"),
    ((TypeError, AttributeError), "type"),
    (RecursionError, "recursion"),
    (MemoryError, "memory"),
    (AssertionError, "assertion"),
    ((ValueError, ArithmeticError, LookupError), "value"),
)


def kind_of(error: BaseException) -> str:
    """The error kind that an exception counts as."""
    return next((kind for types_, kind in _KINDS if isinstance(error, types_)), "other")


class Notebook:
    """One namespace and the cells that ran in it."""

    def __init__(self, output: Output, available: tuple[str, ...] = ()) -> None:
        """`available`: packages to name where a cell imports one that is missing."""
        self.output = output
        self._available = available
        self._count = 0
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.namespace = self._fresh_main()

    def _fresh_main(self) -> dict[str, Any]:
        # A real `__main__` module: pickle, dataclasses and `if __name__ == "__main__"` need it.
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = main
        return main.__dict__

    def after_fork(self, output: Output) -> None:
        """In the new kernel: print there; drop the event loop, whose poll is the old kernel's."""
        self.output = output
        self._loop = None

    def run(self, code: str) -> Verdict:
        """Run one cell. Every exception of the cell ends here, `SystemExit` included."""
        self._count += 1
        filename = f"<cell {self._count}>"
        with self._borrowed_streams():
            try:
                self._running = True
                return self._guarded(code, filename)
            except CellInterrupted:
                # Between the cell and its verdict: the interrupt came while the failure was
                # being described.
                return Verdict("timeout", "TimeoutError: the cell ran out of time")
            finally:
                self._running = False

    def interrupt(self, signum: int = 0, frame: object = None) -> None:
        """The handler of SIGINT: stop the running cell; nothing where there is none."""
        if self._running:
            raise CellInterrupted("the cell ran out of time")

    @contextmanager
    def _borrowed_streams(self) -> Iterator[None]:
        # Set anew for each cell: the last one may have changed any of this.
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = self.output  # type: ignore
        sys.stdin = sys.__stdin__ = _NoInput()  # type: ignore[assignment,misc]
        builtins.input = _no_input
        builtins.exit = builtins.quit = _leave  # type: ignore[assignment]
        signal.signal(signal.SIGINT, self.interrupt)
        yield

    def _guarded(self, code: str, filename: str) -> Verdict:
        try:
            self._execute(code, filename)
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code)
        except BaseException as error:  # noqa: BLE001 - the boundary between a cell and its host
            if isinstance(error, CellInterrupted):
                self._running = False  # the host signals again, and must not hit what follows
            return Verdict(kind_of(error), self._describe(error))
        return Verdict()

    def _execute(self, code: str, filename: str) -> None:
        source, tree = self._parse(code, filename)
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        self._evaluate(compile(tree, filename, "exec", _FLAGS))
        if isinstance(last, ast.Expr):
            expression = ast.Expression(last.value)
            value = self._evaluate(compile(expression, filename, "eval", _FLAGS))
            if not source.rstrip().endswith(";"):
                self._show(value)

    def _parse(self, code: str, filename: str) -> tuple[str, ast.Module]:
        """The tree of a cell, mended where it is indented or has notebook commands."""
        try:
            return code, _tree(code, filename)
        except SyntaxError as error:
            mended = _NOTEBOOK_COMMAND.sub(r"\1pass", textwrap.dedent(code))
            if mended == code:
                raise
            try:
                return mended, _tree(mended, filename)
            except SyntaxError:
                raise error from None

    def _evaluate(self, code: types.CodeType) -> object:
        value = eval(code, self.namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            return self._event_loop().run_until_complete(value)
        return value

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._loop.is_closed() or self._loop.is_running():
            self._loop = asyncio.new_event_loop()
            # Tasks that a failed cell left behind are no news to the next one.
            self._loop.set_exception_handler(lambda loop, context: None)
        return self._loop

    def _show(self, value: object) -> None:
        if value is None:
            return
        self.namespace["_"] = value
        print(repr(value))

    def _describe(self, error: BaseException) -> str:
        """The traceback, reduced to the frames of cells."""
        try:
            return self._format(error)
        except RecursionError:
            return f"{type(error).__name__}: maximum recursion depth exceeded"
        except MemoryError:
            return f"{type(error).__name__}: out of memory"

    def _format(self, error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        own = [_plain(frame) for frame in frames if frame.filename.startswith("<cell ")]
        if not own:
            return self._last_line(error)
        half = _TRACEBACK_FRAMES // 2
        lines = traceback.format_list(own[:half] if len(own) > 2 * half else own)
        if len(own) > 2 * half:
            lines.append(f"  ... {len(own) - 2 * half} more calls ...\n")
            lines += traceback.format_list(own[-half:])
        return "Traceback (most recent call last):\n" + "".join(lines) + self._last_line(error)

    def _last_line(self, error: BaseException) -> str:
        if isinstance(error, CellInterrupted):
            return "TimeoutError: the cell ran out of time"
        if isinstance(error, OutputFlood):
            return f"OutputLimitExceeded: {error}"
        text = "".join(traceback.format_exception_only(error)).strip()
        if len(text) > _MESSAGE_CHARS:
            half = _MESSAGE_CHARS // 2
            text = f"{text[:half]} ... {text[-half:]}"
        if isinstance(error, ModuleNotFoundError) and self._available:
            text += f" (available: {', '.join(self._available)} and the standard library)"
        elif isinstance(error, PermissionError) and error.errno == errno.EPERM:
            text += " (no network and no other programs or processes here)"
        return text


def _tree(code: str, filename: str) -> ast.Module:
    try:
        return cast(ast.Module, compile(code, filename, "exec", _FLAGS | ast.PyCF_ONLY_AST))
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise SyntaxError(f"the cell cannot be compiled: {error}") from error


def _plain(frame: traceback.FrameSummary) -> traceback.FrameSummary:
    """Without columns: the marks under the line cost tokens and say little."""
    name = "<module>" if frame.name == "<module>" else frame.name
    return traceback.FrameSummary(frame.filename, frame.lineno, name, lookup_line=True)


def _no_input(prompt: object = "", /) -> NoReturn:
    raise InputUnavailable("input() is not available here: write the value into the code")


def _leave(code: object = None) -> NoReturn:
    raise SystemExit(code)


class _NoInput(io.TextIOBase):
    """`sys.stdin` of a cell: reading it is an error that says so."""

    def read(self, size: int | None = -1, /) -> str:
        _no_input()

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        _no_input()

    def readable(self) -> bool:
        return True


def reseed(seed: int) -> None:
    """Seed `random` and, where it is loaded, `numpy.random`."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # The legacy generator takes words of 32 bits. The last one keeps it from drawing the
        # same numbers as `random`, which is the same generator.
        with suppress(AttributeError):
            numpy.random.seed([seed % 2**32, (seed >> 32) % 2**32, 1])
