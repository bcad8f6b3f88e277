"""Kernels stop what must be stopped, keep what can be kept, and say what was lost."""

import asyncio
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from aimo2.config import KernelConfig
from aimo2.deadline import NEVER, Deadline
from aimo2.errors import SandboxError
from aimo2.sandbox import Kernel, Sandbox
from aimo2.sandbox.forkserver import ForkSandbox
from aimo2.sandbox.kernel import ForkKernel
from tests.sandbox.conftest import Lab, run, until

STUBBORN = """
import signal
import subprocess
import sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("before")
while True: pass
"""


def test_a_timed_out_cell_is_interrupted_and_keeps_its_state(lab: Lab) -> None:
    code = "n = 1\nprint('part')\nwhile True:\n    n += 1"
    cut, after = lab.cells(code, "n > 1", timeout=0.3)
    assert (cut.error, cut.output, cut.state_lost) == ("timeout", "part\n", False)
    assert cut.traceback.endswith("TimeoutError: the cell ran out of time")
    assert '"<cell 1>"' in cut.traceback
    assert after.output == "True\n"


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n  try:\n    while True: pass\n  except BaseException: n = 'caught'; break",
        "import time\ntry:\n    time.sleep(60)\nexcept:\n    time.sleep(60)",
        "import asyncio\nawait asyncio.sleep(60)",
    ],
    ids=["caught once", "caught and on", "await"],
)
def test_an_interrupt_ends_most_cells_within_the_grace(lab: Lab, code: str) -> None:
    cut, after = lab.cells("a = 5\n" + code, "a", timeout=0.2)
    assert not cut.state_lost
    assert after.output == "5\n"


def test_a_cell_that_ignores_the_interrupt_is_killed_and_says_so(lab: Lab) -> None:
    killed, after = lab.cells("a = 1\n" + STUBBORN, "'a' in globals()", timeout=0.2)
    assert (killed.error, killed.output, killed.state_lost) == ("timeout", "before\n", True)
    assert killed.traceback.endswith("had to be killed; all variables are gone")
    assert after.output == "False\n"


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("import os\nprint('a')\nos._exit(3)", "died", "exit code 3"),
        ("import ctypes\nprint('a')\nctypes.string_at(0)", "died", "SIGSEGV"),
        ("import signal\nprint('a')\nsignal.alarm(1)\nwhile True: pass", "died", "SIGALRM"),
    ],
)
def test_a_death_is_explained_and_recovered(lab: Lab, code: str, kind: str, words: str) -> None:
    died, after = lab.cells(code, "1 + 1")
    assert (died.error, died.output, died.state_lost) == (kind, "a\n", True)
    assert words in died.traceback
    assert (after.output, after.error) == ("2\n", None)


def test_killed_by_the_system_counts_as_memory(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        task = asyncio.create_task(run(kernel, "print('x')\nwhile True: pass"))
        await until(lambda: kernel._link.read_output()[0] != "")
        os.kill(kernel.pid or 0, signal.SIGKILL)
        result = await task
        assert (result.error, result.output, result.state_lost) == ("memory", "x\n", True)
        await kernel.close()

    lab.do(main())


def test_a_checkpoint_undoes_the_cell_that_killed_its_interpreter(keeper: Lab) -> None:
    codes = ["a = [1]", "a.append(2)\nimport os\nos._exit(0)", "a", "a.append(3)", STUBBORN, "a"]
    results = keeper.cells(*codes, timeout=1)
    assert [result.state_lost for result in results] == [False] * 6
    assert results[1].traceback.endswith("variables are as they were before this cell")
    assert [results[2].output, results[5].output] == ["[1]\n", "[1, 3]\n"]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after the checkpoint was made"])
def test_a_death_between_cells_is_never_silent(keeper: Lab, waits: bool) -> None:
    async def main() -> None:
        kernel = await keeper.sandbox.create()
        await run(kernel, "a = 1")
        if waits:
            assert kernel._renewal is not None
            await kernel._renewal
        os.kill(kernel.pid or 0, signal.SIGKILL)
        result = await run(kernel, "a")
        # Whether the cell is sent before the death is seen is a matter of luck.
        assert result.error in ("died", "memory") or (waits and result.output == "1\n")
        if waits:
            assert not result.state_lost
            assert (await run(kernel, "a")).output == "1\n"
        await kernel.close()

    keeper.do(main())


def test_without_checkpoints_a_death_between_cells_is_told_once(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        await run(kernel, "a = 1")
        os.kill(kernel.pid or 0, signal.SIGKILL)
        await until(lambda: kernel.pid is None)
        lost = await run(kernel, "print('not run')")
        assert (lost.error, lost.output, lost.state_lost) == ("died", "", True)
        assert "this cell was not run" in lost.traceback
        assert (await run(kernel, "'a' in globals()")).output == "False\n"
        await kernel.close()

    lab.do(main())


@pytest.mark.parametrize("name", ["lab", "keeper"])
def test_forks_share_the_past_and_nothing_after(name: str, request: pytest.FixtureRequest) -> None:
    lab: Lab = request.getfixturevalue(name)
    before = """
import random, numpy as np
values = list(range(3)); array = np.zeros(1_000_000)
def count():
    n = 0
    while True:
        yield n
        n += 1
counter = count(); next(counter); next(counter)
open("file", "w").write("old");
"""

    async def main() -> None:
        kernel = await lab.sandbox.create()
        assert (await run(kernel, before)).error is None
        child = await kernel.fork()
        await run(kernel, "values.append('a'); array[0] = 1; next(counter); next(counter)")
        await run(kernel, "open('file', 'w').write('new');")
        state = "values, array[0].item(), next(counter), open('file').read()"
        assert (await run(child, state)).output == "([0, 1, 2], 0.0, 2, 'old')\n"
        assert (await run(kernel, state)).output == "([0, 1, 2, 'a'], 1.0, 4, 'new')\n"
        grandchild = await child.fork()
        await child.close()
        assert (await run(grandchild, "values")).output == "[0, 1, 2]\n"
        assert (await run(grandchild, "import os; os._exit(1)")).error == "died"
        assert (await run(kernel, "len(values)")).output == "4\n"
        for each in (kernel, grandchild):
            await each.close()

    lab.do(main())


def test_a_thread_of_an_earlier_cell_is_not_heard_in_a_later_one(lab: Lab) -> None:
    left_behind = """
import threading
go = threading.Event()
def late():
    go.wait()
    print("late words")
    1 / 0
thread = threading.Thread(target=late)
thread.start()
print("early words")
"""

    own = "own = threading.Thread(target=print, args=('mine',)); own.start(); own.join()"
    results = lab.cells(left_behind, "go.set(); thread.join(); print('now')", own)
    assert [result.output for result in results] == ["early words\n", "now\n", "mine\n"]


def test_what_a_cell_kept_of_its_streams_works_in_a_fork(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        await run(kernel, "import logging, sys\nlogging.basicConfig(format='%(message)s')")
        await run(kernel, "kept = sys.stdout")
        child = await kernel.fork()
        for each in (child, kernel):
            result = await run(each, "logging.warning('heard'); print('too', file=kept)")
            assert result.output == "heard\ntoo\n"
            await each.close()

    lab.do(main())


def test_folders_of_ended_processes_are_removed_and_files_go_with_the_fork(keeper: Lab) -> None:
    look = "import os\nos.getcwd(), os.path.getsize('../data')"

    async def main() -> None:
        kernel = await keeper.sandbox.create()
        if "mount namespace" not in (await keeper.sandbox.report()).active:
            pytest.skip("no scratch folder on this machine")
        write = "open('data', 'wb').write(bytes(6 << 20)); os.mkdir('in'); os.chdir('in')"
        assert (await run(kernel, f"import os\n{write}")).error is None
        for _ in range(12):  # of which the family's 32 MiB hold five at a time
            assert (await run(kernel, look)).error is None
        assert "as they were" in (await run(kernel, "os._exit(1)")).traceback
        after = await run(kernel, look)
        assert after.error is None
        assert eval(after.output)[0].endswith("/in")
        child = await kernel.fork()
        assert (await run(child, look)).error is None
        await run(child, "os.chdir('/')")
        grandchild = await child.fork()
        assert (await run(grandchild, "os.getcwd()")).output == "'/'\n"
        for each in (child, grandchild):
            await each.close()
        # The folders of the closed ones are removed a little later than they are closed.
        while (await run(kernel, "open('more', 'wb').write(bytes(12 << 20));")).error:
            pass
        child = await kernel.fork()
        told = await run(child, "os.listdir('.')")
        notice, files = told.output.splitlines()
        assert notice.startswith("[files were lost for want of space: ")
        assert "more" in notice
        assert "more" not in files
        assert (await run(child, "os.listdir('.')")).output == f"{files}\n"
        assert (await run(kernel, "os.listdir('.')")).output == "['more']\n"
        for each in (kernel, child):
            await each.close()

    keeper.do(main())


def test_files_go_with_every_fork_however_fast_the_cells_come(keeper: Lab) -> None:
    async def main() -> None:
        for number in range(30):
            kernel = await keeper.sandbox.create()
            await run(kernel, "pass")
            await run(kernel, f"open('file', 'w').write('{number}');")
            child = await kernel.fork()
            await run(kernel, "open('file', 'w').write('new');")
            seen = await run(child, "open('file').read()")
            assert (seen.output, seen.traceback) == (f"'{number}'\n", "")
            for each in (kernel, child):
                await each.close()

    keeper.do(main())


def test_a_kernel_without_descriptors_to_spare_refuses_to_fork_and_lives(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        hoard = "import os\nopen('f', 'w').write('x')\nkept = []\n"
        hoard += "try:\n    while True: kept.append(os.dup(1))\nexcept OSError: 'full'"
        assert (await run(kernel, hoard)).error is None
        with pytest.raises(SandboxError, match="cannot be forked"):
            await kernel.fork()
        assert (await run(kernel, "for fd in kept: os.close(fd)")).error in (None, "died")
        await kernel.close()

    lab.do(main())


THIEF = """
import gc, os, platform
server = next(o for o in gc.get_objects() if type(o).__name__ == "Server")
def steal(fds):
    import ctypes
    number = 56 if platform.machine() == "x86_64" else 220
    if {call} == 0:
        while True: pass
    return {{"refused": "stolen"}}
server._fork = steal
"""


@pytest.mark.parametrize(
    "call", ["os.fork()", "ctypes.CDLL(None).syscall(number, 0x8000 | 17, 0, 0, 0, 0)"]
)
def test_a_process_that_a_cell_made_of_its_fork_is_found_and_killed(lab: Lab, call: str) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        await run(kernel, THIEF.format(call=call))
        zygote = psutil.Process(lab.sandbox._zygotes[0].pid)
        before = set(zygote.children(recursive=True))
        with pytest.raises(SandboxError, match="stolen"):
            await kernel.fork()
        strangers = set(zygote.children(recursive=True)) - before
        assert len(strangers) == 1
        await until(lambda: not any(_lives(process) for process in strangers))
        assert (await run(kernel, "6 * 7")).output == "42\n"
        await kernel.close()

    def _lives(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    lab.do(main())


def test_a_kernel_cannot_name_another_ones_process_as_its_own(lab: Lab) -> None:
    async def main() -> None:
        kernel, other = [await lab.sandbox.create() for _ in range(2)]
        said = f"{{'op': 'hello', 'pid': {other._link.guest_pid}}}"
        lie = "server._greet = lambda: server._wire.send(" + said + ")"
        find = (
            "import gc\nserver = next(o for o in gc.get_objects() if type(o).__name__ == 'Server')"
        )
        await run(kernel, f"{find}\n{lie}")
        child = await kernel.fork()
        assert child._link.guest_pid not in (other._link.guest_pid, kernel._link.guest_pid)
        for each in (kernel, other, child):
            await each.close()

    lab.do(main())


def test_a_fork_cannot_signal_the_kernel_that_it_came_from() -> None:
    layers = ("no new privileges", "seccomp", "fork guard")  # no other layer keeps them apart
    code = "ctypes.CDLL(None).syscall(234 if platform.machine() == 'x86_64' else 131, {0}, {0}, 9)"

    async def main() -> None:
        async with ForkSandbox(preload=(), layers=layers, checkpoints=False) as sandbox:
            if "seccomp" not in (await sandbox.report()).active:
                pytest.skip("no filter on this machine")
            kernel = await sandbox.create()
            child = await kernel.fork()
            attack = f"import ctypes, platform\n{code.format(kernel._link.guest_pid)}"
            assert (await run(child, attack)).output == "-1\n"
            assert (await run(kernel, "6 * 7")).output == "42\n"

    asyncio.run(main())


def test_a_cell_has_the_configured_time_where_none_is_given() -> None:
    async def main() -> None:
        config = KernelConfig(cell_timeout=0.2)
        async with ForkSandbox(config, preload=(), checkpoints=False) as sandbox:
            assert (await (await sandbox.create()).run("while True: pass")).error == "timeout"

    asyncio.run(main())


def test_hooks_of_a_cell_cannot_hold_up_a_fork_for_long(lab: Lab) -> None:
    spin = "import os\ndef spin():\n    while True: pass\n"

    async def main() -> None:
        sibling = await lab.sandbox.create()
        for where, says in (("before", "did not answer"), ("after_in_child", "did not greet")):
            kernel = await lab.sandbox.create()
            await run(kernel, f"{spin}os.register_at_fork({where}=spin)")
            with pytest.raises(SandboxError, match=says):
                await kernel.fork()
            await kernel.close()
        assert (await run(sibling, "1")).output == "1\n"
        await sibling.close()

    lab.do(main())


def test_a_kernel_with_threads_forks_without_them(lab: Lab) -> None:
    code = """
import threading
a = [1]
def spin():
    while True: a[0] += 1
for _ in range(4): threading.Thread(target=spin, daemon=True).start()
"""

    async def main() -> None:
        kernel = await lab.sandbox.create()
        await run(kernel, code)
        children = [await kernel.fork() for _ in range(3)]
        await kernel.close()
        for child in children:
            grandchild = await child.fork()
            for each in (child, grandchild):
                alive = await run(each, "a[0] > 1, threading.active_count()")
                assert alive.output == "(True, 1)\n"
                await each.close()

    lab.do(main())


def test_random_states_are_kept_or_reseeded(keeper: Lab) -> None:
    draw = "import random, numpy\n[random.random(), numpy.random.rand()]"

    async def main() -> None:
        kernel = await keeper.sandbox.create()
        await run(kernel, draw)
        same, other, again, large = [await kernel.fork(reseed=s) for s in (None, 7, 7, 2**70)]
        outputs = [(await run(each, draw)).output for each in (kernel, same, other, again, large)]
        assert outputs[0] == outputs[1]
        assert outputs[2] == outputs[3]
        assert len(set(outputs)) == 3
        fresh = await keeper.sandbox.create()
        assert (await run(fresh, draw)).output not in outputs
        for each in (kernel, same, other, again, large, fresh):
            await each.close()

    keeper.do(main())


def test_a_seeded_sandbox_repeats_itself() -> None:
    async def draw() -> str:
        async with ForkSandbox(seed=5, preload=(), layers=()) as sandbox:
            return (await run(await sandbox.create(), "import random\nrandom.random()")).output

    assert asyncio.run(draw()) == asyncio.run(draw())


def test_cells_of_one_kernel_run_in_the_order_asked(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        await run(kernel, "seen = []")
        await asyncio.gather(*(run(kernel, f"seen.append({i})") for i in range(9)))
        assert (await run(kernel, "seen")).output == f"{list(range(9))}\n"
        await kernel.close()

    lab.do(main())


def test_no_more_cells_run_at_once_than_allowed_and_waiting_is_not_counted() -> None:
    async def main() -> None:
        async with ForkSandbox(concurrency=1, preload=(), checkpoints=False) as sandbox:
            kernels = [await sandbox.create() for _ in range(3)]
            code = "import time\na = time.monotonic(); time.sleep(0.2); a, time.monotonic()"
            results = await asyncio.gather(*(run(kernel, code, 0.4) for kernel in kernels))
            assert [result.error for result in results] == [None] * 3
            spans = [eval(result.output) for result in results]
            assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))

    asyncio.run(main())


def test_the_deadline_bounds_the_cell_and_the_wait(lab: Lab) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        late = await kernel.run("while True: pass", timeout=60, deadline=Deadline.after(0.2))
        assert (late.error, late.state_lost) == ("timeout", False)
        busy = asyncio.create_task(run(kernel, "import time; time.sleep(0.5)"))
        await asyncio.sleep(0)
        late = await kernel.run("n = 1", timeout=60, deadline=Deadline.after(0.1))
        assert (late.error, late.traceback) == (
            "timeout",
            "TimeoutError: no time was left to start the cell",
        )
        assert (await busy).error is None
        late = await kernel.run("n = 1", timeout=60, deadline=Deadline.after(0))
        assert late.error == "timeout"
        assert (await run(kernel, "'n' in globals()")).output == "False\n"
        await kernel.close()

    lab.do(main())


@pytest.mark.parametrize(
    ("code", "state"),
    [("a = 1\nwhile True: pass", "1\n"), ("a = 1\n" + STUBBORN, "")],
    ids=["interrupted", "killed"],
)
def test_cancelling_a_run_stops_its_cell(lab: Lab, code: str, state: str) -> None:
    async def main() -> None:
        kernel = await lab.sandbox.create()
        task = asyncio.create_task(run(kernel, code))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        after = await run(kernel, "a")
        assert after.output == state
        assert after.state_lost is (state == "")
        await kernel.close()

    lab.do(main())


def test_output_is_bounded_and_counted(lab: Lab) -> None:
    (result,) = lab.cells("print('start'); print('x' * 50_000); print('end')")
    assert result.error is None
    assert len(result.output.encode()) <= 4096
    assert result.output.startswith("start\n")
    assert result.output.endswith("end\n")
    assert f"[... {result.bytes_dropped} bytes dropped ...]" in result.output
    assert result.bytes_dropped == 50_000 + 11 - (4096 - 64)
    assert result.output.count("x") == 4096 - 64 - 11


def test_a_cell_too_long_to_send_is_refused(lab: Lab) -> None:
    results = lab.cells("#" * 300_000, "#" + "\U0001d7d9" * 131_060 + "\n5")
    assert (results[0].error, results[1].output) == ("syntax", "5\n")
    assert "may have 131,072 characters, not 300,000" in results[0].traceback


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        ("{'error': 5, 'traceback': 7}", "other", ""),
        ("{'error': ['name'], 'traceback': None}", "other", ""),
        ("{'error': 'no such kind', 'traceback': 'x' * 60_000}", "other", "x" * 8_000),
        ("{'error': 'name', 'traceback': '\\ud800'}", "name", "\\ud800"),
        ("{}", None, ""),
    ],
)
def test_words_of_a_lying_kernel_are_bounded_and_typed(
    lab: Lab, reply: str, error: str | None, text: str
) -> None:
    find = "import gc\nserver = next(o for o in gc.get_objects() if type(o).__name__ == 'Server')"
    lie = lab.cells(f"{find}\nserver._run = lambda code: {reply}", "1")[1]
    assert (lie.error, lie.traceback) == (error, text)


def test_closing_is_final_and_idempotent(lab: Lab) -> None:
    async def main() -> None:
        kernel: Kernel = await lab.sandbox.create()
        running = asyncio.create_task(kernel.run("while 1: pass", timeout=60, deadline=NEVER))
        await asyncio.sleep(0.05)
        await kernel.close()
        await kernel.close()
        with pytest.raises(SandboxError, match="closed"):
            await running
        for use in (kernel.fork(), kernel.run("1", timeout=1, deadline=NEVER)):
            with pytest.raises(SandboxError, match="closed"):
                await use

    lab.do(main())


def test_an_idle_kernel_that_computes_is_stopped_and_goes_on_when_asked(lab: Lab) -> None:
    code = """
import threading
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
"""

    async def main() -> None:
        kernel = await lab.sandbox.create()
        assert (await run(kernel, code)).error is None
        process = psutil.Process(kernel.pid)
        await until(lambda: process.status() == psutil.STATUS_STOPPED)
        assert (await run(kernel, "6 * 7")).output == "42\n"
        await kernel.close()

    lab.do(main())


def test_zygotes_that_die_are_replaced_and_their_kernels_say_so() -> None:
    async def main() -> None:
        async with ForkSandbox(preload=(), zygotes=2) as sandbox:
            kernels = [await sandbox.create() for _ in range(4)]
            for kernel in kernels:
                await run(kernel, "a = 1")
            os.kill(sandbox._zygotes[0].pid, signal.SIGKILL)
            await until(lambda: sandbox._zygotes[0].lost)
            results = [await run(kernel, "a") for kernel in kernels]
            assert sorted(result.state_lost for result in results) == [False, False, True, True]
            assert all(result.output == "1\n" for result in results if not result.state_lost)
            again = [(await run(kernel, "2")).output for kernel in kernels]
            assert again == ["2\n"] * 4

    asyncio.run(main())


def test_a_zygote_that_cannot_be_replaced_costs_kernels_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with ForkSandbox(preload=()) as sandbox:
            await sandbox.create()
            monkeypatch.setattr("aimo2.sandbox.parent._BOOT", "raise SystemExit('no memory')")
            os.kill(sandbox._zygotes[0].pid, signal.SIGKILL)
            await until(lambda: sandbox._zygotes[0].lost)
            with pytest.raises(SandboxError, match="no new kernel: the sandbox did not start"):
                await sandbox.create()
            monkeypatch.undo()
            assert (await run(await sandbox.create(), "2")).output == "2\n"

    asyncio.run(main())


def test_a_kernel_that_nobody_waited_for_leaves_no_scratch_folder() -> None:
    async def main() -> None:
        async with ForkSandbox(preload=()) as sandbox:
            if "mount namespace" not in (await sandbox.report()).active:
                pytest.skip("no scratch folder on this machine")
            zygote = sandbox._zygotes[0]

            def mounted() -> list[str]:
                mounts = Path(f"/proc/{zygote._kernels_parent()}/mountinfo").read_text()
                return [line for line in mounts.splitlines() if "nr_inodes=4096" in line]

            for _ in range(5):
                creating = asyncio.create_task(sandbox.create())
                while not zygote._spawning:  # noqa: ASYNC110 - it stands there for a moment only
                    await asyncio.sleep(0)
                creating.cancel()
                await asyncio.wait([creating])
            kernel = await sandbox.create()  # behind the others in the zygote's line
            assert len(mounted()) == 1
            await kernel.close()
            await until(lambda: not mounted())

    asyncio.run(main())


def test_leaving_the_sandbox_leaves_nothing_behind() -> None:
    me = psutil.Process()

    async def main() -> None:
        async with ForkSandbox(preload=()) as sandbox:
            kernels = [await sandbox.create() for _ in range(3)]
            kernels.append(await kernels[0].fork())
            tasks = [asyncio.create_task(run(kernel, "while 1: pass")) for kernel in kernels[:2]]
            await asyncio.sleep(0.1)
            family = psutil.Process(sandbox._zygotes[0].pid).children(recursive=True)
            assert len(family) >= 4
        for task in tasks:
            with pytest.raises(SandboxError):
                await task
        assert not any(process.is_running() for process in family)
        with pytest.raises(SandboxError, match="not open"):
            await sandbox.create()

    before = me.num_fds()
    asyncio.run(main())
    assert me.num_fds() == before


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="zygotes=0"):
        ForkSandbox(zygotes=0)
    with pytest.raises(ValueError, match="armour"):
        ForkSandbox(layers=["armour"])


def test_it_is_a_sandbox() -> None:
    sandbox: Sandbox = ForkSandbox(KernelConfig())
    assert isinstance(sandbox, ForkSandbox)
    assert ForkKernel.run.__doc__


HOST = """
import asyncio, sys
from aimo2.deadline import NEVER
from aimo2.sandbox.forkserver import ForkSandbox

async def main():
    layers = () if sys.argv[1] == "none" else None
    options = {} if layers is None else {"layers": layers}
    async with ForkSandbox(preload=(), **options) as sandbox:
        kernels = [await sandbox.create() for _ in range(3)]
        kernels.append(await kernels[0].fork())
        spin = "import signal; signal.signal(2, signal.SIG_IGN)\\nwhile True: pass"
        tasks = [asyncio.create_task(k.run(spin, timeout=60, deadline=NEVER)) for k in kernels[::2]]
        await asyncio.sleep(0.3)
        print("ready", flush=True)
        await asyncio.gather(*tasks)

asyncio.run(main())
"""


@pytest.mark.parametrize("layers", ["all", "none"])
def test_a_killed_host_leaves_no_survivors(layers: str) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST, layers], stdout=subprocess.PIPE, text=True)
    with host:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        family = psutil.Process(host.pid).children(recursive=True)
        assert len(family) >= 5
        host.kill()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert len(gone) == len(family)


def test_it_runs_on_uvloop(lab: Lab) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> str:
        async with ForkSandbox(preload=()) as sandbox:
            kernel = await sandbox.create()
            child = await kernel.fork()
            late = await run(child, "while True: pass", 0.2)
            assert late.error == "timeout"
            return (await run(kernel, "'#' * 100_000; 4")).output

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == "4\n"
