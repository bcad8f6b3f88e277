"""What isolates the kernels on this machine: the layers that went on, and what was seen to hold.

Knows no processes; the zygote fills it in after it has attacked itself (`guest/probe.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["LAYERS", "PRELOAD", "LayerReport"]

PRELOAD: Final = ("numpy", "sympy", "mpmath", "networkx", "scipy", "scipy.optimize")
"""Modules that kernels find imported; those that are not installed are skipped."""

LAYERS: Final = (
    "mount namespace",
    "pid namespace",
    "network namespace",
    "ipc namespace",
    "limits",
    "user id",
    "capabilities",
    "no new privileges",
    "landlock",
    "seccomp",
    "fork guard",
)
"""Layers of isolation, from the outside in; each is used where the machine has it.

"user id" is an id of its own for each kernel and its forks where we are root, else a user
namespace of its own. Without root, the other namespaces come in one, too. A scrubbed environment,
closed descriptors and the parent-death signal are always there.
"""

_FILES: Final = ("reads", "writes")


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One zygote's isolation.

    `layers`: layer -> "" where it is active, else why it is not. `observed`: what an attack from
    inside a kernel was tried on -> whether it held. `imported`: preloaded module -> seconds of its
    import. `missing`: modules asked for that are not installed. `available`: what a cell that
    imports a missing package is told.
    """

    layers: Mapping[str, str]
    observed: Mapping[str, bool]
    imported: Mapping[str, float]
    missing: tuple[str, ...]
    available: tuple[str, ...]

    @classmethod
    def from_frame(cls, frame: Mapping[str, Any]) -> "LayerReport":
        """From the zygote's `ready` frame."""
        return cls(
            {name: frame["layers"].get(name, "not on this system") for name in LAYERS},
            dict(frame["observed"]),
            dict(frame["imported"]),
            tuple(frame["missing"]),
            tuple(frame["available"]),
        )

    @property
    def active(self) -> tuple[str, ...]:
        """The layers that are on."""
        return tuple(name for name, reason in self.layers.items() if not reason)

    @property
    def network_closed(self) -> bool:
        """Whether no attempt to reach a network got through."""
        return self.observed.get("network", False)

    @property
    def files_closed(self) -> bool:
        """Whether no file outside the installation could be read or written."""
        return all(self.observed.get(name, False) for name in _FILES)

    @property
    def open(self) -> tuple[str, ...]:
        """What was observed not to hold; where nothing could be observed, everything."""
        if not self.observed:
            return ("everything: the sandbox could not be tested",)
        return tuple(name for name, held in self.observed.items() if not held)

    @property
    def warning(self) -> str | None:
        """One line for the user where something is open; `None` where all held."""
        if not self.open:
            return None
        off = "; ".join(f"{name}: {why}" for name, why in self.layers.items() if why)
        return f"the sandbox does not close off {', '.join(self.open)} here ({off})"
