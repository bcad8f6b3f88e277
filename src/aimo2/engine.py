"""Put the parts of a solve together: server, client, sandbox and judge, and take them down again.

Knows how each is started and sized; knows no problems and no terminal.
"""

from dataclasses import dataclass

from aimo2.config import EngineConfig
from aimo2.serving.machine import usable_cores

DEFAULT_MODEL = "qwen2.5-coder-1.5b"

LOCAL_ROLLOUTS = 4
SERVED_ROLLOUTS = 16
_CORES_A_STREAM = 4
"""A CPU engine below this many cores is bound by arithmetic: streams only share its throughput,
so one at a time brings the first votes sooner and keeps the prompt's prefix in one slot."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rollouts there are, and how many stream at the same time."""

    num_rollouts: int
    concurrency: int


def sizes(config: EngineConfig, num_rollouts: int | None) -> Sizes:
    """The defaults of the engine, where the user asked for nothing else."""
    served = config.server is not None
    wanted = num_rollouts or (SERVED_ROLLOUTS if served else LOCAL_ROLLOUTS)
    fitting = wanted if served else max(1, usable_cores() // _CORES_A_STREAM)
    return Sizes(wanted, min(wanted, config.concurrency or fitting))
