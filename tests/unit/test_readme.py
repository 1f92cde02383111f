"""The examples of the READMEs, run as they stand there. Commands of the shell are in tests/mounted."""

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
NAMES = ("README.md", *(f"{room}/README.md" for room in ("xenfs", "drivers", "tools", "tests")))
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
ALL = "\n".join(TEXTS.values())
PYTHON = re.findall(r"^```python\n(.*?)^```$", ALL, re.DOTALL | re.MULTILINE)
SHELL = re.findall(r"^    \$ \.venv/bin/xenfs (.*)\n((?:    .*\n|\n(?=    ))*)", ALL, re.MULTILINE)


def name_of(example: str) -> str:
    """What the reader is to save it as, or what it begins with."""
    return example.splitlines()[0].removeprefix("# ")


@pytest.mark.parametrize("example", PYTHON, ids=name_of)
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
    assert {"crcdev.py", "test_backend.py", "thermometer.py"} <= {name_of(example) for example in PYTHON}
    assert len(SHELL) >= 1


def test_the_first_driver_is_a_pair_and_its_tests() -> None:
    (example,) = (text for text in PYTHON if name_of(text) == "crcdev.py")
    names: dict[str, object] = {}
    exec(example, names)
    assert {"CrcFront", "CrcBack", "test_the_pair", "test_a_frontend_that_lies"} <= set(names)
    assert example in TEXTS["README.md"]


def test_every_target_of_the_makefile_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = re.search(r"`make` lists the other targets: ([^.]*)\.", TEXTS["README.md"])
    assert listed is not None
    named = set(re.findall(r"make ([a-z]+)", ALL)) | set(re.findall(r"`([a-z]+)`", listed[1]))
    assert {"check", "bench", "setup", "clean"} <= named
    assert named <= targets


def test_every_finding_that_is_named_exists() -> None:
    """And every one that exists is named."""
    (table,) = re.findall(r"^\| found \|.*\n\|.*\n((?:\|.*\n)+)", TEXTS["README.md"], re.MULTILINE)
    named = {code for row in table.splitlines() for code in row.split("|")[1].replace(",", " ").split()}
    words = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', (ROOT / "tools/xl/findings.py").read_text()))
    keys = {"event-channel", "ring-ref", "hotplug-status", "hotplug-error"}
    assert named == words - keys


@pytest.mark.parametrize("name", NAMES)
def test_lines_fit(name: str) -> None:
    assert [line for line in TEXTS[name].splitlines() if len(line) > 124] == []
