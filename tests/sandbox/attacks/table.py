"""Write the table of attacks by layer into `docs/sandbox.md`, from what happens on this machine.

python -m tests.sandbox.attacks.table
"""

import platform
from pathlib import Path

from tests.sandbox.attacks.test_attacks import SETS, UNPRIVILEGED, USERS, active, outcome

DOCUMENT = Path(__file__).parents[3] / "docs" / "sandbox.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"


def table() -> str:
    """Markdown: one row an attack, one column a set of layers and a user."""
    columns = [
        (layers, user)
        for user in USERS
        for layers in SETS
        if user == "self" or layers in UNPRIVILEGED
    ]
    results = {column: outcome(*column)["stopped"] for column in columns}
    titles = [layers if user == "self" else f"{layers}, unprivileged" for layers, user in columns]
    lines = [
        f"Measured on {platform.system()} {platform.release().split('-')[0]}, "
        f"{platform.machine()}, Python {platform.python_version()}"
        f"{', as root' if 'nobody' in USERS else ''}. ✔ stopped, ✘ succeeded.",
        "",
        "| attack | " + " | ".join(titles) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for attack in next(iter(results.values())):
        marks = ["✔" if results[column][attack] else "✘" for column in columns]
        lines.append(f"| {attack} | " + " | ".join(marks) + " |")
    lines += ["", "Layers that were active in each column:", ""]
    for title, column in zip(titles, columns, strict=True):
        on = sorted(active(*column) - {"always"})
        lines.append(f"- {title}: {', '.join(on) or 'none'}")
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the marks."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
