import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aimo2.exam import exam_history
from tests.exam.crash_driver import NUM_PROBLEMS

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("AIMO2_TEST_KILLS", "20"))
"""200 for the full test: see docs/measurements.md."""


@dataclass
class Life:
    """What one process of an exam said, whole lines only."""

    asked: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    elapsed: float | None = None
    done: bool = False

    def hear(self, text: str) -> "Life":
        for line in text.splitlines(keepends=True):
            words = line.split()
            match words if line.endswith("\n") else []:
                case ["asked", key]:
                    self.asked.append(key)
                case ["answer", key, answer]:
                    self.answers[key] = answer
                case ["known", key, answer]:
                    self.known[key] = answer
                case ["elapsed", seconds]:
                    self.elapsed = float(seconds)
                case ["done"]:
                    self.done = True
                case _:
                    self.rest.append(line.strip())
        return self


class Lives:
    """Starts exams by the driver, one at a time."""

    def __init__(self, scratch: Path) -> None:
        self._output = scratch / "output"
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "tests.exam.crash_driver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _read(self) -> str:
        assert self._driver.stdout is not None
        return self._driver.stdout.readline().strip()

    def live(self, folder: Path, *, kill_after: float | None = None, largest: int = 0) -> Life:
        """Sit the exam in the folder; killed so many seconds after its clock has started."""
        self._output.write_text("")
        assert self._driver.stdin is not None
        self._driver.stdin.write(f"{folder}\t{self._output}\t{largest}\n")
        self._driver.stdin.flush()
        pid = int(self._read())
        if kill_after is not None:
            while "elapsed" not in self._output.read_text():
                time.sleep(0.001)
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._read() == "gone"
        return Life().hear(self._output.read_text())

    def close(self) -> None:
        assert self._driver.stdin is not None
        self._driver.stdin.close()
        self._driver.wait(10)
        assert self._driver.stdout is not None
        self._driver.stdout.close()


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    driver = Lives(tmp_path_factory.mktemp("lives"))
    yield driver
    driver.close()


def test_an_exam_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, lives: Lives) -> None:
    chance = random.Random(7)
    kills = exams = 0
    while kills < KILLS:
        exams += 1
        folder = tmp_path / f"exam-{exams}"
        answers: dict[str, str] = {}
        before = -1.0
        began = time.time()
        for _ in range(100):
            life = lives.live(folder, kill_after=chance.uniform(0.0, 0.25))
            kills += not life.done
            assert not set(life.asked) & set(answers), "an answered problem was asked again"
            for key, answer in (life.known | life.answers).items():
                assert answers.setdefault(key, answer) == answer, "an answer changed"
            assert life.elapsed is not None
            assert before <= life.elapsed <= time.time() - began + 0.5
            before = life.elapsed
            if life.done:
                break
        else:
            pytest.fail("the exam never came to its end")
        history = exam_history(folder)
        assert {key: each.answer for key, each in history.answers.items()} == answers
        assert len(answers) == NUM_PROBLEMS
        assert history.ended


def test_a_torn_last_record_is_cut_off_and_the_exam_goes_on(tmp_path: Path, lives: Lives) -> None:
    life = lives.live(tmp_path)
    assert life.done
    journal = tmp_path / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if b'"kind":"answered"' in line]
    torn = places[-2]
    journal.write_bytes(b"".join(lines[:torn]) + lines[torn][:40])
    again = lives.live(tmp_path)
    assert any("torn record of 40 bytes was cut off" in line for line in again.rest)
    assert again.asked == [f"p{NUM_PROBLEMS - 2}", f"p{NUM_PROBLEMS - 1}"]
    assert again.known == {key: life.answers[key] for key in again.known}
    assert len(again.known) == NUM_PROBLEMS - 2


def test_a_full_disk_is_said_and_every_problem_is_still_answered(
    tmp_path: Path, lives: Lives
) -> None:
    life = lives.live(tmp_path, largest=6_000)
    assert life.done
    assert set(life.answers) == {f"p{number}" for number in range(NUM_PROBLEMS)}
    assert sum("no room left" in line and "from memory" in line for line in life.rest) >= 1
    kept = exam_history(tmp_path).answers
    assert 0 < len(kept) < NUM_PROBLEMS
    again = lives.live(tmp_path)
    assert set(again.asked) == set(life.answers) - set(kept)
    assert again.known == {key: life.answers[key] for key in kept}
