"""The monitor in a browser, on loopback.

textual-serve does it, with its scripts from its own files. Four things are ours: only whoever knows the key that is in
the printed address sees the machine, since loopback is everybody's; no page of another site reaches it through the
browser, nothing is fetched from elsewhere, and whatever was started ends with the server.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import sys
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

from xenfs.commands.failure import Unable

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost")
_MONITOR = (
    "import sys; from xenfs.commands.child import die_with_parent; die_with_parent(); "
    "from xentop.app import watch; watch(sys.argv[1], 0.5, 'domains')"
)
_FONT = re.compile(r"<link[^>]*https://fonts\.googleapis\.com[^>]*>")
_FACE = (
    "<title>xenfs top</title><style>@font-face { font-family: 'Roboto Mono'; "
    "src: url('/static/fonts/RobotoMono-VariableFont_wght.ttf'); }</style>"
)
_END_SECONDS = 2.0


@web.middleware
async def _ours_alone(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a page of another site has the browser ask, also one whose name leads here by now."""
    origin = request.headers.get("Origin", f"http://{request.host}")
    if request.host.partition(":")[0] not in _NAMES or origin != f"http://{request.host}":
        raise web.HTTPForbidden(text=f"open it as http://{_HOST} or http://localhost, in a page of its own\n")
    return await handler(request)


class _Key:
    """Who may see it: whoever has come by the whole address, and by a cookie remembers having done so."""

    def __init__(self, port: int) -> None:
        """A new one. Cookies do not tell ports apart, so the port is in its name."""
        self._name, self.text = f"xenfs-top-{port}", secrets.token_urlsafe(16)

    def _is(self, said: str | None) -> bool:
        return said is not None and secrets.compare_digest(said.encode(errors="replace"), self.text.encode())

    @web.middleware
    async def asked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer nobody else."""
        if self._is(request.query.get("key")) and request.path == "/":
            answer = web.HTTPSeeOther("/")
            answer.set_cookie(self._name, self.text, httponly=True, samesite="Strict")
            return answer
        if not self._is(request.cookies.get(self._name)):
            raise web.HTTPForbidden(text="open it by the whole address that xenfs top --web has printed\n")
        return await handler(request)


async def _fetch_nothing(request: web.Request, response: web.StreamResponse) -> None:
    allowed = f"default-src 'self' 'unsafe-inline' data:; connect-src ws://{request.host}; frame-ancestors 'none'"
    response.headers["Content-Security-Policy"] = allowed


class _Server(Server):
    """textual-serve's, at whatever name and port the browser has come by, and with an end."""

    key: _Key

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """The page, with the font that is here."""
        self.public_url = f"http://{request.host}"
        page: web.Response = await super().handle_index(request)  # type: ignore[assignment]
        page.text = _FONT.sub(_FACE, page.text or "")
        return page

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A browser's monitor, for as long as it stays."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            return await super().handle_websocket(request)
        finally:
            self._open.discard(task)

    async def on_shutdown(self, app: web.Application) -> None:
        """End all of them."""
        del app
        for task in self._open:
            task.cancel()

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing yet: it cannot be opened."""

    async def app(self) -> web.Application:
        """What aiohttp is to serve."""
        self._open = set[asyncio.Task[Any]]()
        made = await self._make_app()
        made.middlewares.extend((_ours_alone, self.key.asked))
        made.on_response_prepare.append(_fetch_nothing)
        return made


def serve(point: str, port: int) -> None:
    """Serve it until Ctrl-C: a monitor of its own for every browser. Raises Unable."""
    if not 0 < port < 1 << 16:
        raise Unable(f"{port}: a port is 1 to 65535")
    os.environ["XEN"] = point
    monitor = f"exec {shlex.join([sys.executable, '-c', _MONITOR, point])}"
    server = _Server(monitor, host=_HOST, port=port, title="xenfs top")
    server.key = _Key(port)
    address = f"http://{_HOST}:{port}/?key={server.key.text}"
    try:
        web.run_app(
            server.app(), host=_HOST, port=port, access_log=None, shutdown_timeout=_END_SECONDS,
            print=lambda _: print(f"{address} shows the machine; Ctrl-C ends it", flush=True),
        )  # fmt: skip
    except OSError as error:
        raise Unable(f"port {port}: {os.strerror(error.errno or 0)}") from None
