"""Run cells as a notebook does, in one namespace, and say plainly what went wrong.

Knows no sockets, no processes and no limits but the output's; a time-out reaches it as SIGINT.
"""

import __future__

import ast
import asyncio
import builtins
import collections
import errno
import functools
import inspect
import io
import linecache
import operator
import random
import signal
import sys
import threading
import traceback
import types
from contextlib import suppress
from typing import Any, Final, NoReturn, cast

from .mend import mended
from .output import Output, OutputFlood
from .plots import Blank, display

__all__ = ["CellInterrupted", "InputUnavailable", "Notebook", "Verdict"]

_FLAGS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_MESSAGE_CHARS: Final = 1_000
_TRACEBACK_FRAMES: Final = 8
_MAX_DEPTH: Final = 150_000
"""Largest recursion limit that a cell can set. With a kernel's 100 MiB of stack, calls through C
crash at 200,000; and to unwind a million calls takes longer than a time-out."""
_FUTURES: Final = functools.reduce(
    operator.or_,
    (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names),
)
_SOURCES: Final = ("sympy", "math", "itertools", "fractions", "collections", "functools")
"""Where a name that is not defined is looked for, in this order."""
_MODULES: Final = {
    "np": "import numpy as np",
    "sp": "import sympy as sp",
    "plt": "import matplotlib.pyplot as plt",
    **{name: f"import {name}" for name in (*_SOURCES, "numpy", "scipy", "random", "decimal")},
}
_LETTERS: Final = frozenset({"beta", "gamma", "zeta"})
"""Functions of SymPy, but more often variables."""
_CHAIN: Final = 5
"""Exceptions of a group that are named."""

# A cell may replace the built-in ones, for its kernel; what shows values goes on with these.
_repr: Final = repr
_set_depth: Final = sys.setrecursionlimit


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
        self.notice = ""
        """A line that the next cell shows before anything else."""
        self._available = available
        self._count = 0
        self._running = False
        self._flags = _FLAGS
        self._loop: asyncio.AbstractEventLoop | None = None
        self.namespace = self._fresh_main()

    def _fresh_main(self) -> dict[str, Any]:
        # A real `__main__` module: pickle, dataclasses and `if __name__ == "__main__"` need it.
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = main
        return main.__dict__

    def after_fork(self, memory: int) -> None:
        """In the new kernel: print into its memory; drop the old kernel's event loop."""
        self.output.move(memory)
        self._loop = None

    def rehearse(self) -> None:
        """Run an empty cell that nobody sees."""
        with suppress(BaseException):
            self._execute("None", "<rehearsal>")

    def run(self, code: str) -> Verdict:
        """Run one cell. Every exception of the cell ends here, `SystemExit` included."""
        self._count += 1
        filename = f"<cell {self._count}>"
        self._set_stage()
        if self.notice:
            self.output.write(self.notice + "\n")
            self.notice = ""
        try:
            self._running = True
            verdict = self._guarded(code, filename)
            self._flush()
            _stop_timers()
        except CellInterrupted:
            # Between the cell and its verdict: the interrupt came while the failure was being
            # described.
            return Verdict("timeout", "TimeoutError: the cell ran out of time")
        finally:
            self._running = False
        return verdict

    def interrupt(self, signum: int = 0, frame: object = None) -> None:
        """The handler of SIGINT: stop the running cell; nothing where there is none."""
        if self._running:
            raise CellInterrupted("the cell ran out of time")

    def _set_stage(self) -> None:
        """Streams, hooks and built-in functions, set anew: the last cell may have changed any."""
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = self.output  # type: ignore
        sys.stdin = sys.__stdin__ = _NO_INPUT  # type: ignore[assignment,misc]
        builtins.input = _no_input
        builtins.exit = builtins.quit = _leave  # type: ignore[assignment]
        builtins.display = display  # type: ignore[attr-defined]
        self.namespace["__builtins__"] = builtins
        sys.setrecursionlimit = _limit_depth
        threading.excepthook = self._report_thread
        sys.unraisablehook = self._report_unraisable
        signal.signal(signal.SIGINT, self.interrupt)

    def _flush(self) -> None:
        """Let out what the cell's own stream, if it set one, holds back."""
        if sys.stdout is not self.output:
            with suppress(Exception):
                sys.stdout.flush()

    def _report_thread(self, thrown: Any) -> None:
        """Say that a thread ended with an exception, as briefly as for a cell."""
        if thrown.exc_value is not None and not isinstance(thrown.exc_value, SystemExit):
            name = "a thread" if thrown.thread is None else thrown.thread.name
            self.output.write(f"Exception in {name}:\n{self._describe(thrown.exc_value)}\n")

    def _report_unraisable(self, thrown: Any) -> None:
        """The same for what a `__del__` or the like has raised."""
        if isinstance(thrown.exc_value, OutputFlood | CellInterrupted):
            return  # the next write or the next interrupt says it again, where it can be raised
        if isinstance(thrown.exc_value, BaseException):
            where = f"{thrown.err_msg or 'Exception ignored in'}: "
            where += getattr(thrown.object, "__qualname__", "") or type(thrown.object).__name__
            self.output.write(f"{where}\n{self._describe(thrown.exc_value)}\n")

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
        self._evaluate(self._compiled(tree, filename, "exec"))
        if isinstance(last, ast.Expr):
            expression = ast.Expression(last.value)
            value = self._evaluate(self._compiled(expression, filename, "eval"))
            if not source.rstrip().endswith(";"):
                self._show(value)

    def _parse(self, code: str, filename: str) -> tuple[str, ast.Module]:
        """The tree of a cell, mended where it is not Python but what a notebook takes."""
        return mended(code, lambda text: _tree(text, filename, self._flags))

    def _compiled(self, tree: ast.Module | ast.Expression, name: str, mode: str) -> types.CodeType:
        code: types.CodeType = compile(tree, name, mode, self._flags, dont_inherit=True)
        # `from __future__ import ...` holds for the later cells, too.
        self._flags |= code.co_flags & _FUTURES
        return code

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
        if value is None or isinstance(value, Blank):
            return
        self.namespace["_"] = value
        self.output.write(_repr(value) + "\n")

    def _describe(self, error: BaseException) -> str:
        """The traceback, reduced to the frames of cells."""
        try:
            return self._format(error)
        except RecursionError:
            return f"{type(error).__name__}: maximum recursion depth exceeded"
        except MemoryError:
            return f"{type(error).__name__}: out of memory"

    def _format(self, error: BaseException) -> str:
        first, last, between = _ends(error.__traceback__)
        if not first:
            return self._last_line(error)
        lines = traceback.format_list(first)
        if between:
            lines.append(f"  ... {between} more calls ...\n")
        lines += traceback.format_list(last)
        return "Traceback (most recent call last):\n" + "".join(lines) + self._last_line(error)

    def _last_line(self, error: BaseException) -> str:
        if isinstance(error, CellInterrupted):
            return "TimeoutError: the cell ran out of time"
        if isinstance(error, OutputFlood):
            return f"OutputLimitExceeded: {error}"
        text = "".join(traceback.format_exception_only(error)).strip()
        if isinstance(error, BaseExceptionGroup):
            parts = [self._last_line(each) for each in error.exceptions[:_CHAIN]]
            text = "\n".join([text, *(f"  {part}" for part in parts)])
        if len(text) > _MESSAGE_CHARS:
            half = _MESSAGE_CHARS // 2
            text = f"{text[:half]} ... {text[-half:]}"
        if isinstance(error, ModuleNotFoundError) and self._available:
            text += f" (available: {', '.join(self._available)} and the standard library)"
        elif isinstance(error, ImportError) and isinstance(error.path, str):
            text = text.replace(f" ({error.path})", "")  # long, and of this machine
        elif _needs_more_than_a_kernel(error):
            text += " (no network and no other programs or processes here)"
        return text + _import_of(error)


def _tree(code: str, filename: str, flags: int) -> ast.Module:
    try:
        tree = compile(code, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise SyntaxError(f"the cell cannot be compiled: {error}") from error
    return cast(ast.Module, tree)


def _import_of(error: BaseException) -> str:
    """The import that a missing name lacks, to stand behind the message; empty where none is known.

    Looked for in modules that are loaded only, and not for what may be a letter of the problem.
    """
    name: object = None
    if type(error) is NameError:
        name = error.name
    elif type(error) is ImportError:  # which has no field for it before Python 3.12
        name = str(error).removeprefix("cannot import name '").partition("'")[0]
    if type(name) is not str or len(name) == 1 or name.startswith("_"):
        return ""
    if name in _LETTERS or hasattr(builtins, name):
        return ""
    if type(error) is NameError and name in _MODULES:
        return f" ({_MODULES[name]})"
    source = next((each for each in _SOURCES if _offers(sys.modules.get(each), name)), None)
    return "" if source is None else f" (from {source} import {name})"


def _offers(module: types.ModuleType | None, name: str) -> bool:
    if not isinstance(module, types.ModuleType):
        return False
    public = vars(module).get("__all__")
    return name in vars(module) and (not isinstance(public, list | tuple) or name in public)


def _needs_more_than_a_kernel(error: BaseException) -> bool:
    """Whether an error comes from a call that the sandbox denies."""
    if isinstance(error, PermissionError):
        return error.errno == errno.EPERM
    # Without a name: a semaphore of `multiprocessing`.
    return isinstance(error, FileNotFoundError) and error.filename is None


def _stop_timers() -> None:
    """An alarm that a cell set for itself, and did not wait for, is not for what follows."""
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


def _limit_depth(limit: int, /) -> None:
    """`sys.setrecursionlimit` of cells."""
    _set_depth(min(limit, _MAX_DEPTH) if isinstance(limit, int) else limit)


_Frames = list[traceback.FrameSummary]


def _ends(trace: types.TracebackType | None) -> tuple[_Frames, _Frames, int]:
    """The first and the last frames of cells, and how many there are between them.

    There may be a million of them: only those that are shown are looked up.
    """
    half = _TRACEBACK_FRAMES // 2
    first: _Frames = []
    last: collections.deque[tuple[types.CodeType, int]] = collections.deque(maxlen=half)
    count = 0
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith("<cell "):
            count += 1
            if len(first) < half:
                first.append(_plain(code, trace.tb_lineno))
            else:
                last.append((code, trace.tb_lineno))
        trace = trace.tb_next
    return first, [_plain(*each) for each in last], count - len(first) - len(last)


def _plain(code: types.CodeType, line: int) -> traceback.FrameSummary:
    """Without columns: the marks under the line cost tokens and say little."""
    return traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=True)


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


_NO_INPUT: Final = _NoInput()


def reseed(seed: int) -> None:
    """Seed `random` and, where it is loaded, `numpy.random`."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # The legacy generator takes words of 32 bits. The last one keeps it from drawing the
        # same numbers as `random`, which is the same generator.
        with suppress(AttributeError):
            numpy.random.seed([seed % 2**32, (seed >> 32) % 2**32, 1])
