"""An exam's rules as frozen values, and the presets of competitions. Knows no clock."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aimo2.config import AnswerType
from aimo2.errors import ConfigError
from aimo2.policy.budget import BudgetConfig


class ExamConfig(BaseModel):
    """The rules of one exam."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    competition: str = "custom"
    num_problems: Annotated[int, Field(ge=1)] = 50
    """How many will be asked. A problem beyond them finds no time but what is left."""
    limit: Annotated[float, Field(gt=0)] = 18_000.0
    """Seconds from the exam's start to its end."""
    reserve: Annotated[float, Field(ge=0)] = 0.0
    """Seconds of them that are never planned with: the last answer is out before."""
    per_question: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which whoever asks takes no answer any more. Never passed."""
    answer_type: AnswerType = "int"
    modulus: Annotated[int, Field(ge=1)] | None = None
    """Integer answers are reduced by it, outside the model."""
    lowest: int | None = None
    """Integers below cannot be right, and are not answered."""
    highest: int | None = None
    guess: str = "0"
    """What is answered where nothing is known."""
    sleep: Annotated[float, Field(ge=0)] | None = None
    """Seconds to sleep instead of solving, to test timing; the answer is `guess`."""
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reserve >= self.limit:
            raise ValueError(f"the reserve of {self.reserve:g} s leaves nothing of the limit")
        if self.modulus is not None and self.answer_type != "int":
            raise ValueError("a modulus needs integer answers")
        return self

    @property
    def usable(self) -> float:
        """Seconds from the start that may be used."""
        return self.limit - self.reserve

    def admits(self, answer: str) -> bool:
        """Whether an answer in canonical form can be right at all."""
        if self.answer_type != "int":
            return True
        try:
            number = int(answer)
        except ValueError:
            return False
        above = self.lowest is None or number >= self.lowest
        return above and (self.highest is None or number <= self.highest)


def competitions() -> tuple[str, ...]:
    """The names of the presets that come with the package."""
    folder = resources.files("aimo2.exam") / "competitions"
    names = (item.name.removesuffix(".toml") for item in folder.iterdir())
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load_competition(name: str, **changes: Any) -> ExamConfig:
    """A preset by its name or a TOML file by its path, with fields replaced by `changes`.

    `custom` is the defaults. A change of `None` leaves the preset's value; the fields of `budget`
    are changed by a mapping. Raises `ConfigError`, naming what is wrong and the mend.
    """
    values = {} if name == "custom" else _read(name)
    for field, value in changes.items():
        if value is None:
            continue
        if isinstance(value, dict):
            given = {key: each for key, each in value.items() if each is not None}
            values[field] = {**values.get(field, {}), **given}
        else:
            values[field] = value
    try:
        return ExamConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the rules"
        raise ConfigError(f"competition {name}: {where}: {first['msg']}") from error


def _read(name: str) -> dict[str, Any]:
    if name in competitions():
        text = (resources.files("aimo2.exam") / "competitions" / f"{name}.toml").read_text()
    elif name.endswith(".toml"):
        try:
            text = Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"competition {name} cannot be read: {error}") from error
    else:
        known = ", ".join((*competitions(), "custom"))
        raise ConfigError(f"no competition {name!r}; give one of {known}, or a .toml file")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"competition {name}: not valid TOML ({error}); mend it") from error
