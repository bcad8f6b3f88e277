import pytest

from aimo2 import prompts
from aimo2.answers import Canonical
from aimo2.attempt import derive_seed
from aimo2.config import SalvageConfig, SamplingConfig
from aimo2.errors import ContextFull, ModelUnavailable, SandboxError
from aimo2.llm import Chunk
from aimo2.llm.fake import Delay
from aimo2.prompts.families import families
from aimo2.sandbox import CellResult
from aimo2.types import ErrorKind
from tests.scripted import Ran, config, execute, model, run_rollout
from tests.virtual import run_virtual

CODE = "I compute.\n```python\nx = 6 * 7\nprint(x)\n```\n"


def test_code_is_run_and_its_output_fed_back_where_the_model_goes_on() -> None:
    ran = run_rollout(model(CODE + "junk after", "So \\boxed{42}."), config())
    assert ran.trace.stop_reason == "answered"
    assert ran.trace.answer == "42"
    assert [run.code for turn in ran.trace.turns if (run := turn.run)] == ["x = 6 * 7\nprint(x)"]
    assert ran.model.calls[1].conversation.reply == CODE + "```output\n42\n```\n"
    assert ran.model.calls[0].state == "closed"


def test_the_stream_is_closed_at_the_end_of_the_block_and_its_tail_is_counted_not_kept() -> None:
    ran = run_rollout(
        model([Chunk("```python\n1\n```\nnoise", 9), "never asked for"], "\\boxed{1}"), config()
    )
    first = ran.trace.turns[0]
    assert first.text == "```python\n1\n```\n"
    assert (first.num_tokens, first.finish_reason) == (9, "closed")
    assert "never asked for" not in ran.trace.text


def test_the_trace_text_is_what_the_observer_heard_less_what_was_discarded() -> None:
    ran = run_rollout(model(CODE, "\\boxed{42}"), config(openings=("code",)))
    assert ran.recorder.all_text(0).startswith("```python\n")
    assert ran.trace.text == ran.recorder.all_text(0)


def test_state_lives_from_cell_to_cell() -> None:
    ran = run_rollout(model(CODE, "```python\nprint(x + 1)\n```\n", "\\boxed{43}"), config())
    outputs = [turn.run.output for turn in ran.trace.turns if turn.run]
    assert outputs == ["42", "43"]
    assert len(ran.sandbox.kernels) == 1


def test_output_has_the_indentation_of_the_code() -> None:
    ran = run_rollout(model("1. x\n   ```python\n   print(1)\n   ```\n", "\\boxed{1}"), config())
    assert ran.trace.turns[0].injected == "   ```output\n   1\n   ```\n"


def test_code_opening_begins_the_reply_with_a_fence() -> None:
    ran = run_rollout(model("print(42)\n```\n", "\\boxed{42}"), config(openings=("code",)))
    assert ran.model.calls[0].conversation.reply == "```python\n"
    assert ran.trace.turns[0].run is not None
    assert ran.trace.turns[0].run.code == "print(42)"
    assert ran.trace.text.startswith("```python\nprint(42)\n```\n```output\n42\n```\n")


@pytest.mark.parametrize(("code", "kind"), [("print(", "syntax"), ("print(nope)", "name")])
def test_an_error_goes_back_with_a_nudge_of_its_kind(code: str, kind: ErrorKind) -> None:
    ran = run_rollout(model(f"```python\n{code}\n```\n", CODE, "\\boxed{42}"), config())
    first = ran.trace.turns[0]
    assert first.run is not None
    assert first.run.error == kind
    assert first.injected.endswith(f"```\n{prompts.nudge(kind)}\n")
    assert "Error" in first.injected
    assert ran.trace.answer == "42"


def test_an_invented_output_block_is_cut_off_before_it_begins() -> None:
    ran = run_rollout(
        model(
            "Running it gives\n```output\n99\n```\nso \\boxed{99}",
            "print(42)\n```\n",
            "\\boxed{42}",
        ),
        config(),
    )
    assert ran.trace.answer == "42"
    assert "99" not in ran.trace.text
    assert ran.trace.turns[0].injected == "```python\n"
    assert ran.trace.turns[1].run is not None


def test_output_begun_inside_the_code_block_is_replaced_by_the_real_one() -> None:
    ran = run_rollout(model("```python\nprint(42)\n```output\n99\n", "\\boxed{42}"), config())
    assert ran.trace.turns[0].text == "```python\nprint(42)\n"
    assert ran.trace.turns[0].injected == "```\n```output\n42\n```\n"


def test_a_reply_that_ends_inside_its_code_is_closed_and_run() -> None:
    ran = run_rollout(model("```python\nprint(42)", "\\boxed{42}"), config())
    assert ran.trace.turns[0].injected == "\n```\n```output\n42\n```\n"


def test_a_block_cut_by_the_token_limit_is_not_run() -> None:
    ran = run_rollout(model("```python\nprint(42) # and so on and on"), config(max_tokens=6))
    assert ran.trace.stop_reason == "max_tokens"
    assert ran.trace.num_code_runs == 0
    assert ran.trace.num_tokens == 6


def test_tokens_are_limited_over_all_turns_together() -> None:
    ran = run_rollout(model([Chunk("```python\n1\n```\n", 30)]), config(max_tokens=100))
    assert [call.sampling.max_tokens for call in ran.model.calls] == [100, 70, 40, 10]
    assert ran.trace.stop_reason == "max_tokens"


def test_the_last_code_run_is_announced_and_one_more_ends_the_rollout() -> None:
    ran = run_rollout(model("```python\nnope\n```\n"), config(max_code_runs=2))
    assert ran.trace.num_code_runs == 2
    assert prompts.LAST_RUN_NUDGE in ran.trace.turns[1].injected
    assert prompts.LAST_RUN_NUDGE not in ran.trace.turns[0].injected
    assert ran.trace.stop_reason == "max_code_runs"
    assert ran.trace.answer is None


def test_without_code_nothing_is_run_and_blocks_are_text() -> None:
    ran = run_rollout(model(CODE + "\\boxed{41}"), config(max_code_runs=0, openings=("code",)))
    assert ran.trace.answer == "41"
    assert (ran.trace.prefix, ran.trace.opening, ran.sandbox.kernels) == ("", "plain", [])
    assert "without code" in ran.model.calls[0].conversation.messages[0].content


def test_text_that_repeats_itself_is_stopped() -> None:
    ran = run_rollout(model("and again and so on, " * 500), config(max_tokens=4000))
    assert ran.trace.stop_reason == "loop"
    assert ran.trace.num_tokens < 1000


def test_the_first_usable_box_ends_the_rollout_at_the_end_of_its_line() -> None:
    ran = run_rollout(model("Is it \\boxed{}?\nIt is \\boxed{42}, yes.\nOr \\boxed{43}"), config())
    assert ran.trace.answer == "42"
    assert ran.trace.text.endswith("yes.\n")


def test_the_last_box_counts_where_we_read_to_the_end() -> None:
    ran = run_rollout(model("\\boxed{42}\nno, \\boxed{43}\nbye"), config(stop_at_answer=False))
    assert (ran.trace.answer, ran.trace.stop_reason) == ("43", "answered")


def test_a_box_that_is_no_integer_lets_the_model_go_on_and_is_explained() -> None:
    ran = run_rollout(model("\\boxed{x+1}\n", "So \\boxed{42}\n"), config())
    assert ran.trace.answer == "42"
    only = run_rollout(model("\\boxed{\\frac{1}{2}}\n", "That is all."), config())
    assert (only.trace.answer, only.trace.stop_reason) == (None, "no_answer")
    assert only.trace.error is not None
    assert "integer" in only.trace.error


def test_zero_is_an_answer_like_any_other() -> None:
    assert run_rollout(model("\\boxed{0}"), config()).trace.answer == "0"


def test_a_boxed_number_inside_code_is_no_answer() -> None:
    ran = run_rollout(model('```python\nprint("\\\\boxed{7}")\n```\n', "Done."), config())
    assert ran.trace.raw_answer != "7" or ran.trace.answer_source == "output"


def test_the_last_output_is_the_answer_where_nothing_was_boxed() -> None:
    ran = run_rollout(model(CODE, "There it is."), config())
    assert (ran.trace.answer, ran.trace.answer_source) == ("42", "output")
    failed = run_rollout(model(CODE, "```python\nnope\n```\n", "Hm."), config())
    assert failed.trace.answer is None


def test_a_stated_answer_counts_where_nothing_was_boxed() -> None:
    ran = run_rollout(model("I think hard. The final answer is **42**."), config())
    assert (ran.trace.answer, ran.trace.answer_source) == ("42", "stated")


def test_own_time_limit_and_deadline_are_told_apart() -> None:
    slow = model(["thinking ", Delay(100), "\\boxed{42}"])
    assert run_rollout(slow, config(timeout=5)).trace.stop_reason == "timeout"
    ran = run_rollout(slow, config(timeout=50), seconds=5)
    assert (ran.trace.stop_reason, ran.seconds) == ("deadline", 5.0)
    assert ran.trace.text == "thinking "


def test_a_cell_gets_no_more_time_than_is_left() -> None:
    ran = run_rollout(
        model(CODE), config(), script=lambda code, space: CellResult("", seconds=999), seconds=5
    )
    assert ran.seconds <= 5.0
    assert ran.trace.turns[0].run is not None
    assert ran.trace.turns[0].run.error == "timeout"


def test_a_failed_model_is_a_record_that_keeps_the_text() -> None:
    ran = run_rollout(model(["half a ", ModelUnavailable("the server is gone")]), config())
    assert (ran.trace.stop_reason, ran.trace.error) == ("model_error", "the server is gone")
    assert ran.trace.text == "half a "


def test_a_full_context_ends_the_rollout() -> None:
    ran = run_rollout(model([ContextFull("4096 tokens")]), config())
    assert ran.trace.stop_reason == "max_context"


def test_a_length_before_our_own_limit_is_a_full_context() -> None:
    ran = run_rollout(model([Chunk("so", 1), Chunk("", 0, (), "length")]), config(max_tokens=50))
    assert ran.trace.stop_reason == "max_context"


def test_a_printed_special_token_stays_text() -> None:
    ran = run_rollout(model("```python\nprint('<|im_end|>')\n```\n", "\\boxed{1}"), config())
    assert "<|" not in ran.trace.turns[0].injected


def test_a_lost_sandbox_is_a_record() -> None:
    def lost(code: str, namespace: dict[str, object]) -> CellResult:
        raise SandboxError("no process could be started")

    ran = run_rollout(model(CODE), config(), script=lost)
    assert (ran.trace.stop_reason, ran.trace.error) == (
        "sandbox_error", "no process could be started",
    )  # fmt: skip


def test_a_bug_is_raised_not_recorded() -> None:
    with pytest.raises(ZeroDivisionError):
        run_rollout(model([ZeroDivisionError()]), config())


@pytest.mark.parametrize("seconds", [1.0, 12.0])
def test_cancelling_closes_stream_and_kernel_and_leaves_a_record(seconds: float) -> None:
    ran = run_rollout(
        model(["slow ", Delay(10), CODE]),
        config(),
        script=lambda code, space: CellResult("", seconds=5),
        cancel_after=seconds,
    )
    assert ran.trace.stop_reason == "cancelled"
    assert ran.trace.text.startswith("slow ")
    assert [call.state for call in ran.model.calls] == ["closed"]
    assert all(kernel.closed for kernel in ran.sandbox.kernels)


def test_long_output_is_cut_in_the_middle_with_a_note() -> None:
    ran = run_rollout(
        model("```python\nprint('a' * 5000 + 'z')\n```\n", "\\boxed{1}"), config(output_chars=300)
    )
    run = ran.trace.turns[0].run
    assert run is not None
    assert run.truncated
    assert "4701 characters cut" in run.output
    assert run.output.endswith("z")


def test_an_error_is_seen_even_behind_much_output() -> None:
    ran = run_rollout(
        model("```python\nprint('a' * 5000)\nnope\n```\n", "\\boxed{1}"), config(output_chars=300)
    )
    assert ran.trace.turns[0].run is not None
    assert ran.trace.turns[0].run.output.endswith("NameError: name 'nope' is not defined")


def test_silent_code_is_told_so() -> None:
    ran = run_rollout(model("```python\nx = 1\n```\n", "\\boxed{1}"), config())
    assert prompts.SILENT_OUTPUT in ran.trace.turns[0].injected


def test_backticks_in_the_output_do_not_end_its_block() -> None:
    ran = run_rollout(model("```python\nprint('```')\n```\n", "\\boxed{1}"), config())
    assert ran.trace.turns[0].injected == "````output\n```\n````\n"


def test_log_probabilities_are_averaged_over_the_turn() -> None:
    ran = run_rollout(
        model([Chunk("a ", 1, (-1.0,)), Chunk("\\boxed{1}", 2, (-2.0, -3.0))]),
        config(sampling=SamplingConfig(logprobs=True)),
    )
    assert ran.trace.turns[0].mean_logprob == -2.0
    assert ran.model.calls[0].sampling.logprobs == 1


def test_seeds_differ_by_rollout_and_turn_and_repeat_by_seed() -> None:
    def seeds(ran: Ran) -> list[int | None]:
        return [call.sampling.seed for call in ran.model.calls]

    first = seeds(run_rollout(model(CODE, CODE, "\\boxed{1}"), config(seed=5)))
    again = seeds(run_rollout(model(CODE, CODE, "\\boxed{1}"), config(seed=5)))
    other = seeds(run_rollout(model(CODE, CODE, "\\boxed{1}"), config(seed=5), index=1))
    assert first == again
    assert len({*first, *other}) == 6
    assert 0 <= derive_seed(1, "a", 2, 3) < 2**31


def test_an_answer_out_of_thinking_does_not_end_the_rollout() -> None:
    ran = run_rollout(model("<think>\nmaybe \\boxed{7}\nno\n</think>\n\\boxed{42}\n"), config())
    assert ran.trace.answer == "42"


@pytest.mark.parametrize(
    "behind",
    [
        "</think>\n\nThe answer is 42.",
        "</think>\n\n\\[\n\\boxed{\n42\n}\n\\]\n",
        "</think>\\boxed{42}\n",
    ],
)
def test_the_answer_is_what_stands_behind_the_thinking(behind: str) -> None:
    family = families()["qwen3"]
    scripted = model("Perhaps \\boxed{12}? No.\n" + behind)
    trace = run_rollout(scripted, config(), family=family).trace
    assert (trace.stop_reason, trace.answer) == ("answered", "42")


def test_a_box_in_thinking_that_was_cut_off_is_no_answer_and_one_is_forced() -> None:
    cut = [Chunk("Perhaps \\boxed{12}? No, that is not", 9, (), "length")]
    settings = config(max_tokens=9, salvage=SalvageConfig())
    trace = run_rollout(model(cut, "42}"), settings, family=families()["qwen3"]).trace
    assert (trace.stop_reason, trace.answer, trace.answer_source) == ("salvaged", "42", "forced")
    lost = run_rollout(model(cut), config(max_tokens=9), family=families()["qwen3"])
    assert (lost.trace.stop_reason, lost.trace.answer) == ("max_tokens", None)
    run_virtual(lost.rollout.guess())
    assert (lost.rollout.trace().answer, lost.rollout.trace().answer_source) == ("12", "guessed")


@pytest.mark.parametrize(("name", "asked"), [("qwen3", 50), ("qwen", 9)])
def test_a_model_that_thinks_has_a_limit_of_its_own(name: str, asked: int) -> None:
    settings = config(max_tokens=9, max_tokens_thinking=50)
    ran = run_rollout(model("</think>\\boxed{42}\n"), settings, family=families()[name])
    assert ran.model.calls[0].sampling.max_tokens == asked
    alone = run_rollout(
        model("</think>\\boxed{42}\n"), config(max_tokens=9), family=families()[name]
    )
    assert alone.model.calls[0].sampling.max_tokens == 9


def test_canonical_form_comes_from_the_caller() -> None:
    ran = run_rollout(
        model("\\boxed{1042}"),
        config(),
        canonicalise=lambda raw: Canonical(str(int(raw) % 1000), None),
    )
    assert (ran.trace.answer, ran.trace.raw_answer) == ("42", "1042")


def test_scripted_kernel_really_computes() -> None:
    assert execute("print(6 * 7)", {}).output == "42\n"
