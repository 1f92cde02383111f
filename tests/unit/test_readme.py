"""The README's examples, run as they stand there."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.conformance.world import need_mount

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"^    \$ \.venv/bin/xenfs (.*)\n((?:    .*\n|\n(?=    ))*)", README, re.MULTILINE)


@pytest.mark.parametrize("example", PYTHON, ids=range(len(PYTHON)))
def test_a_python_example_runs_and_prints_what_it_says(example: str, tmp_path: Path) -> None:
    if re.search(r"def test_\w+\(\w", example):  # it has fixtures, so it is pytest's
        need_mount()
        (tmp_path / "test_example.py").write_text(example)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert "1 passed" in done.stdout, done.stdout
        return
    names: dict[str, object] = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(example, names)
        for name, value in list(names.items()):
            if name.startswith("test_") and callable(value):
                value()
    assert printed.getvalue().splitlines() == re.findall(r"print\(.*\)\s+# (.*)", example)


@pytest.mark.parametrize(("words", "output"), SHELL)
def test_a_command_prints_what_it_says(words: str, output: str) -> None:
    program = "from xenfs.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()], capture_output=True, text=True, timeout=60, check=True
    )
    expected = "\n".join(line.removeprefix("    ") for line in output.splitlines())
    assert done.stdout.strip() == expected.strip()


def test_the_example_of_a_usb_device_is_the_one_that_is_tested() -> None:
    (example,) = (text for text in PYTHON if "class Thermometer" in text)
    tested = (ROOT / "tests/usb/thermometer.py").read_text()
    classes = [[ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
               for text in (example, tested.replace("        del endpoint  # there is one\n", ""))]  # fmt: skip
    assert classes[0] == classes[1]


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 2
    assert len(SHELL) >= 1


def test_every_target_of_the_makefile_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", README)) | {"check", "bench", "setup", "clean"}
    assert named <= targets
