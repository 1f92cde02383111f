"""What tests share is rewritten by pytest as they are: a failed assertion there tells its values too."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell: whatever is started
    signal.signal(signal.SIGINT, signal.default_int_handler)  # here would ignore Ctrl-C too, for good

pytest.register_assert_rewrite(
    "tests.hostile.rings",
    "tests.hostile.usb_front",
    "tests.hostile.usb_guest",
    "tests.models",
    "tests.mounted.command.lab",
    "tests.top.browser",
    "tests.top.samples",
    "tests.unit.forms",
    "tests.usb.configurations",
    "tests.usb.gadgets",
    "tests.usb.mass",
    "tests.usb.peers",
    "tests.usb.port",
    "tests.usb.real_program",
)

pytest_plugins = "pytester"
