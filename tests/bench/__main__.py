"""Every benchmark, one figure a line: `python -m tests.bench [NAME…]`. Never fails for a figure."""

from __future__ import annotations

import sys

from tests.bench import block, devices, flip, machine, mount, net, ring, store, top, usb, xenbus

BENCHMARKS = {
    "machine": machine.run,
    "ring": ring.run,
    "mount": mount.run,
    "devices": devices.run,
    "store": store.run,
    "xenbus": xenbus.run,
    "net": net.bench,
    "flip": flip.bench,
    "block": block.bench,
    "usb": usb.bench,
    "top": top.bench,
}


def main(names: list[str]) -> int:
    """Run those named, or all."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no such benchmark: {' '.join(unknown)}; there are: {' '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(name)
        for figure in BENCHMARKS[name]():
            print(f"  {figure}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
