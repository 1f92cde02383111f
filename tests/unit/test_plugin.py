"""The pytest plugin, used as by somebody who tests drivers of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.world import need_mount

pytestmark = pytest.mark.timeout(100)
HELD = """
    def test_leaves_a_grant(xen):
        domain = xen.domain(xen.create_domain())
        domain.memory.grant(domain.memory.alloc(), 0)
"""
MOUNTED = """
    def test_pages(xen_mount):
        one, two = xen_mount.create_domain(), xen_mount.create_domain()
        with xen_mount.domain(one) as front, xen_mount.domain(two) as back:
            frames = front.memory.alloc()
            refs = front.memory.grant(frames, two)
            with front.memory.view(frames) as mine, back.memory.map(one, refs) as theirs:
                mine[:5] = b"hello"
                assert bytes(theirs[:5]) == b"hello"
"""
PROCESS = """
    import subprocess, sys

    PROGRAM = '''
    import sys
    from xenfs.domain.mounted import open_domain
    with open_domain() as domain:
        domain.memory.grant(domain.memory.alloc(), 0)
        print(domain.domid, flush=True)
        sys.stdin.read()
    '''

    def test_a_process(xen_mount):
        domid = xen_mount.create_domain()
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=xen_mount.environment(domid),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == f"{domid}\\n"
            END
        finally:
            xen_mount.after = process
"""


@pytest.fixture
def user(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of somebody's tests; ours must not be what they find."""
    monkeypatch.delenv("XENFS_REQUIRE", raising=False)
    return pytester


def run(user: pytest.Pytester, source: str, *words: str) -> pytest.RunResult:
    user.makepyfile(source)
    return user.runpytest_subprocess("-p", "no:cacheprovider", *words, timeout=60)


def test_a_clean_test_passes(user: pytest.Pytester) -> None:
    run(user, "def test_it(xen, domain):\n    domain.memory.free(domain.memory.alloc())").assert_outcomes(passed=1)


def test_what_is_left_is_listed(user: pytest.Pytester) -> None:
    result = run(user, HELD)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*still held at the end:*", "*grant 8 of domain 1*"])
    assert "def xen(" not in result.stdout.str(), "of no use to who reads it"


def test_a_failure_is_not_hidden_by_what_it_left(user: pytest.Pytester) -> None:
    result = run(user, HELD + "        assert domain.domid == 77\n")
    result.assert_outcomes(failed=1)
    assert "still held" not in result.stdout.str()


def test_a_mount_for_a_test_and_nothing_left_of_it(user: pytest.Pytester) -> None:
    need_mount()
    result = run(user, MOUNTED + MOUNTED.replace("test_pages", "test_more"))
    result.assert_outcomes(passed=2)
    assert str(user.path) not in Path("/proc/self/mountinfo").read_text()


def test_what_a_process_still_holds_is_listed(user: pytest.Pytester) -> None:
    need_mount()
    result = run(user, PROCESS.replace("END", "pass"))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*still held at the end:*", "*domain 1 (domain-1): 1 frames granted*"])
    assert "def xen_mount(" not in result.stdout.str()


def test_what_a_dead_process_held_is_no_leak(user: pytest.Pytester) -> None:
    need_mount()
    run(user, PROCESS.replace("END", "process.kill(); process.wait()")).assert_outcomes(passed=1)


def test_a_test_that_hangs_ends_in_time(user: pytest.Pytester) -> None:
    need_mount()
    user.makeini("[pytest]\nxenfs_timeout = 2")
    source = """
        import os, signal
        def test_hangs(xen_mount):
            os.kill(xen_mount.pid, signal.SIGSTOP)
            (xen_mount.root / "hypervisor" / "version").read_text()
    """
    began = time.monotonic()
    run(user, source).assert_outcomes(failed=1)
    assert time.monotonic() - began < 30


def test_a_daemon_that_dies_fails_the_test(user: pytest.Pytester) -> None:
    need_mount()
    source = "import os\ndef test_kills(xen_mount):\n    os.kill(xen_mount.pid, 9)"
    result = run(user, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the daemon has died*"])


NO_FUSE = """
    import xenfs.commands.checks

    def pytest_configure():
        xenfs.commands.checks.obstacle = lambda: "/dev/fuse: it is missing"
"""


@pytest.mark.parametrize("required", [False, True])
def test_without_fuse_it_skips_or_fails(user: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: bool) -> None:
    user.makeconftest(NO_FUSE)
    if required:
        monkeypatch.setenv("XENFS_REQUIRE", "1")
    result = run(user, MOUNTED, "-rs")
    result.assert_outcomes(errors=1) if required else result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*/dev/fuse: it is missing*"])


def test_the_fixtures_are_documented(user: pytest.Pytester) -> None:
    result = user.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider")
    for name in ("xen", "xen_mount", "domain"):
        result.stdout.re_match_lines([rf"{name} -- .*pytest_plugin\.py"])
    assert "no docstring available" not in result.stdout.str()


def test_loading_the_plugin_costs_nothing() -> None:
    code = "import sys, pytest, xenfs.pytest_plugin; print(*sorted(m for m in sys.modules if m.startswith('xenfs')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["xenfs", "xenfs.pytest_plugin"]
