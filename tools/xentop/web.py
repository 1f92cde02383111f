"""The monitor in a browser, on loopback."""

from __future__ import annotations

import os
import shlex
import sys

from textual_serve.server import Server


def serve(point: str, port: int) -> None:
    """Serve it until Ctrl-C: a monitor of its own for every browser."""
    os.environ["XEN"] = point
    Server(shlex.join([sys.executable, "-m", "xenfs", "top"]), host="127.0.0.1", port=port, title="xenfs top").serve()
