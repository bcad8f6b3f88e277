"""What a rollout reads after its code ran: the output block and, after an error, a hint. Pure text.

Knows no kernels and no models.
"""

from aimo2 import prompts
from aimo2.parse import CodeBlock, cut_middle, indent_lines
from aimo2.sandbox import CellResult
from aimo2.types import CodeRun


def code_run(code: str, result: CellResult, output_chars: int) -> CodeRun:
    """The record of a cell, its output as the model sees it: at most about `output_chars`."""
    shown, cut = _shown(result, output_chars)
    return CodeRun(
        code=code,
        output=shown,
        error=result.error,
        seconds=result.seconds,
        truncated=cut or result.bytes_dropped > 0,
    )


def _shown(result: CellResult, limit: int) -> tuple[str, bool]:
    """Output and traceback as the model sees them, and whether something was cut."""
    trace, trace_cut = cut_middle(result.traceback.strip("\n"), limit)
    room = max(limit - len(trace), limit // 4)
    output, output_cut = cut_middle(result.output.strip("\n"), room)
    parts = [part for part in (output, trace) if part]
    shown = "\n".join(parts) or prompts.SILENT_OUTPUT
    return _defused(shown), trace_cut or output_cut


def output_block(text: str, block: CodeBlock, run: CodeRun, hint: str) -> str:
    """What is put behind a code block: its output in the same indentation, and a hint.

    `text`: the turn up to the end of the block. `hint`: one line, or empty for none.
    """
    before = line_break(text)
    if not block.closed:
        before += f"{block.indent}{block.fence}\n"
    fence = _longer_fence(run.output)
    body = indent_lines(f"{fence}output\n{run.output}\n{fence}", block.indent)
    after = f"{block.indent}{hint}\n" if hint else ""
    return f"{before}{body}\n{after}"


def line_break(text: str) -> str:
    """What has to stand behind `text` so that a line can begin there."""
    return "" if text.endswith("\n") or not text else "\n"


def _defused(output: str) -> str:
    """Printed special tokens, such as an end of turn, must stay text for the server."""
    return output.replace("<|", "< |")


def _longer_fence(output: str) -> str:
    """Three backticks, or one more than the longest run of them in the output."""
    fence = "```"
    while fence in output:
        fence += "`"
    return fence
