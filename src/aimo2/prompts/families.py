"""Model families: what a model's name tells about how it wants to be asked. Pure; knows no server.

The data are in `families.toml`. A name that no family matches gets `UNKNOWN`: a system message,
fences, and no thinking of its own, though a `<think>` that it opens is understood. Where the chat
template is seen to open one, the model thinks whatever its name is.
"""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aimo2.config import SamplingConfig
from aimo2.errors import ConfigError

Language = Literal["en", "zh"]
Thinking = Literal["auto", "on", "off"]
"""Whether a model that can think does: as its family has it by default, always, or never."""


FENCE = "```python\n"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ThinkingStyle(_Data):
    """How a family marks its thinking inside the reply."""

    open: str
    """What the reply is begun with, so that it thinks."""
    close: str
    """What ends the thinking and begins the answer."""
    begins: str
    """The reply is inside the thinking where this stands behind the last `ends`."""
    ends: str
    off: str | None = None
    """What the reply is begun with so that it does not think; `None` where that is not possible."""


class TaskText(_Data):
    """Wording of the task; `None` takes the general one."""

    plain: str | None = None
    code: str | None = None


class SamplingDefaults(_Data):
    """What the family's cards recommend."""

    temperature: Annotated[float, Field(ge=0, le=5)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    top_k: Annotated[int, Field(ge=0)] | None = None


class Family(_Data):
    """How models of one family are asked."""

    name: str
    match: str
    """Regular expression that is searched for in the served model's name."""
    system: bool = True
    """Whether instructions go in a system message; otherwise they stand before the problem."""
    keeps_special_tokens: bool = False
    """Whether the server must be asked to leave special tokens in the text, because the family
    switches channels with them."""
    sampling: SamplingDefaults | None = None
    sampling_without_thinking: SamplingDefaults | None = None
    thinking: ThinkingStyle | None = None
    fence: str = FENCE
    """What a code block is begun with, line break included."""
    task: TaskText = TaskText()
    task_zh: TaskText = TaskText()

    def thinks(self, wanted: Thinking = "auto") -> bool:
        """Whether a reply is begun with thinking. A family that cannot be kept from it does."""
        if self.thinking is None:
            return False
        return wanted != "off" or self.thinking.off is None

    def wording(self, language: Language, *, code: bool) -> str | None:
        """The family's own wording of the task, where it has one."""
        texts = self.task_zh if language == "zh" else self.task
        return texts.code if code else texts.plain

    def sample(self, wanted: SamplingConfig, thinking: Thinking = "auto") -> SamplingConfig:
        """`wanted`, with the family's recommendation where it was left to the default."""
        own = self.sampling
        if not self.thinks(thinking) and self.sampling_without_thinking is not None:
            own = self.sampling_without_thinking
        if own is None:
            return wanted
        fitting = {name: value for name, value in own if name not in wanted.model_fields_set}
        return wanted.model_copy(update=fitting)


_THINK = ThinkingStyle(open="<think>\n", close="\n</think>\n\n", begins="<think>", ends="</think>")
UNKNOWN = Family(name="unknown", match="")


def style_of(family: Family) -> ThinkingStyle:
    """The family's marks, or `<think>`, which models of unknown families may use, too."""
    return family.thinking or _THINK


def families() -> Mapping[str, Family]:
    """All families by name, in the order in which they are tried; `unknown` is the last."""
    return {family.name: family for family in (*_families(), UNKNOWN)}


def find_family(model: str | None, wanted: str = "auto", *, opens_thinking: bool = False) -> Family:
    """The family that is asked for by name, or the one that the model's name tells.

    `opens_thinking`: the model's template begins each reply with `<think>`, so the model thinks
    even if its name does not say so. Raises `ConfigError` where no family has the name `wanted`.
    """
    if wanted != "auto":
        named = families()
        if wanted not in named:
            raise ConfigError(
                f"no model family is called {wanted!r}: take auto or one of {', '.join(named)}"
            )
        return named[wanted]
    found = next((each for each in _families() if _is_of(model, each)), UNKNOWN)
    if not opens_thinking or found.thinking is not None:
        return found
    thinking = families()["thinking"]
    if found is UNKNOWN:
        return thinking
    return found.model_copy(update={"thinking": thinking.thinking})


def _is_of(model: str | None, family: Family) -> bool:
    return model is not None and re.search(family.match, model, re.IGNORECASE) is not None


@cache
def _families() -> tuple[Family, ...]:
    text = (resources.files("aimo2.prompts") / "families.toml").read_text(encoding="utf-8")
    return tuple(Family.model_validate(entry) for entry in tomllib.loads(text)["family"])
