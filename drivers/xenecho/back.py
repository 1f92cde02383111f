"""The echo backend."""

import sys

from xenecho import ECHO, LAYOUT
from xenfs.xenbus import Backend, main
from xenfs.xenbus.end import Values


class EchoBack(Backend):
    """Sends back what comes."""

    CLASS = ECHO

    def connect(self, their: Values) -> None:
        """Map the ring, and hear of it."""
        self.ring = self.map_ring("ring", [int(their["ring-ref"])], LAYOUT)
        self.channel = self.bind_channel(int(their["event-channel"]), self.work)

    def work(self) -> None:
        """Answer everything."""
        while True:
            self.ring.respond_many(self.ring.take())
            if self.ring.publish():
                self.channel.notify()
            if not self.ring.final_check():
                break


if __name__ == "__main__":
    sys.exit(main(EchoBack))
