"""A domain through the files of a mount: the Protocols for a driver that is a process of its own.

Nothing here knows the machine; what a domain can do is what the files of its directory let it do.
"""

from xenfs.domain.mounted.errors import HypervisorGone
from xenfs.domain.mounted.xen import MountedDomain, default_root, open_domain

__all__ = ["HypervisorGone", "MountedDomain", "default_root", "open_domain"]
