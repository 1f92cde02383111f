"""A machine in this process: the three Protocols straight on the model, for tests and teaching without a mount."""

from xenfs.domain.inprocess.xen import InProcessDomain, InProcessXen

__all__ = ["InProcessDomain", "InProcessXen"]
