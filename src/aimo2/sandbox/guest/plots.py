"""A stand-in for a matplotlib that is not installed: drawing is skipped, and says so once.

A model often draws as an afterthought in the cell that computes; failing at the import would
cost the computation. With the real matplotlib installed, nothing here is used.
"""

import sys
import types
from collections.abc import Iterator

__all__ = ["install"]

_MODULES = ("matplotlib", "matplotlib.pyplot")


class Blank:
    """Takes any call, attribute or index, and gives another blank."""

    def __getattr__(self, name: str) -> "Blank":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **kwargs: object) -> "Blank":
        return self

    def __getitem__(self, key: object) -> "Blank":
        return self

    def __iter__(self) -> Iterator["Blank"]:
        # As many as `figure, axes = plt.subplots()` takes apart.
        return iter((self, self))

    def __enter__(self) -> "Blank":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __repr__(self) -> str:
        return "<nothing drawn>"


class _Stub(types.ModuleType):
    """A module of blanks; the first use prints a line."""

    told = False

    def __getattr__(self, name: str) -> Blank:
        if name.startswith("__"):
            raise AttributeError(name)
        if not _Stub.told:
            _Stub.told = True
            print("[matplotlib is not installed here: nothing is drawn]")
        return Blank()


def install() -> None:
    """Put the stand-in where `import matplotlib.pyplot` finds it."""
    for name in _MODULES:
        stub = _Stub(name)
        stub.__dict__["__path__"] = []
        stub.__dict__["__version__"] = "0"
        sys.modules[name] = stub
    sys.modules["matplotlib"].__dict__["pyplot"] = sys.modules["matplotlib.pyplot"]
