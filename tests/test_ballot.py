"""Votes are weighed as they come, whatever the algebra behind them does."""

import asyncio

import pytest

from aimo2.answers import Judge
from aimo2.ballot import Ballot
from aimo2.deadline import Deadline
from aimo2.policy.signals import Signals
from tests.scripted import HangingJudge, InstantJudge, config
from tests.virtual import run_virtual

A, B = "x+1", "1+x"


def ballot(judge: Judge) -> Ballot:
    return Ballot(config(answer_type="expr", num_rollouts=4), judge)


def test_a_guess_takes_the_place_of_its_rollouts_empty_vote() -> None:
    async def main() -> None:
        votes = ballot(InstantJudge())
        await votes.add(Signals(0, None, stop_reason="no_answer"))
        assert not votes.has_answer(0)
        await votes.add(Signals(0, "7", "guessed", stop_reason="no_answer"))
        assert votes.has_answer(0)
        assert votes.weights() == {0: 0.1}
        assert votes.tally.weights == {"7": 0.1}

    run_virtual(main())


def test_the_order_of_arrival_is_kept_and_equal_values_have_the_first_rollouts_name() -> None:
    async def main() -> None:
        votes = ballot(InstantJudge())
        for one in (Signals(2, "1/2"), Signals(0, "3"), Signals(1, "0.5")):
            await votes.add(one)
        assert [vote.rollout for vote in votes.votes] == [2, 0, 1]
        assert votes.tally.weights == {"0.5": 2.0, "3": 1.0}

    run_virtual(main())


def test_a_comparison_ends_at_the_deadline_and_its_answers_count_apart() -> None:
    async def main() -> None:
        votes = ballot(HangingJudge())
        await votes.add(Signals(0, A), Signals(1, B), Signals(2, B), deadline=Deadline.after(5))
        assert asyncio.get_running_loop().time() == 5.0
        assert votes.tally.weights == {B: 2.0, A: 1.0}

    run_virtual(main())


def test_a_pair_that_is_not_decided_is_not_asked_again() -> None:
    async def main() -> None:
        judge = HangingJudge(takes=3.0)
        votes = ballot(judge)
        for rollout in range(4):
            await votes.add(Signals(rollout, (A, B)[rollout % 2]))
        assert (judge.num_asked, asyncio.get_running_loop().time()) == (1, 3.0)

    run_virtual(main())


def test_what_came_while_answers_were_compared_is_counted_at_the_end() -> None:
    """One is compared for ever and cancelled, another waits behind it, a third comes last."""

    async def main() -> None:
        votes = ballot(HangingJudge())
        await votes.add(Signals(5, "1/2"))
        adding = [
            asyncio.create_task(votes.add(Signals(rollout, answer)))
            for rollout, answer in ((6, A), (1, "x"), (2, "0.5"), (3, A))
        ]
        await asyncio.sleep(1)
        assert votes.tally.weights == {"1/2": 1.0}
        for task in adding:
            task.cancel()
        await asyncio.wait(adding)
        votes.settle(Signals(7, "3"))
        assert votes.tally.weights == {"1/2": 2.0, A: 2.0, "x": 1.0, "3": 1.0}
        settled = votes.votes
        votes.settle()
        assert list(votes.votes) == list(settled)

    run_virtual(main())


def test_settling_keeps_what_algebra_has_found() -> None:
    class Knowing(InstantJudge):
        async def ask(
            self, request: dict[str, str], timeout: float, deadline: Deadline
        ) -> dict[str, bool]:
            return {"equal": True}

    async def main() -> None:
        votes = ballot(Knowing())
        await votes.add(Signals(1, A), Signals(2, B))
        votes.settle(Signals(0, B))
        assert votes.tally.weights == {A: 3.0}

    run_virtual(main())


@pytest.mark.parametrize("settled", [False, True])
def test_integers_are_never_compared(settled: bool) -> None:
    async def main() -> None:
        judge = HangingJudge()
        votes = Ballot(config(num_rollouts=2), judge)
        if settled:
            votes.settle(Signals(0, "42"), Signals(1, "7"))
        else:
            await votes.add(Signals(0, "42"), Signals(1, "7"))
        assert (votes.tally.weights, judge.num_asked) == ({"42": 1.0, "7": 1.0}, 0)

    run_virtual(main())
