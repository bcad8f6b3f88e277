"""The submission notebook, as nbformat 4.5. Knows no files: the notebook reads its settings itself.

Until its own packages are installed the notebook has only the standard library, and it never has
the internet. It installs into a virtual environment of its own, so that nothing of the image is
replaced, and pip runs from its own wheel, so that the image need not have it.
"""

import json
from typing import Any

NAME = "submission.ipynb"

_INTRODUCTION = """\
# aimo2

Answers the competition's problems. Attach the bundle as a data set and run all cells: the internet
is not used. In the competition's own run the last cell serves until the gateway has finished;
anywhere else it asks the bundle's own `problems.csv` through a local gateway and writes
`submission.parquet`.
"""

_FIND = """\
import hashlib, json, os, shutil, socket, subprocess, sys, tempfile, time, venv, zipfile
from pathlib import Path

STARTED = time.time()
MARK = "aimo2-bundle.json"


def find_bundle():
    "The bundle's folder: AIMO2_BUNDLE, this folder, or one of the attached data sets."
    named = os.environ.get("AIMO2_BUNDLE")
    for place in [Path(named)] if named else [Path.cwd(), Path("/kaggle/input")]:
        for depth in ("", "*/", "*/*/", "*/*/*/"):
            for mark in sorted(place.glob(depth + MARK)):
                return mark.parent.resolve()
    raise SystemExit(f"the bundle is not attached: no {MARK} was found")


def run(command):
    "Run a command to its end and show what it says."
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of: {' '.join(map(str, command))}")


BUNDLE = find_bundle()
SETTINGS = json.loads((BUNDLE / MARK).read_text())
WORK = Path(os.environ.get("AIMO2_WORK") or Path.cwd()).resolve()
RERUN = bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))
here = "{}.{}".format(*sys.version_info)
if here != SETTINGS["python"]:
    raise SystemExit(f"this Python is {here}, the wheels are for {SETTINGS['python']}: make the"
                     f" bundle again with --python {here}")
print(f"bundle {BUNDLE}, aimo2 {SETTINGS['version']}")\
"""

_CHECK = """\
def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


wrong = []
for line in (BUNDLE / "SHA256SUMS").read_text().splitlines():
    wanted, name = line.split("  ", 1)
    path = BUNDLE / name
    if path.suffix == ".ipynb":
        continue  # Running it may change it.
    if not path.is_file():
        wrong.append(f"{name} is missing")
    elif digest(path) != wanted:
        wrong.append(f"{name} is damaged")
if wrong:
    raise SystemExit("the bundle is not whole, attach it again: " + "; ".join(wrong))
print(f"checksums are right after {time.time() - STARTED:.0f} s")\
"""

_INSTALL = """\
HOME = Path(tempfile.mkdtemp(prefix="aimo2-"))
if SETTINGS["image_packages"]:
    # What it needs is in the image: only the package itself goes in front of it.
    PYTHON = sys.executable
    (wheel,) = (BUNDLE / "wheels").glob("aimo2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(HOME)
    os.environ["PYTHONPATH"] = str(HOME)
else:
    venv.create(HOME, with_pip=False)
    PYTHON = HOME / ("Scripts" if os.name == "nt" else "bin") / "python"
    (pip,) = (BUNDLE / "wheels").glob("pip-*.whl")
    run([PYTHON, pip / "pip", "install", "--quiet", "--no-index", "--no-compile", "--no-cache-dir",
         "--disable-pip-version-check", "--find-links", BUNDLE / "wheels",
         f"aimo2=={SETTINGS['version']}", *SETTINGS["more"]])
run([PYTHON, "-m", "aimo2", "--version"])
print(f"installed after {time.time() - STARTED:.0f} s")\
"""

_SERVE = """\
def aimo2(*arguments):
    return [str(part) for part in (PYTHON, "-m", "aimo2", "kaggle", *arguments)]


serve = ["serve", *SETTINGS["serve"], "--out", WORK / "exam"]
if SETTINGS["model"]:
    model = BUNDLE / SETTINGS["model"]  # an absolute path stays itself
    if not model.is_file():
        raise SystemExit(f"there is no model at {model}: attach it, or make the bundle with it")
    serve += ["--model", model]

if RERUN:
    # The gateway of the competition calls; it ends this notebook when it has finished.
    run(aimo2(*serve, "--elapsed", f"{time.time() - STARTED:.1f}"))
else:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shutil.rmtree(WORK / "exam", ignore_errors=True)  # another run's answers would be given again
    log = (WORK / "serve.log").open("w")
    here = [*serve, *SETTINGS["serve_here"], "--port", port]
    server = subprocess.Popen(aimo2(*here), stdout=log, stderr=log)
    try:
        run(aimo2("gateway", BUNDLE / SETTINGS["problems"], "--port", port, "--out", WORK,
                  "--fresh"))
    finally:
        server.terminate()
        server.wait()
        log.close()
        print((WORK / "serve.log").read_text())\
"""


def notebook() -> dict[str, Any]:
    """The notebook as the JSON object that nbformat describes."""
    cells = [
        _cell("introduction", "markdown", _INTRODUCTION),
        _cell("find-bundle", "code", _FIND),
        _cell("check", "code", _CHECK),
        _cell("install", "code", _INSTALL),
        _cell("serve", "code", _SERVE),
    ]
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebook_text() -> str:
    """The same as a file's text."""
    return json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"


def _cell(identity: str, kind: str, source: str) -> dict[str, Any]:
    lines = source.rstrip("\n").splitlines(keepends=True)
    cell: dict[str, Any] = {"id": identity, "cell_type": kind, "metadata": {}, "source": lines}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell
