"""Run, fork, time out, kill and close, in any order, agree with a model of one number a kernel."""

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from aimo2.sandbox.kernel import ForkKernel
from tests.sandbox.conftest import Lab, run, until

READ = "print(globals().get('n'))"
DEATHS = {
    "exit": "n = -1\nimport os\nos._exit(0)",
    "crash": "n = -1\nimport ctypes\nctypes.string_at(0)",
    "stubborn": "n = -1\nimport signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass",
}


@dataclass(eq=False)
class Pair:
    """A kernel and what its `n` should be; `None` where it should not exist."""

    kernel: ForkKernel
    number: int | None = None


class Machine(RuleBasedStateMachine):
    """Subclasses set `lab`, and whether it keeps `checkpoints`."""

    lab: Lab
    checkpoints: bool
    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Pair] = []

    def _keep(self, pair: Pair) -> Pair:
        self.open.append(pair)
        return pair

    def _run(self, pair: Pair, code: str, timeout: float = 20) -> tuple[str, str | None, bool]:
        result = self.lab.do(run(pair.kernel, code, timeout))
        return result.output, result.error, result.state_lost

    @initialize(target=pairs)
    def first(self) -> Any:
        return self.create()

    @rule(target=pairs)
    def create(self) -> Pair:
        return self._keep(Pair(self.lab.do(self.lab.sandbox.create())))

    @rule(pair=pairs, number=st.integers(0, 99))
    def assign(self, pair: Pair, number: int) -> None:
        assert self._run(pair, f"n = {number}") == ("", None, False)
        pair.number = number

    @rule(pair=pairs)
    def read(self, pair: Pair) -> None:
        assert self._run(pair, READ) == (f"{pair.number}\n", None, False)

    @rule(pair=pairs, number=st.integers(0, 99))
    def fail(self, pair: Pair, number: int) -> None:
        assert self._run(pair, f"n = {number}; print('a'); 1 / 0") == ("a\n", "value", False)
        pair.number = number

    @rule(pair=pairs, number=st.integers(0, 99))
    def time_out(self, pair: Pair, number: int) -> None:
        code = f"n = {number}; print('a')\nwhile True: pass"
        assert self._run(pair, code, 0.3) == ("a\n", "timeout", False)
        pair.number = number

    @rule(pair=pairs, death=st.sampled_from(sorted(DEATHS)))
    def die(self, pair: Pair, death: str) -> None:
        kind = "timeout" if death == "stubborn" else "died"
        assert self._run(pair, DEATHS[death], 0.3) == ("", kind, not self.checkpoints)
        if not self.checkpoints:
            pair.number = None

    @rule(pair=pairs)
    def die_between_cells(self, pair: Pair) -> None:
        self.lab.do(self._kill(pair.kernel))
        output, error, lost = self._run(pair, READ)
        if error is None:  # nothing had changed since the checkpoint
            assert (output, lost) == (f"{pair.number}\n", False)
        else:
            assert (output, error) == ("", "died")
            pair.number = (
                int(seen) if (seen := self._run(pair, READ)[0].strip()) != "None" else None
            )
            assert not lost or pair.number is None

    async def _kill(self, kernel: ForkKernel) -> None:
        if kernel._renewal is not None:
            await kernel._renewal
        if kernel.pid is not None:
            os.kill(kernel.pid, signal.SIGKILL)
            await until(lambda: kernel.pid is None)

    @rule(target=pairs, pair=pairs)
    def fork(self, pair: Pair) -> Any:
        if pair.kernel.pid is None and not self.checkpoints:
            return multiple()  # none
        return self._keep(Pair(self.lab.do(pair.kernel.fork()), pair.number))

    @rule(pair=consumes(pairs))
    def close(self, pair: Pair) -> None:
        self.lab.do(pair.kernel.close())
        self.open.remove(pair)

    def teardown(self) -> None:
        for pair in self.open:
            self.lab.do(pair.kernel.close())


@pytest.mark.parametrize("name", ["lab", "keeper"])
def test_kernels_agree_with_the_model(name: str, request: pytest.FixtureRequest) -> None:
    class ThisMachine(Machine):
        lab = request.getfixturevalue(name)
        checkpoints = name == "keeper"

    run_state_machine_as_test(
        ThisMachine,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
