"""The simulation of exams against the exam itself, on a virtual clock."""

import random

import pytest

from aimo2.evals.exams import learn, sit
from aimo2.policy.budget import BudgetConfig
from tests.evals.test_exams import mixed
from tests.exam.courses import live


@pytest.mark.parametrize("policy", ["even", "bank", "clamp", "value"])
def test_the_exam_does_what_its_simulation_says_and_is_never_late(policy: str) -> None:
    groups = mixed(12)
    lessons = learn(groups, "a test")
    config = BudgetConfig.model_validate({"policy": policy})
    chance = random.Random(5)
    differences = []
    for part in (0.2, 0.4, 0.8):
        paths = [chance.choice(chance.choice(groups)) for _ in range(10)]
        total = part * sum(path.end for path in paths)
        simulated = sit(paths, total, config, lessons)
        right, used = live(paths, total, config, lessons)
        assert used <= total
        # The live exam keeps a second of margin a question, and looks twice a second.
        assert used == pytest.approx(simulated.used, abs=30)
        differences.append(right - simulated.score)
    assert max(map(abs, differences)) <= 2
    assert abs(sum(differences)) <= 2
