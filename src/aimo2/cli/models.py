"""`aimo2 models`, and the progress of a download on a terminal or in a log. Knows no sources."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from aimo2.config import EngineConfig
from aimo2.errors import InputError, IntegrityError, SetupError
from aimo2.serving.catalogue import CATALOGUE, DEFAULT_MODEL, ModelFile, find_model
from aimo2.serving.hub import is_repository, pull_repository
from aimo2.serving.store import ModelStore, Phase, Watcher, default_home

LINE_SECONDS = (1.0, 5.0)
LINE_PERCENT = 10
"""In a log, a line after 1 s where another tenth is done, otherwise after 5 s."""

app = typer.Typer(
    help="Fetch, check and remove models.", no_args_is_help=True, rich_markup_mode=None
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def ensure_model(name_or_path: str, console: Console) -> Path:
    """The file of a model: a catalogue's name, fetched where needed, or a path to a `.gguf` file.

    Progress and notes go to `console`. Raises `InputError` for an unknown name or a file that is
    no model, and what `ModelStore.ensure` raises.
    """
    if _looks_like_path(name_or_path):
        return _checked_gguf(Path(name_or_path).expanduser())
    return _pull(_store(), find_model(name_or_path), console)


def with_model(config: EngineConfig, name: str | None, console: Console) -> EngineConfig:
    """`config` with its model's file, the default's without a name, fetched where it is missing.

    Somebody's server needs none. Raises what `ensure_model` raises.
    """
    if config.server is not None:
        return config
    path = ensure_model(name or DEFAULT_MODEL.name, console)
    return config.model_copy(update={"model_path": path})


@app.command("list")
def list_models() -> None:
    """Show the models, their sizes and licences, and which are here."""
    store = _store()
    table = Table("name", "size", "licence", "weights", "context", "here", "", box=None)
    for model in CATALOGUE:
        table.add_row(
            model.name,
            decimal(model.size),
            model.licence,
            f"{model.parameters} {model.quantisation}",
            f"{model.context:,}",
            _state(store, model),
            "default" if model is DEFAULT_MODEL else "",
        )
    Console().print(table)


@app.command()
def pull(names: Names = None) -> None:
    """Fetch models and check them; without a name, the default model.

    A name is one of `aimo2 models list`, or `owner/name[@revision]` of the hub, for vLLM.
    """
    console = Console(stderr=True)
    wanted = names or [DEFAULT_MODEL.name]
    for name in filter(is_repository, wanted):
        pulled = pull_repository(name)
        line = f"{name} is at {pulled.folder} (commit {pulled.commit})"
        console.print(line, highlight=False, soft_wrap=True)
    for model in [find_model(name) for name in wanted if not is_repository(name)]:
        path = _pull(_store(), model, console)
        console.print(f"{model.name} is at {path}", highlight=False, soft_wrap=True)


@app.command("path")
def show_path(name: Name) -> None:
    """Print where a model's file is."""
    store, model = _store(), find_model(name)
    if not store.path(model).exists():
        raise SetupError(f"{model.name} is not here; run: aimo2 models pull {model.name}")
    typer.echo(store.path(model))


@app.command()
def verify(names: Names = None) -> None:
    """Hash models again, without a name all that are here; a wrong one is deleted."""
    console, store = Console(stderr=True), _store()
    named = [find_model(name) for name in names or []]
    here = [model for model in CATALOGUE if store.path(model).exists()]
    wrong = []
    for model in named or here:
        try:
            with watching(console, model) as watcher:
                store.verify(model, watcher)
            console.print(f"{model.name}: right", highlight=False)
        except IntegrityError as error:
            wrong.append(str(error))
    if wrong:
        raise IntegrityError("; ".join(wrong))


@app.command()
def remove(name: Name) -> None:
    """Delete a model and what is left of its downloads."""
    console, model = Console(stderr=True), find_model(name)
    with watching(console, model) as watcher:
        freed = _store().remove(model, watcher)
    console.print(f"{model.name}: {decimal(freed)} freed", highlight=False)


def _store() -> ModelStore:
    return ModelStore(default_home())


def _state(store: ModelStore, model: ModelFile) -> str:
    if store.path(model).exists():
        return "yes" if store.present(model) else "yes, unchecked"
    fetched = store.fetched(model)
    return f"{fetched / model.size:.0%} fetched" if fetched else "no"


def _looks_like_path(name: str) -> bool:
    return name.casefold().endswith(".gguf") or "/" in name or "\\" in name


def _checked_gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise InputError(f"{path} is not a GGUF file; give one, or a name of `aimo2 models list`")
    return path


def _pull(store: ModelStore, model: ModelFile, console: Console) -> Path:
    if store.present(model):
        return store.path(model)
    begun = time.monotonic()
    with watching(console, model) as watcher:
        path = store.ensure(model, watcher)
    seconds = time.monotonic() - begun
    console.print(
        f"{model.name}: {decimal(model.size)} here and checked after {seconds:.1f} s",
        highlight=False,
    )
    return path


@contextmanager
def watching(console: Console, model: ModelFile) -> Iterator[Watcher]:
    """A `Watcher` that shows `model`'s progress: a bar on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield LineWatcher(console, model.name)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        yield BarWatcher(bar, model.name)


class BarWatcher:
    """A live bar, a new one for each source and phase, so that speeds are not mixed."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._name = name
        self._task: TaskID | None = None
        self._shown = ""

    def progress(self, done: int, total: int, source: str, phase: Phase) -> None:
        """As `Watcher.progress`."""
        shown = _description(self._name, source, phase)
        if self._task is None or shown != self._shown:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self.note(shown)  # the bar itself has no room for it on 80 columns
            # What was here before counts for the bar, not for the speed.
            self._task = self._bar.add_task(self._name, total=total, completed=done)
            self._shown = shown
        self._bar.update(self._task, completed=done)

    def note(self, message: str) -> None:
        """As `Watcher.note`."""
        self._bar.console.print(message, highlight=False, markup=False, soft_wrap=True)


class LineWatcher:
    """A plain line now and then. `clock`: seconds, never going back."""

    def __init__(
        self, console: Console, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._name = name
        self._clock = clock
        self._shown = ""
        self._begun = (0.0, 0)
        self._last = (0.0, 0)

    def progress(self, done: int, total: int, source: str, phase: Phase) -> None:
        """As `Watcher.progress`."""
        now, percent = self._clock(), 100 * done // total
        shown = _description(self._name, source, phase)
        if shown != self._shown:
            self._shown, self._begun = shown, (now, done)
        elif not self._due(now, percent):
            return
        self._last = (now, percent)
        self.note(f"{shown}: {decimal(done)} of {decimal(total)}{self._speed(now, done, total)}")

    def note(self, message: str) -> None:
        """As `Watcher.note`."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _due(self, now: float, percent: int) -> bool:
        short, long = LINE_SECONDS
        seconds, gained = now - self._last[0], percent - self._last[1]
        return seconds >= long or (seconds >= short and gained >= LINE_PERCENT)

    def _speed(self, now: float, done: int, total: int) -> str:
        seconds, gained = now - self._begun[0], done - self._begun[1]
        if seconds <= 0 or gained <= 0:
            return ""
        rate = gained / seconds
        return f", {decimal(round(rate))}/s, {round((total - done) / rate)} s left"


def _description(name: str, source: str, phase: Phase) -> str:
    return f"{name} from the {source}" if phase == "download" else f"{name}: checking"
