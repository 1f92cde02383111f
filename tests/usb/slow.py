"""A device that does not change its setting before it is told to."""

from __future__ import annotations

from xenusb.descriptors import TO_INTERFACE, Ask
from xenusb.device import Transfer
from xenusb.loopback import Loopback


class Slow(Loopback):
    """A loop-back. The next request that is not of that kind lets it go on."""

    _held: Transfer | None = None

    def submit(self, transfer: Transfer) -> None:
        """See UsbDevice."""
        if transfer.setup is not None and transfer.setup.is_standard(Ask.set_interface, TO_INTERFACE):
            self._held = transfer
            return
        held, self._held = self._held, None
        if held is not None:
            super().submit(held)
        super().submit(transfer)
