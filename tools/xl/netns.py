"""Network namespaces: a guest's is that of its keeper, so it goes with it and leaves nothing."""

from __future__ import annotations

import os

from xenfs.commands.namespace import unshare_net
from xenfs.xenbus.process import OWN_NETWORK


def enter_new() -> bool:
    """Be in a network namespace of one's own, its loopback up; False when that takes root and we are not."""
    if os.geteuid() != 0:
        return False
    from pyroute2 import IPRoute  # slow to import, and only root's guests need it

    unshare_net()
    with IPRoute() as links:
        links.link("set", index=1, state="up")
    os.environ[OWN_NETWORK] = "1"
    return True
