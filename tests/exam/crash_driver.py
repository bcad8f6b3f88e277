"""Scripted exams in processes of their own, for tests that kill them.

Reads `FOLDER OUTPUT LARGEST` lines, and forks for each a process that sits the exam in the folder,
writes what it does to the file OUTPUT, and cannot write files larger than LARGEST bytes (0: any).
Says the process's number, and `gone` when it has ended. The fork saves the imports.

A process says `asked ID` when a question is opened and `answer ID ANSWER` when it is answered, a
line each. Answers depend on the process: one that is given twice would not be the same.
"""

import asyncio
import os
import random
import resource
import sys
from pathlib import Path

from aimo2.attempt import Observer
from aimo2.deadline import Deadline
from aimo2.exam import Exam, ExamFolder
from aimo2.policy.vote import Tally, tally
from aimo2.solver import Solved
from aimo2.types import Outcome, Problem, StopReason, Vote
from tests.exam.scripts import problems, rules

NUM_PROBLEMS = 12


class QuickQuestion:
    """Votes a few times within some milliseconds, then ends."""

    def __init__(self, problem: Problem, observer: Observer) -> None:
        print("asked", problem.id, flush=True)
        self._problem = problem
        self._observer = observer
        self._votes: list[Vote] = []
        self._over = asyncio.Event()

    @property
    def tally(self) -> Tally:
        return tally(self._votes)

    def interrupt(self, reason: StopReason) -> None:
        self._over.set()

    async def solve(self, deadline: Deadline) -> Solved:
        for number in range(3):
            await asyncio.sleep(random.uniform(0.002, 0.01))
            self._observer.text(number, "sampled", "thinking " * 200)
            self._votes.append(Vote(rollout=number, answer=str(os.getpid() % 1000)))
        outcome = Outcome(
            id=self._problem.id,
            answer=self.tally.leader,
            votes=self.tally.weights,
            stop_reason="exhausted",
            num_rollouts=3,
            num_sampled_tokens=600,
            num_code_runs=0,
            seconds=0.02,
        )
        return Solved(outcome, ())


async def main(path: Path) -> None:
    with ExamFolder(path, lambda line: print("notice", line, flush=True)) as folder:
        for line in folder.repaired:
            print("repaired", line, flush=True)
        exam = Exam(rules(NUM_PROBLEMS, limit=600.0), QuickQuestion, folder, tick=0.003)
        exam.start()
        print("elapsed", exam.elapsed, flush=True)
        for problem in problems(NUM_PROBLEMS):
            known = problem.id in exam.answers
            answer = await exam.answer(problem)
            print("known" if known else "answer", problem.id, answer.answer, flush=True)
        await exam.close()
    print("done", flush=True)


def child(folder: str, output: str, largest: int) -> None:
    """One life of an exam."""
    os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), sys.stdout.fileno())
    random.seed()
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    asyncio.run(main(Path(folder)))


def serve() -> None:
    """Fork for each line of standard input."""
    for line in iter(sys.stdin.readline, ""):
        folder, output, largest = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, output, int(largest))
            finally:
                sys.stdout.flush()
                os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    serve()
