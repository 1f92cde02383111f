"""One end of a transfer: `python -m xl.demo.pour serve PORT MIB` sends so much to whoever connects, `fetch HOST PORT`
takes it. Each prints bytes, seconds and checksum (CRC-32) at the end."""

from __future__ import annotations

import os
import socket
import sys
import time
import zlib

_PIECE = 1 << 20


def serve(port: int, mebibytes: int) -> str:
    """Send, once; says `ready` when somebody may connect."""
    piece = os.urandom(_PIECE)
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("ready", flush=True)
        peer, _ = server.accept()
        began, said = time.perf_counter(), 0
        with peer:
            for _ in range(mebibytes):
                peer.sendall(piece)
                said = zlib.crc32(piece, said)
    return f"{mebibytes * _PIECE} {time.perf_counter() - began:.3f} {said:08x}"


def fetch(host: str, port: int) -> str:
    """Take everything."""
    room = memoryview(bytearray(_PIECE))
    with socket.create_connection((host, port), timeout=30) as peer:
        began, said, taken = time.perf_counter(), 0, 0
        while size := peer.recv_into(room):
            taken += size
            said = zlib.crc32(room[:size], said)
    return f"{taken} {time.perf_counter() - began:.3f} {said:08x}"


def main(words: list[str]) -> None:
    """Be the one or the other."""
    what, first, second = words
    print(serve(int(first), int(second)) if what == "serve" else fetch(first, int(second)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
