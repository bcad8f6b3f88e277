r"""Does grading accept a right answer however it is written, and refuse a wrong one?

    uv run python -m benchmarks.grading_styles FILE.jsonl [FILE.jsonl.gz ...] [--limit N]

Each gold answer of the files is written in the styles below, read back by `extract` as from a
model's reply, and compared with the gold as an evaluation does. A second round writes the next
problem's gold instead: what is accepted then, and is not equal by its text, is looked at by hand.
Nothing of the files is stored.
"""

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aimo2.answers import Judge, extract
from aimo2.config import SolveConfig
from aimo2.evals.datasets import load

WRAPPED: dict[str, str] = {
    "box": r"\boxed{@}",
    "box in dollars": r"So $\boxed{@}$.",
    "box in display dollars": "Thus\n$$\\boxed{@}$$",
    "box in brackets": "\\[\n\\boxed{@}\n\\]",
    "box in parentheses": r"It is \(\boxed{@}\).",
    "fbox": r"\fbox{@}",
    "spaces in the box": r"\boxed{  @  }",
    "dollars in the box": r"\boxed{$@$}",
    "parentheses in the box": r"\boxed{\(@\)}",
    "braces in the box": r"\boxed{{@}}",
    "displaystyle": r"\boxed{\displaystyle @}",
    "thin space": r"\boxed{@\,}",
    "negative space": r"\boxed{\!@}",
    "full stop in the box": r"\boxed{@.}",
    "bold box": r"**\boxed{@}**",
    "bold dollars": r"**Answer: $\boxed{@}$**",
    "equation before": r"Hence $x + y = 3$ and the answer is $\boxed{@}$.",
    "corrected box": r"First \boxed{0.123}. No, wait: \boxed{@}",
    "after thinking": "<think>\nmaybe \\boxed{0.123}\n</think>\nSo it is \\boxed{@}",
    "after code": "```python\nprint('\\boxed{9}')\n```\nIt is \\boxed{@}.",
    "text after": r"\boxed{@} is what was asked for. Done!",
    "line breaks in the box": "\\boxed{\n@\n}",
    "the answer is": r"The answer is $@$.",
    "the final answer is": r"Therefore, the final answer is $@$.",
    "answer colon": r"Answer: $@$",
    "final answer colon": r"**Final Answer:** $@$",
    "answer in bold": r"The answer is **$@$**.",
    "answer in brackets": r"The answer is \(@\).",
    "answer in display": "The final answer is\n\\[\n@\n\\]",
    "heading": "### Final Answer\n$\\boxed{@}$",
    "list item": "- so the answer is $\\boxed{@}$",
    "emoji": "✅ $\\boxed{@}$",
    "colour": r"\boxed{\color{blue}{@}}",
    "large": r"\boxed{\Large @}",
    "mathbf": r"\boxed{\mathbf{@}}",
    "left and right": r"\boxed{\left. @ \right.}",
    "named": r"\boxed{x = @}",
    "approximately called equal": r"$x = \boxed{@}$",
    "twice": r"\boxed{@} and again \boxed{@}",
    "capitals": r"THE ANSWER IS $@$.",
    "with a heading mark": "#### $@$",
    "short box": r"So \( \boxed{ @ } \) .",
}
"""Around any answer. `@` is the answer."""

NUMBERS: dict[str, str] = {
    "decimal zero": r"\boxed{@.0}",
    "plus sign": r"\boxed{+@}",
    "over one": r"\boxed{\frac{@}{1}}",
    "dfrac": r"\boxed{\dfrac{@}{1}}",
    "times one": r"\boxed{@ \times 1}",
    "text": r"\boxed{\text{@}}",
    "mathrm": r"\boxed{\mathrm{@}}",
    "unit in text": r"\boxed{@\text{ cm}}",
    "unit word": r"\boxed{@ units}",
    "degrees": r"\boxed{@^\circ}",
    "dollar sign": r"\boxed{\$@}",
    "no braces": r"So \boxed @",
    "plain sentence": "The answer is @.",
    "bold sentence": "The answer is **@**.",
    "leading zeros": r"\boxed{00@}",
}
"""Around an integer of 0 or more."""

_NATURAL = re.compile(r"\d{1,9}")


def written(gold: str) -> dict[str, str]:
    """Style -> a reply that answers with `gold`."""
    styles = WRAPPED | (NUMBERS if _NATURAL.fullmatch(gold) else {})
    replies = {name: form.replace("@", gold) for name, form in styles.items()}
    if _NATURAL.fullmatch(gold):
        replies["thousands"] = rf"\boxed{{{int(gold):,}}}"
        replies["thousands in braces"] = rf"\boxed{{{f'{int(gold):,}'.replace(',', '{,}')}}}"
        replies["full width digits"] = rf"\boxed{{{gold.translate(_WIDE)}}}"
    return replies


_WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}


async def accepts(gold: str, reply: str, config: SolveConfig, judge: Judge) -> bool:
    """Whether a reply counts as right, as in an evaluation."""
    found = extract(reply, several=config.answer_type == "expr")
    if found is None:
        return False
    answer = await judge.canonicalise(found.raw, config.answer_type)
    wanted = await judge.canonicalise(gold, config.answer_type)
    return answer.value is not None and await judge.equal(wanted.value or gold, answer.value)


async def measure(
    golds: Sequence[str], config: SolveConfig, judge: Judge
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Replies a style, those that were refused, and pairs that were wrongly taken as equal."""
    asked: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    taken: list[str] = []
    for at, gold in enumerate(golds):
        for style, reply in written(gold).items():
            asked[style] += 1
            refused[style] += not await accepts(gold, reply, config, judge)
        other = golds[(at + 1) % len(golds)]
        if other != gold and await accepts(gold, rf"\boxed{{{other}}}", config, judge):
            taken.append(f"{gold}  ==  {other}")
    return asked, refused, taken


async def run(files: Sequence[Path], limit: int | None) -> None:
    async with Judge() as judge:
        for path in files:
            data = load(str(path)).subset(limit)
            golds = [item.problem.gold for item in data.items if item.problem.gold]
            config = SolveConfig(answer_type=data.answer_type)
            asked, refused, taken = await measure(golds, config, judge)
            total, bad = asked.total(), refused.total()
            print(f"{path.name}: {len(golds)} golds, {len(asked)} styles, {total} replies,")
            print(f"  {total - bad} accepted ({(total - bad) / total:.2%}); refused by style:")
            for style, count in refused.most_common(12):
                if count:
                    print(f"    {style}: {count} of {asked[style]}")
            print(f"  other problems' golds accepted: {len(taken)} of {len(golds)}")
            for line in taken[:10]:
                print(f"    {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--limit", type=int)
    chosen = parser.parse_args()
    asyncio.run(run(chosen.files, chosen.limit))


if __name__ == "__main__":
    main()
