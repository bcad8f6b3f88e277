"""Pin every direct and transitive dependency in pyproject.toml to what resolves today.

    uv run scripts/refresh_pins.py           # newest versions
    uv run scripts/refresh_pins.py --check   # exit 1 where a dependency has no pin

The lock file itself is not kept, because it names the package index's hosts.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(# BEGIN PINS[^\n]*\n).*?(# END PINS)", re.DOTALL)


def resolve(project: Path, *, keep_pins: bool) -> list[str]:
    """`name==version ; marker` for every package of every group, on every platform."""
    text = project.joinpath("pyproject.toml").read_text()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        if not keep_pins:
            text = BLOCK.sub(r"\1constraint-dependencies = []\n\2", text)
        (copy / "pyproject.toml").write_text(text)
        for name in ("README.md", "LICENSE"):
            shutil.copy(project / name, copy / name)
        (copy / "src" / "aimo2").mkdir(parents=True)
        (copy / "src" / "aimo2" / "__init__.py").touch()
        subprocess.run(["uv", "lock", "--quiet"], cwd=copy, check=True)
        lock = tomllib.loads((copy / "uv.lock").read_text())
    pins = []
    for package in lock["package"]:
        if "registry" not in package["source"]:
            continue
        markers = package.get("resolution-markers")
        marker = " ; " + " or ".join(f"({m})" for m in markers) if markers else ""
        pins.append(f"{package['name']}=={package['version']}{marker}")
    return sorted(pins)


def main() -> int:
    """Rewrite or check the pins; returns the exit code."""
    pyproject = ROOT / "pyproject.toml"
    if "--check" in sys.argv[1:]:
        pinned = tomllib.loads(pyproject.read_text())["tool"]["uv"]["constraint-dependencies"]
        # Versions only: the same resolution may word its markers differently from day to day.
        known = {pin.partition(" ;")[0] for pin in pinned}
        missing = {pin.partition(" ;")[0] for pin in resolve(ROOT, keep_pins=True)} - known
        for pin in sorted(missing):
            print(f"not pinned: {pin} (run: uv run scripts/refresh_pins.py)")
        return 1 if missing else 0
    pins = resolve(ROOT, keep_pins=False)
    lines = "".join(f'    "{pin.replace(chr(34), chr(39))}",\n' for pin in pins)
    block = f"constraint-dependencies = [\n{lines}]\n"
    pyproject.write_text(BLOCK.sub(lambda m: m[1] + block + m[2], pyproject.read_text()))
    print(f"{len(pins)} pins written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
