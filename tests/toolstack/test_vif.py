"""A vif line of a configuration: what becomes of it, and what is wrong with it, in words."""

from __future__ import annotations

import re

import pytest
from xl import vif

from xenfs.commands.failure import Unable
from xenfs.xenbus import Device


def test_what_a_line_says() -> None:
    words = (
        "mac=00:16:3E:00:00:0a",
        "bridge=br1",
        "vifname=card",
        "ip=10.0.0.1 10.1.0.0/16",
        "rate=10Mb/s",
        "mtu=9000",
    )
    found = vif.parse(",".join([*words, "backend=driver", "rx=copy"]), 7, 2, {"driver": 3}.__getitem__)
    assert found.device == Device("vif", 7, 2, 3)
    expected = {
        "mac": "00:16:3e:00:00:0a",
        "bridge": "br1",
        "vifname": "card",
        "ip": "10.0.0.1 10.1.0.0/16",
        "rate": "62500,50000",
        "mtu": "9000",
        "handle": "2",
        "script": "/etc/xen/scripts/vif-bridge",
        "rx": "copy",
    }
    assert {name: found.back[name] for name in expected} == expected
    assert found.fixed == {"mtu": "9000"}
    assert found.front["mac"] == "00:16:3e:00:00:0a"


def test_what_an_empty_line_says() -> None:
    found = vif.parse("", 7, 0, int)
    assert re.fullmatch("00:16:3e:[0-7][0-9a-f](:[0-9a-f]{2}){2}", found.back["mac"])
    assert (found.back["bridge"], found.fixed) == ("xenbr0", {"mtu": "1500"})
    assert "mtu" not in found.back
    assert "bridge" not in vif.parse("script=vif-route,ip=10.0.0.1", 7, 0, int).back


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mac=00:16:3e:00:00", "mac is six bytes in hexadecimal with colons, and no group address"),
        ("mac=01:16:3e:00:00:00", "and no group address"),
        ("bridge=sixteen-letters-", "bridge is the name of an interface, of 15 characters at most"),
        ("vifname=a/b", "vifname is the name of an interface"),
        ("vifname=a b", "vifname is the name of an interface"),
        ("ip=10.0.0.300", "ip: '10.0.0.300' does not appear to be an IPv4 or IPv6 network"),
        ("rate=fast", "'fast' is no rate such as 10Mb/s"),
        ("mtu=67", "mtu is a number from 68 to 65535"),
        ("devid=x", "devid is a number from 0"),
        ("rx=never", "rx is flip or copy"),
        ("colour=red", "unknown key colour; known are mac, bridge"),
        ("mac=00:16:3e:00:00:01,mac=00:16:3e:00:00:01", "mac twice"),
    ],
)
def test_what_is_wrong_is_named(line: str, words: str) -> None:
    with pytest.raises(Unable, match=re.escape(words)):
        vif.parse(line, 1, 0, int)
