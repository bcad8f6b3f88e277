"""`multiprocessing` by threads: a kernel can make no process, and a search need not fail for it.

Models reach for a pool where a search is slow. With threads the same code gives the same answer,
on one core, which is all that a cell has. Python ships the thread-based twins of nearly everything
as `multiprocessing.dummy`.
"""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import multiprocessing.context
import multiprocessing.dummy
import multiprocessing.pool
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = ["install"]

_SAME_NAMES: Final = (
    *("Process", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Barrier"),
    *("Queue", "JoinableQueue", "Pipe", "Manager", "Value", "Array"),
)
_CONTEXTS: Final = (
    multiprocessing.context.BaseContext,
    multiprocessing.context.DefaultContext,
    multiprocessing.context.ForkContext,
    multiprocessing.context.SpawnContext,
    multiprocessing.context.ForkServerContext,
)


def _pool(
    processes: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: int | None = None,
    context: object = None,
) -> multiprocessing.pool.ThreadPool:
    return multiprocessing.pool.ThreadPool(processes, initializer, initargs)


class _Executor(concurrent.futures.ThreadPoolExecutor):
    """`ProcessPoolExecutor`, by threads."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        super().__init__(max_workers, "pool", initializer, initargs)


def _method(made: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **options: made(*args, **options)


def install() -> None:
    """Put them where cells look for processes."""
    twins = {name: getattr(multiprocessing.dummy, name) for name in _SAME_NAMES}
    for name, made in (twins | {"Pool": _pool}).items():
        setattr(multiprocessing, name, made)
        for context in _CONTEXTS:
            setattr(context, name, _method(made))
    concurrent.futures.ProcessPoolExecutor = _Executor  # type: ignore[misc,assignment]
    concurrent.futures.process.ProcessPoolExecutor = _Executor  # type: ignore[misc,assignment]
