"""Stand-ins for matplotlib and IPython: nothing is drawn; what is displayed is printed.

A model often draws as an afterthought in the cell that computes; failing at the import would cost
the computation, and nobody would see the picture. The real ones take half a second to import, too.
"""

import sys
import types
from collections.abc import Container, Iterator
from typing import Any

__all__ = ["display", "install"]

_DRAWING = ("matplotlib", "matplotlib.pyplot", "pylab")
_TEXTS = ("HTML", "Latex", "Markdown", "Math", "Pretty")


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

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __iter__(self) -> Iterator["Blank"]:
        # As many as `line, = plt.plot(...)` takes apart; more where we know of more.
        return iter((self,))

    def __enter__(self) -> "Blank":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __repr__(self) -> str:
        return "<nothing drawn>"


def _subplots(nrows: int = 1, ncols: int = 1, *args: object, **kwargs: object) -> tuple[Any, Any]:
    """(figure, axes) of the shape that matplotlib gives."""
    numpy = sys.modules.get("numpy")
    if nrows * ncols == 1 or numpy is None:
        return Blank(), Blank()
    axes = numpy.empty((nrows, ncols), dtype=object)
    axes.fill(Blank())
    return Blank(), axes[0] if nrows == 1 else axes[:, 0] if ncols == 1 else axes


def _hist(x: Any, bins: Any = 10, *args: object, **kwargs: Any) -> tuple[Any, Any, Blank]:
    """(counts, edges, patches), the first two computed."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return Blank(), Blank(), Blank()
    known = {name: kwargs[name] for name in ("range", "density", "weights") if name in kwargs}
    return (*numpy.histogram(x, bins, **known), Blank())


_KNOWN = {"subplots": _subplots, "hist": _hist}


class _Drawing(types.ModuleType):
    """A module of blanks; the first use prints a line."""

    told = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not _Drawing.told:
            _Drawing.told = True
            print("[matplotlib is not available here: nothing is drawn]")
        return _KNOWN.get(name) or Blank()


def display(*values: object, **options: object) -> None:
    """Print each value as a last expression is shown."""
    for value in values:
        print(value.text if isinstance(value, _Text) else repr(value))


class _Text:
    """`Math("x^2")` and its like: displayed as they were written."""

    def __init__(self, text: object = "", **options: object) -> None:
        self.text = str(text)

    def __repr__(self) -> str:
        return self.text


def _nothing(*args: object, **options: object) -> None:
    pass


def install(real: Container[str]) -> None:
    """Put the stand-ins where imports find them; not for what is `real`, the preloaded modules."""
    if "matplotlib" not in real:
        for name in _DRAWING:
            _add(_Drawing(name), __version__="0")
        sys.modules["matplotlib"].__dict__["pyplot"] = sys.modules["matplotlib.pyplot"]
    if "IPython" not in real:
        core = _add(types.ModuleType("IPython"), get_ipython=Blank, __version__="0")
        texts = {name: type(name, (_Text,), {}) for name in _TEXTS}
        shown = _add(
            types.ModuleType("IPython.display"),
            display=display,
            clear_output=_nothing,
            Image=Blank(),
            **texts,
        )
        core.__dict__.update(display=shown)


def _add(module: types.ModuleType, **members: object) -> types.ModuleType:
    module.__dict__["__path__"] = []
    module.__dict__.update(members)
    sys.modules[module.__name__] = module
    return module
