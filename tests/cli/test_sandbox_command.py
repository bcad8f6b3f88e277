import subprocess
import sys
from pathlib import Path


def aimo2(*args: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aimo2", "sandbox", *args],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_file_runs_as_one_cell_with_its_last_value_shown(tmp_path: Path) -> None:
    path = tmp_path / "cell.py"
    path.write_text("from sympy import *\nprint('so')\nfactorint(20)\n")
    done = aimo2("run", str(path))
    assert (done.stdout, done.returncode) == ("so\n{2: 2, 5: 1}\n", 0), done.stderr


def test_a_failed_cell_keeps_its_output_and_says_why() -> None:
    done = aimo2("run", "-", typed="print(1)\nnope\n")
    assert (done.stdout, done.returncode) == ("1\n", 1)
    assert "NameError" in done.stderr.splitlines()[-1]


def test_a_cell_that_never_ends_is_stopped() -> None:
    done = aimo2("run", "-", "--timeout", "0.5", typed="print(1, flush=True)\nwhile True: pass\n")
    assert (done.stdout, done.returncode) == ("1\n", 1)
    assert "TimeoutError" in done.stderr


def test_what_is_imported_beforehand_can_be_chosen() -> None:
    code = "import sys\nprint('sympy' in sys.modules, 'numpy' in sys.modules)\n"
    done = aimo2("run", "-", "--preload", "numpy", typed=code)
    assert done.stdout == "False True\n", done.stderr


def test_a_module_that_is_not_installed_is_named() -> None:
    done = aimo2("run", "-", "--preload", "numpy,no_such_module", typed="print(1)\n")
    assert (done.stdout, done.returncode) == ("1\n", 0)
    assert done.stderr == "not installed: no_such_module\n"


def test_a_missing_file_is_one_line() -> None:
    done = aimo2("run", "no-such-file.py")
    assert done.returncode == 2
    assert done.stderr == "aimo2: cannot read no-such-file.py: No such file or directory\n"


def test_typed_cells_share_variables_and_forks_do_not() -> None:
    typed = (
        "x = 1\nfor i in range(2):\n    x += 1\n\nx\n"
        "%fork\nx = 99\nx\n%back\nx\nnope\nx + 1\n%layers\n%quit\n"
    )
    done = aimo2("repl", typed=typed)
    assert (done.stdout, done.returncode) == ("3\n99\n3\n4\n", 0), done.stderr
    assert "NameError" in done.stderr
    assert "seccomp: " in done.stderr
