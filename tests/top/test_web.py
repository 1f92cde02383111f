"""`xenfs top --web`: in a real browser, on loopback alone, and ended with all that was started."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.conformance.world import Mount
from tests.mounted.command.lab import PROGRAM, line_of, running, wait_ended
from tests.mounted.mount import until
from tests.top.browser import SECONDS, Browser
from tests.top.lab import RING, Lab

pytestmark = pytest.mark.timeout(120)
LISTENING, LOOPBACK = "0A", "0100007F"
"""As /proc/net/tcp has them (proc(5)): TCP_LISTEN, and 127.0.0.1."""
TRY_ELSEWHERE = """
window.kept = [];
document.addEventListener("securitypolicyviolation", event => kept.push(event.effectiveDirective));
fetch("http://example.org/").catch(() => 0);
new Image().src = "http://example.org/picture";
document.head.insertAdjacentHTML("beforeend", "<link rel='stylesheet' href='http://example.org/style'>");
"""
"""Of what a page would have from another site, its own policy keeps all from it, and tells of which kind it was."""
IMAGE_START = b"\x89PNG\r\n\x1a\n"


class Served:
    """`xenfs top --web` of a machine, as soon as it says that it can be opened."""

    def __init__(self, point: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [*PROGRAM, "top", "--web", str(self.port)],
            env={**os.environ, "XEN": point}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            self.said = line_of(self.process)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The address that it has printed."""
        return self.said.partition(" ")[0]

    @property
    def base(self) -> str:
        """The same without the key."""
        return f"http://127.0.0.1:{self.port}/"

    def cookie(self) -> str:
        """What a browser says after it has come by the whole address."""
        status, headers, _ = self.get(self.url.removeprefix(self.base[:-1]))
        assert (status, headers["Location"]) == (303, "/")
        said = headers["Set-Cookie"]
        assert "HttpOnly" in said
        assert "SameSite=Strict" in said
        return said.partition(";")[0]

    def monitors(self) -> list[int]:
        """The processes that it has started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in listed.split()]

    def get(self, path: str = "/", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """What it answers, as a program that is no browser asks."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)) as connection:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """End it, and with it its monitors: its status and what it has said meanwhile."""
        monitors = self.monitors()
        self.process.send_signal(number)
        out, said = self.process.communicate(timeout=SECONDS)
        for pid in monitors:
            wait_ended(pid)
        assert not any(map(running, monitors))
        return self.process.returncode, out + said

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=SECONDS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def listeners(port: int) -> list[str]:
    """The addresses at which somebody listens on a port, of both kinds."""
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTENING and int(number, 16) == port:
                found.append(address)
    return found


@pytest.fixture
def served(lab: Lab) -> Iterator[Served]:
    made = Served(lab.point)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_it_listens_on_loopback_alone(served: Served) -> None:
    assert re.fullmatch(rf"{served.base}\?key=[-\w]{{22}} shows the machine; Ctrl-C ends it", served.said)
    assert listeners(served.port) == [LOOPBACK]


def test_the_monitor_is_in_the_page_and_hears_keys(served: Served, browser: Browser) -> None:
    page = browser.open(served.url)
    page.until("xenfs top", "3 domains", "Domain-0", "alpha", "beta")
    assert len(served.monitors()) == 1
    page.press("3")
    page.until(RING)
    assert page.value("document.title") == "xenfs top"
    picture = page.picture()
    assert picture.startswith(IMAGE_START)
    page.press("?")
    page.until("another pane")
    assert page.picture() != picture
    page.press("q")
    until(lambda: "-closed" in page.value("document.body.className"), SECONDS)
    until(lambda: served.monitors() == [], SECONDS)


def test_nothing_is_fetched_from_elsewhere(served: Served, browser: Browser) -> None:
    page = browser.open(served.url)
    page.until("Domain-0")
    fetched = page.fetched()
    assert {f"{served.base}static/js/textual.js", f"{served.base}static/css/xterm.css"} <= set(fetched)
    ours = (served.base, served.base.replace("http:", "ws:"))
    assert [url for url in fetched if not url.startswith(ours)] == []
    assert page.failed() == []
    assert page.value("document.fonts.check(\"16px 'Roboto Mono'\")") is True
    page.value(TRY_ELSEWHERE)
    until(lambda: page.value("kept.sort().join(' ')") == "connect-src img-src style-src-elem", SECONDS)


def test_each_browser_has_a_monitor_of_its_own(served: Served, browser: Browser) -> None:
    first, second = browser.open(served.url), browser.open(served.url.replace("127.0.0.1", "localhost"))
    first.until("alpha")
    second.until("alpha")
    first.press("3")
    first.until(RING)
    assert RING not in second.text
    assert len(served.monitors()) == 2
    second.close()
    until(lambda: len(served.monitors()) == 1, SECONDS)
    first.press("1")
    first.until("alpha")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_ends_when_the_server_is_stopped(served: Served, browser: Browser, number: signal.Signals) -> None:
    page = browser.open(served.url)
    page.until("Domain-0")
    assert len(served.monitors()) == 1
    assert served.end(number) == (0, "")
    assert listeners(served.port) == []
    until(lambda: "-closed" in page.value("document.body.className"), SECONDS)


def test_all_ends_when_the_server_is_killed(served: Served, browser: Browser) -> None:
    browser.open(served.url).until("Domain-0")
    assert len(served.monitors()) == 1
    assert served.end(signal.SIGKILL) == (-signal.SIGKILL, "")


def test_all_ends_though_the_daemon_does_not_answer(bare: Mount, browser: Browser) -> None:
    served = Served(str(bare.root))
    try:
        page = browser.open(served.url)
        page.until("Domain-0")
        bare.stop()
        page.until("no answer for")
        assert served.end(signal.SIGINT) == (0, "")
    finally:
        bare.go_on()
        served.close()


def test_pages_of_other_sites_do_not_reach_it(served: Served) -> None:
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }  # fmt: skip
    host, upgrade["Cookie"] = f"127.0.0.1:{served.port}", served.cookie()
    assert served.get("/ws", Origin="http://example.org", **upgrade)[0] == 403
    assert served.get("/ws", Origin="null", **upgrade)[0] == 403
    assert served.get("/ws", Origin=f"http://{host}", Host=f"example.org:{served.port}", **upgrade)[0] == 403
    assert served.get("/", Host="example.org", Cookie=served.cookie())[0] == 403
    assert served.get("/", Host="localhost", Cookie=served.cookie())[0] == 200
    status, headers, _ = served.get("/", Cookie=served.cookie())
    assert status == 200
    assert "frame-ancestors 'none'" in (headers["Content-Security-Policy"] or "")
    assert served.monitors() == []


def test_whoever_does_not_know_the_key_sees_nothing(served: Served) -> None:
    known = served.cookie()
    for cookie in (
        "",
        f"{known}x",
        known[:-1],
        known.replace("xenfs-top", "xenfs-pot"),
        "=".join(known.split("=")[:1]),
    ):
        for path in ("/", "/?key=", "/?key=wrong", "/ws", "/static/js/textual.js", "/nowhere"):
            status, _, said = served.get(path, Cookie=cookie)
            assert (status, said) == (403, "open it by the whole address that xenfs top --web has printed\n")
    assert served.get("/static/js/textual.js", Cookie=known)[0] == 200
    assert served.monitors() == []


@pytest.mark.parametrize("port", ["-1", "65536", "1000000"])
def test_a_port_that_is_none(lab: Lab, port: str) -> None:
    assert fails(lab, "--web", port) == f"xenfs top: {port}: a port is 1 to 65535\n"


def test_a_port_that_is_taken(lab: Lab, served: Served) -> None:
    assert fails(lab, "--web", str(served.port)) == f"xenfs top: port {served.port}: Address already in use\n"


def fails(lab: Lab, *words: str) -> str:
    """What it says as it fails."""
    done = subprocess.run(
        [*PROGRAM, "top", *words], capture_output=True, text=True, env={**os.environ, "XEN": lab.point},
        timeout=SECONDS, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr
