"""Decide which forks of kernels happen: those that the host announced, one each.

A kernel's filter hands its process-making call to the zygote, which lets it through only where
the host has granted one to that process. A cell cannot grant itself anything. Source:
`seccomp_unotify(2)`; reading the call's arguments is safe because they are values, not pointers.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from .native import MACHINE

__all__ = ["ForkGuard"]

_RECEIVE: Final = 0xC0502100
_ANSWER: Final = 0xC0182101
_CONTINUE: Final = 1
_REQUEST: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")
_NR_CLONE: Final = {"x86_64": 56, "aarch64": 220}


class ForkGuard:
    """The listeners of all kernels, and the grants not yet used."""

    def __init__(self, poller: "select.poll", catch_up: Callable[[], object]) -> None:
        """`catch_up`: take in the grants that have arrived but were not yet read."""
        self._poller = poller
        self._catch_up = catch_up
        self._deliveries: dict[int, socket.socket] = {}
        """Sockets on which a kernel that is starting sends its listener."""
        self._listeners: set[int] = set()
        self._granted: set[int] = set()

    def expect(self, delivery: socket.socket) -> None:
        """A kernel that is starting will send its listener here, or nothing."""
        self._deliveries[delivery.fileno()] = delivery
        self._poller.register(delivery, select.POLLIN)

    def grant(self, pid: int) -> None:
        """The process may fork once."""
        self._granted.add(pid)

    def forget(self, pid: int) -> None:
        """The process is gone, and its number may be given to another."""
        self._granted.discard(pid)

    def owns(self, fd: int) -> bool:
        """Whether an event on this descriptor is ours."""
        return fd in self._deliveries or fd in self._listeners

    def on_event(self, fd: int, event: int) -> None:
        """Something happened on a descriptor of ours."""
        if fd in self._deliveries:
            self._take_delivery(fd)
        elif event & select.POLLIN:
            self._decide(fd)
        else:  # every process under this filter is gone
            self._drop(fd)

    def _take_delivery(self, fd: int) -> None:
        self._poller.unregister(fd)
        delivery = self._deliveries.pop(fd)
        with delivery, contextlib.suppress(OSError):
            _, fds, _, _ = socket.recv_fds(delivery, 1, 1)
            for listener in fds:
                self._listeners.add(listener)
                self._poller.register(listener, select.POLLIN)

    def _drop(self, fd: int) -> None:
        self._poller.unregister(fd)
        self._listeners.discard(fd)
        os.close(fd)

    def _decide(self, fd: int) -> None:
        request = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(fd, _RECEIVE, request)
        except OSError:  # the caller died, or a signal took it out of its call
            return
        number, pid, _, call, *_ = _REQUEST.unpack(request)
        if pid not in self._granted:
            # Forks share a listener: this may be another one's call than the event's, whose
            # grant has come since.
            self._catch_up()
        if call == _NR_CLONE.get(MACHINE) and pid in self._granted:
            self._granted.discard(pid)
            answer = _RESPONSE.pack(number, 0, 0, _CONTINUE)
        else:
            answer = _RESPONSE.pack(number, 0, -errno.EPERM, 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _ANSWER, answer)
