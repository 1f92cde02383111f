"""The monitor: what a machine is doing, read from its mounted tree alone, and never from foreign/."""
