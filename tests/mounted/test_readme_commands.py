"""Every shell command of the READMEs, run as it stands there.

A block ```shell NAME is a part of the script NAME of its README, in which the blocks of that name follow each other.
Its commands begin in the top of a checkout, and what is behind #> must be printed, in that order. A command whose
comment says Ctrl-C is stopped by one. Scripts run as root, with a network, mounts and processes of their own, so that
nothing is left of them whatever happens. The one block ```sh is the tour, which test_tour.py runs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.need import missing, need_tool
from xenfs.commands import checks

ROOT = Path(__file__).parents[2]
READMES = ("README.md", *(f"{room}/README.md" for room in ("xenfs", "drivers", "tools", "tests")))
TEXTS = {name: (ROOT / name).read_text() for name in READMES}
BLOCK = re.compile(r"^```(\w*)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"# ([\w.]+\.\w+)\n")
"""The first line of a block that the reader is to save under that name."""
ENTRY = re.compile(r'^\[project\.entry-points\."([\w.]+)"\]\n((?:\w+ = "[\w.:]+"\n?)+)', re.MULTILINE)

NOT_RUN = {
    "pip install -e .": "it fetches a build backend from the network; here the same metadata is on PYTHONPATH",
    "apt-get install libfuse2 libatomic1": "it changes the system; the packages are compared with debian-packages.txt",
}
"""Commands that stand in a README and are not run, and why."""
PROGRAMS = {"xenfs", "make", "pip", "apt-get", "sudo", "docker", "python", "python3", "pytest", "gcc", "git", "mount",
            "umount", "unshare", "cat", "cd", "export", "mkdir", "echo", "XEN", "ip", "kill", "chown"}  # fmt: skip
"""By these a line is known for a command: such a line stands in a block that is run."""
NEEDS = {
    "gcc": "gcc",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    "timeout": "coreutils",
    "unshare": "util-linux",
    "usbip": "usbip",
    "xenstore-ls": "xenstore-utils",
}
"""What the scripts run, and where it comes from."""


def scripts(text: str) -> dict[str, str]:
    """The shell scripts of a README by name."""
    found: dict[str, str] = {}
    for kind, name, body in BLOCK.findall(text):
        if kind == "shell":
            assert name, f"a block of the shell needs the name of its script:\n{body}"
            found[name] = found.get(name, "") + body
    return found


SCRIPTS = [(readme, name, script) for readme, text in TEXTS.items() for name, script in scripts(text).items()]


def command_of(line: str) -> str:
    """A line without its comment and without what it prints."""
    return re.sub(r"(^|\s+)#( .*|>.*|$)", "", line)


def as_run(line: str) -> str:
    """What is run for a line."""
    command, comment = command_of(line), line[len(command_of(line)) :]
    if command in NOT_RUN:
        return ""
    if re.match(r"make( |$)", command):
        return f"make -n -C {shlex.quote(str(ROOT))} {command[4:]}"  # CI runs the targets themselves
    if "Ctrl-C" in comment:
        return f"timeout -s INT 2 {command} || [[ $? == 124 || $? == 130 ]]"
    return command


def expected(script: str) -> list[str]:
    return re.findall(r"#> (.*)", script)


def save(text: str, folder: Path) -> None:
    """What the reader of a README has saved, and the metadata that `pip install -e .` would write of it."""
    for kind, _, body in BLOCK.findall(text):
        if (head := SAVED.match(body)) and kind != "shell":
            (folder / head[1]).write_text(body)
    for group, lines in ENTRY.findall(text):
        metadata = folder / "saved-1.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: saved\nVersion: 1\n")
        with (metadata / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n" + lines.replace('"', ""))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("readme", "script"), [(r, s) for r, _, s in SCRIPTS], ids=[f"{r}: {n}" for r, n, _ in SCRIPTS]
)
def test_the_commands_run_and_print_what_they_say(readme: str, script: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("namespaces, network cards and disks need root")
    if problem := checks.obstacle():
        missing(problem)
    for tool, package in NEEDS.items():
        need_tool(tool, package)
    work = tmp_path / "work"
    work.mkdir()
    save(TEXTS[readme], work)
    path = tmp_path / "script"
    path.write_text("".join(f"{as_run(line)}\n" for line in script.splitlines()))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XEN", "PYTEST"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
        "PYTHONPATH": str(work),
        "WORK": str(work),
        "TMPDIR": str(work),
        "COLUMNS": "200",
    }
    alone = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        ["timeout", "-s", "KILL", "150", *alone, "bash", "-eu", str(path)],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    rest = done.stdout
    for wanted in expected(script):
        _, found, rest = rest.partition(wanted)
        assert found, f"{wanted!r} is not printed, or too early:\n{done.stdout}"


def test_every_command_stands_in_a_block_that_is_run() -> None:
    for readme, text in TEXTS.items():
        assert [kind for kind, _, _ in BLOCK.findall(text) if kind not in ("shell", "sh", "python", "toml")] == []
        assert (readme == "README.md") == ("```sh\n" in text)
        for line in BLOCK.sub("", text).splitlines():
            if line.startswith("    ") and (words := line.split()):
                assert re.split(r"[=;]", words[0])[0] not in PROGRAMS, f"{readme}: {line}"


def test_what_is_not_run_stands_in_a_readme_and_is_otherwise_right() -> None:
    commands = {command_of(line) for _, _, script in SCRIPTS for line in script.splitlines()}
    assert set(NOT_RUN) <= commands
    listed = (ROOT / "xenfs/debian-packages.txt").read_text()
    (packages,) = (line.split()[2:] for line in NOT_RUN if line.startswith("apt-get"))
    assert all(re.search(rf"^{package} ", listed, re.MULTILINE) for package in packages)


# What is mentioned in the text, and not run.


def _spans(pattern: str) -> list[str]:
    """Pieces of code within the text."""
    return [span for text in TEXTS.values() for span in re.findall(rf"`({pattern})`", BLOCK.sub("", text))]


def test_every_mention_of_the_command_is_right() -> None:
    from typer.main import get_command

    from xenfs.cli import app

    root = get_command(app())
    known = root.commands  # type: ignore[attr-defined]
    assert len(_spans("xenfs [^`]+")) > 30
    for span in _spans("xenfs [^`]+"):
        words = span.replace("\\|", "|").split(" -- ")[0].replace("[", " ").replace("]", " ").split()[1:]
        for name in words[0].split("|"):
            assert name.startswith("--") or name in known, span
            for word in words[1:]:
                made = [known[name], *getattr(known[name], "commands", {}).values()]
                options = {option for command in made for param in command.params for option in param.opts}
                assert not word.startswith("-") or word in options, f"{span}: {name} has no {word}"
            if sub := getattr(known.get(name), "commands", None):
                assert set(words[1].split("|")) <= set(sub), span


def test_every_module_that_is_to_be_run_is_there() -> None:
    for span in _spans(r"(?:\.venv/bin/)?python -m [\w.]+[^`]*"):
        assert find_spec(span.split()[2]) is not None, span


def test_every_file_and_link_is_there() -> None:
    for readme, text in TEXTS.items():
        room, prose = (ROOT / readme).parent, BLOCK.sub("", text)
        inside = sorted(path.name for path in room.iterdir() if (path / "__init__.py").exists())
        assert readme == "README.md" or [name for name in inside if name not in prose] == []
        for path in re.findall(r"`((?:xenfs|drivers|tools|tests|\.ci|\.pictures)/[\w./-]+)`", prose):
            assert (ROOT / path).exists(), f"{readme}: {path}"
        for link in re.findall(r"\]\(([^)]+)\)", prose):
            path, _, anchor = link.partition("#")
            target = room / path if path else ROOT / readme
            assert target.exists(), f"{readme}: {link}"
            assert not anchor or anchor in _anchors(target.read_text()), f"{readme}: {link}"


def _anchors(text: str) -> set[str]:
    """Headings as GitHub names them."""
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
