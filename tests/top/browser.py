"""A browser for tests, and the pages in it."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mounted.mount import until
from tests.need import need_tool

SECONDS = 60.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,700",
    "--remote-debugging-pipe",
)  # fmt: skip
KEEP_TERMINAL = """
Object.defineProperty(Object.prototype, "terminal", {configurable: true, set(made) {
  window.seen = made;
  Object.defineProperty(this, "terminal", {value: made, writable: true, configurable: true});
}});
"""
"""Run before the page's own scripts: from then on its terminal is to be had by the name `seen`."""
SCREEN = """
typeof seen === "undefined" ? "" :
Array.from({length: seen.rows}, (_, row) => seen.buffer.active.getLine(row).translateToString(true)).join("\\n")
"""


class Browser:
    """Headless Chromium with an empty profile, driven by its DevTools protocol over a pair of pipes."""

    def __init__(self, folder: Path) -> None:
        chromium = need_tool("chromium", "chromium")
        theirs, self._write = os.pipe()
        self._read, their_write = os.pipe()
        self._rest, self._last = b"", 0
        self.events: list[dict[str, Any]] = []
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{their_write}', "bash"]
        with (folder / "browser.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*shell, chromium, *FLAGS, f"--user-data-dir={folder}/profile", "about:blank"],
                env={**os.environ, "HOME": str(folder)}, pass_fds=[theirs, their_write], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        os.close(theirs)
        os.close(their_write)

    def ask(self, method: str, session: str = "", **arguments: Any) -> dict[str, Any]:
        """One call of the protocol, and its result; what the browser tells meanwhile is kept in `events`."""
        self._last += 1
        asked = {"id": self._last, "method": method, "params": arguments, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0], method
                piece = os.read(self._read, 1 << 16)
                assert piece, "the browser has ended"
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(line)
            if said.get("id") == self._last:
                assert "error" not in said, said
                result: dict[str, Any] = said["result"]
                return result
            self.events.append(said)

    def open(self, url: str) -> Page:
        """A new page."""
        return Page(self, url)

    def close(self) -> None:
        """End it, with its helpers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)
        os.close(self._read)
        os.close(self._write)


class Page:
    """A page, with the terminal in it."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session: str = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")
        self.ask("Page.addScriptToEvaluateOnNewDocument", source=KEEP_TERMINAL)
        self.ask("Page.navigate", url=url)

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **arguments)

    def value(self, code: str) -> Any:
        """What an expression is."""
        return self.ask("Runtime.evaluate", expression=code)["result"].get("value")

    @property
    def text(self) -> str:
        """What the terminal shows."""
        return str(self.value(SCREEN))

    def until(self, *words: str) -> None:
        """Until all of this is to be seen."""
        try:
            until(lambda: all(word in (text := self.text) for word in words) and bool(text), SECONDS)
        except AssertionError:
            raise AssertionError(f"{words} are not in\n{self.text}") from None

    def press(self, key: str) -> None:
        """A key, as somebody types it who has clicked on the terminal."""
        self.value("seen.focus()")
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self) -> bytes:
        """What it looks like, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot")["data"])

    def fetched(self) -> list[str]:
        """Every address that the page has asked for, by whatever protocol."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") == self.session:
                match event["method"]:
                    case "Network.requestWillBeSent":
                        found.append(event["params"]["request"]["url"])
                    case "Network.webSocketCreated":
                        found.append(event["params"]["url"])
        return found

    def failed(self) -> list[str]:
        """Why it has not got what it asked for; of an icon there is none."""
        entries = [event for event in self.browser.events if event["method"] == "Network.loadingFailed"]
        mine = [event["params"] for event in entries if event["sessionId"] == self.session]
        return [said.get("blockedReason") or said["errorText"] for said in mine]

    def close(self) -> None:
        self.ask("Page.close")
