"""The echo frontend."""

import sys

from xenecho import ECHO, LAYOUT
from xenfs.xenbus import Frontend, main
from xenfs.xenbus.end import Values


class EchoFront(Frontend):
    """Sends one number after another, each some time after the last has come back."""

    CLASS = ECHO
    count, pause = 0, 0.01

    def publish(self, their: Values) -> None:
        """Share a ring and a channel; the keys are written when this returns."""
        self.ring = self.share_ring("ring", "ring-ref", LAYOUT)
        self.channel = self.share_channel("event-channel", self.work)

    def connected(self, their: Values) -> None:
        """Send the first."""
        self.send()

    def send(self) -> None:
        """Send a number, and wake the backend if it sleeps."""
        if self.mine and not self.ring.in_flight:
            self.ring.push(self.count % 1000, self.count)
            if self.ring.publish():
                self.channel.notify()

    def work(self) -> None:
        """Take what came back."""
        while True:
            for _, number in self.ring.take():
                if number == self.count:
                    self.count = (number + 1) % (1 << 32)
            if not self.ring.final_check():
                break
        self.later(self.pause, self.send)


if __name__ == "__main__":
    sys.exit(main(EchoFront))
