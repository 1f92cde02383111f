"""The table: each case a few rows of (who, transaction, operation, expected)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenfs.abi.xs_wire import XsType as T

OK = b"OK\0"
Ask = Callable[[str, int, int, bytes], bytes]
"""`ask(who, type, transaction, payload)`: who is a domain, and perhaps a letter for one more connection of it."""
Row = tuple[str, int, int, bytes, bytes]


@dataclass(frozen=True)
class Case:
    """Rows in order. `only_socket` for what Linux's dev/xenbus answers in another way than the store."""

    name: str
    rows: tuple[Row, ...]
    only_socket: bool = False


def play(case: Case, ask: Ask) -> None:
    """Ask, and hold every answer against what it must be."""
    for number, (who, tx, kind, payload, expected) in enumerate(case.rows):
        got = ask(who, kind, tx, payload)
        assert got == expected, f"{case.name}, row {number}: {T(kind).name if kind < 27 else kind} {payload!r}"


def case(name: str, *rows: Row, only_socket: bool = False) -> Case:
    return Case(name, rows, only_socket)


def refused(code: bytes, *what: tuple[int, bytes], who: str = "0") -> tuple[Row, ...]:
    return tuple((who, 0, kind, payload, code) for kind, payload in what)


LONG = b"x" * 2048
NO_PATHS = (
    *(b"", b"/a/", b"//a", b"/a//b", b"/a b", b"/*", b"/a$b", b"/a:b", b"/a+b", b"/a,b"),
    *(b"@x", b"/.", b"/..", b"/\xff", b"/a\n"),
)
CASES = (
    case(
        "values",
        ("0", 0, T.WRITE, b"/t/a\0one", OK),
        ("0", 0, T.READ, b"/t/a\0", b"one"),
        ("0", 0, T.WRITE, b"/t/a\0with\0nul", OK),
        ("0", 0, T.READ, b"/t/a\0", b"with\0nul"),
        ("0", 0, T.WRITE, b"/t/a\0", OK),
        ("0", 0, T.READ, b"/t/a\0", b""),
        ("0", 0, T.READ, b"/t\0", b""),
        ("0", 0, T.WRITE, b"/\0root", OK),
        ("0", 0, T.READ, b"/\0", b"root"),
        ("0", 0, T.WRITE, b"/\0", OK),
    ),
    case(
        "directories",
        ("0", 0, T.MKDIR, b"/t/z\0", OK),
        ("0", 0, T.MKDIR, b"/t/a\0", OK),
        ("0", 0, T.WRITE, b"/t/a\0kept", OK),
        ("0", 0, T.MKDIR, b"/t/a\0", OK),
        ("0", 0, T.READ, b"/t/a\0", b"kept"),
        ("0", 0, T.DIRECTORY, b"/t\0", b"z\0a\0"),
        ("0", 0, T.DIRECTORY, b"/t/a\0", b""),
        ("0", 0, T.RM, b"/t/z\0", OK),
        ("0", 0, T.RM, b"/t/z\0", OK),
        ("0", 0, T.RM, b"/t/z/below\0", b"ENOENT"),
        ("0", 0, T.RM, b"/\0", b"EINVAL"),
        ("0", 0, T.DIRECTORY, b"/t/z\0", b"ENOENT"),
    ),
    case(
        "NULs",
        *refused(b"ENOENT", (T.READ, b"/t"), (T.READ, b""), (T.READ, b"/t\0/u\0"), (T.DIRECTORY, b"/t")),
        *refused(b"EINVAL", (T.WRITE, b"/t"), (T.WRITE, b""), (T.SET_PERMS, b"/t\0"), (T.SET_PERMS, b"/t")),
        *refused(b"ENOMEM", (T.MKDIR, b"/t"), (T.RM, b"/t"), (T.MKDIR, b"/t\0/u\0")),
    ),
    case(
        "paths",
        *refused(b"EINVAL", *((T.READ, path + b"\0") for path in NO_PATHS)),
        *refused(b"EINVAL", *((T.WRITE, path + b"\0") for path in NO_PATHS)),
        *refused(b"EINVAL", (T.READ, b"/" + LONG + b"\0"), (T.READ, b"/local/domain/0/" + LONG + b"x\0")),
        ("0", 0, T.READ, b"/local/domain/0/" + LONG + b"\0", b"ENOENT"),
        ("0", 0, T.WRITE, b"/A-Z_@09\0ok", OK),
        ("0", 0, T.RM, b"/A-Z_@09\0", OK),
        ("0", 0, T.WRITE, b"data/rel\0ative", OK),
        ("0", 0, T.READ, b"/local/domain/0/data/rel\0", b"ative"),
        ("0", 0, T.RM, b"data/rel\0", OK),
    ),
    case(
        "permissions",
        ("0", 0, T.WRITE, b"/t/a\0x", OK),
        ("0", 0, T.GET_PERMS, b"/t/a\0", b"n0\0"),
        ("0", 0, T.SET_PERMS, b"/t/a\0n0\0r1\0b2\0", OK),
        ("0", 0, T.GET_PERMS, b"/t/a\0", b"n0\0r1\0b2\0"),
        ("0", 0, T.WRITE, b"/t/a/child\0", OK),
        ("0", 0, T.GET_PERMS, b"/t/a/child\0", b"n0\0r1\0b2\0"),
        ("1", 0, T.READ, b"/t/a\0", b"x"),
        ("1", 0, T.WRITE, b"/t/a\0y", b"EACCES"),
        ("1", 0, T.READ, b"/t/a/no\0", b"ENOENT"),
        ("1", 0, T.READ, b"/t/no\0", b"EACCES"),
        ("1", 0, T.RM, b"/t/a\0", b"EACCES"),
        ("1", 0, T.SET_PERMS, b"/t/a\0n1\0", b"EACCES"),
        ("2", 0, T.WRITE, b"/t/a\0y", OK),
        ("2", 0, T.WRITE, b"/t/a/two\0", OK),
        ("0", 0, T.GET_PERMS, b"/t/a/two\0", b"n2\0r1\0b2\0"),
        ("2", 0, T.RM, b"/t/a/child\0", OK),
        *refused(b"EINVAL", (T.SET_PERMS, b"/t/a\0x0\0"), (T.SET_PERMS, b"/t/a\0n\0"), (T.SET_PERMS, b"/t/a\0nx\0")),
        *refused(b"ENOENT", (T.SET_PERMS, b"/t/a\0n999\0"), (T.SET_PERMS, b"/t/none\0n0\0")),
    ),
    case(
        "what a guest may",
        ("1", 0, T.WRITE, b"data/x\0v", OK),
        ("1", 0, T.GET_PERMS, b"data/x\0", b"n1\0"),
        ("1", 0, T.SET_PERMS, b"data/x\0n2\0", b"EPERM"),
        ("1", 0, T.SET_PERMS, b"data/x\0n1\0r2\0", OK),
        ("2", 0, T.READ, b"/local/domain/1/data/x\0", b"v"),
        ("1", 0, T.SET_PERMS, b"data/x\0n1\0r2\0r3\0r4\0r5\0r6\0", b"ENOSPC"),
        ("1", 0, T.WRITE, b"name\0me", b"EACCES"),
        ("1", 0, T.WRITE, b"/local/domain/1\0me", b"EACCES"),
        ("1", 0, T.READ, b"name\0", b"domain-1"),
        ("1", 0, T.WRITE, b"/tool/x\0", b"EACCES"),
        *refused(
            b"EACCES",
            *((kind, b"1\0001\0001\0") for kind in (T.INTRODUCE, T.RELEASE, T.RESUME, T.SET_TARGET)),
            *((kind, b"1\0") for kind in (T.IS_DOMAIN_INTRODUCED, T.CONTROL)),
            who="1",
        ),
        ("1", 0, T.SET_PERMS, b"@releaseDomain\0n1\0", b"EACCES"),
        ("1", 0, T.RM, b"data/x\0", OK),
    ),
    case(
        "transactions",
        ("0", 0, T.TRANSACTION_START, b"\0", b"1\0"),
        ("0", 1, T.WRITE, b"/t/a\0in", OK),
        ("0", 1, T.READ, b"/t/a\0", b"in"),
        ("0b", 0, T.READ, b"/t/a\0", b"ENOENT"),
        ("0", 1, T.TRANSACTION_START, b"\0", b"EBUSY"),
        ("0b", 1, T.READ, b"/t\0", b"ENOENT"),
        ("0", 1, T.TRANSACTION_END, b"T\0", OK),
        ("0b", 0, T.READ, b"/t/a\0", b"in"),
        ("0", 1, T.READ, b"/t/a\0", b"ENOENT"),
        ("0", 0, T.TRANSACTION_START, b"\0", b"2\0"),
        ("0", 2, T.RM, b"/t/a\0", OK),
        ("0", 2, T.TRANSACTION_END, b"F\0", OK),
        ("0", 0, T.READ, b"/t/a\0", b"in"),
        ("0", 0, T.TRANSACTION_START, b"\0", b"3\0"),
        *((("0", 3, T.TRANSACTION_END, bad, b"EINVAL")) for bad in (b"T", b"X\0", b"", b"F")),
        ("0", 3, T.TRANSACTION_END, b"F\0", OK),
        ("0", 0, T.TRANSACTION_END, b"T\0", b"ENOENT"),
        ("0", 99, T.TRANSACTION_START, b"\0", b"ENOENT"),
        only_socket=True,
    ),
    *(
        case(
            f"conflict: {what}",
            ("0", 0, T.WRITE, b"/t/a/v\0one", OK),
            ("0", 0, T.TRANSACTION_START, b"\0", b"1\0"),
            ("0", 1, kind, payload, said),
            ("0b", 0, other, change, OK),
            ("0", 1, T.TRANSACTION_END, b"T\0", b"EAGAIN" if conflict else OK),
            ("0", 1, T.TRANSACTION_END, b"T\0", b"ENOENT"),
        )
        for what, kind, payload, said, other, change, conflict in (
            ("read and written", T.READ, b"/t/a/v\0", b"one", T.WRITE, b"/t/a/v\0two", True),
            ("the same value", T.READ, b"/t/a/v\0", b"one", T.WRITE, b"/t/a/v\0one", True),
            ("blind writes", T.WRITE, b"/t/a/v\0x", OK, T.WRITE, b"/t/a/v\0y", True),
            ("missing, then made", T.READ, b"/t/a/new\0", b"ENOENT", T.WRITE, b"/t/a/new\0", True),
            ("listed, a child added", T.DIRECTORY, b"/t/a\0", b"v\0", T.WRITE, b"/t/a/w\0", True),
            ("siblings", T.WRITE, b"/t/a/x\0", OK, T.WRITE, b"/t/a/y\0", True),
            ("permissions", T.READ, b"/t/a/v\0", b"one", T.SET_PERMS, b"/t/a/v\0r0\0", True),
            ("removal", T.READ, b"/t/a/v\0", b"one", T.RM, b"/t/a/v\0", True),
            ("listed, a child's value", T.DIRECTORY, b"/t/a\0", b"v\0", T.WRITE, b"/t/a/v\0two", False),
            ("elsewhere", T.READ, b"/t/a/v\0", b"one", T.WRITE, b"/tool/other\0", False),
            ("the parent's value", T.READ, b"/t/a/v\0", b"one", T.WRITE, b"/t/a\0new", False),
        )
    ),
    case(
        "watches of the socket",
        ("0", 0, T.WATCH, b"/t\0tok\0", OK),
        ("0", 0, T.WATCH, b"/t\0tok\0", b"EEXIST"),
        ("0b", 0, T.WATCH, b"/t\0tok\0", OK),
        ("0", 0, T.WATCH, b"/t\0\0", OK),
        ("0", 0, T.WATCH, b"@anything\0x\0", OK),
        ("0", 0, T.WATCH, b"/t\0depth\x001\0", OK),
        *refused(b"EINVAL", (T.WATCH, b"//\0x\0"), (T.WATCH, b"/t\0x"), (T.WATCH, b"/t\0"), (T.WATCH, b"/t\0x\0-1\0")),
        ("0", 0, T.UNWATCH, b"/t\0tok\0", OK),
        ("0", 0, T.UNWATCH, b"/t\0tok\0", b"ENOENT"),
        ("0", 77, T.WATCH, b"/t\0any transaction\0", OK),
        ("0", 0, T.WATCH, b"data\0rel\0", OK),
        ("0", 0, T.UNWATCH, b"/local/domain/0/data\0rel\0", OK),
        ("0", 0, T.RESET_WATCHES, b"\0", OK),
        ("0", 0, T.UNWATCH, b"/t\0\0", b"ENOENT"),
        only_socket=True,
    ),
    case(
        "domains",
        ("0", 0, T.GET_DOMAIN_PATH, b"1\0", b"/local/domain/1\0"),
        ("0", 0, T.GET_DOMAIN_PATH, b"999\0", b"/local/domain/999\0"),
        ("0", 0, T.GET_DOMAIN_PATH, b"abc\0", b"/local/domain/0\0"),
        ("0", 0, T.GET_DOMAIN_PATH, b"", b"/local/domain/0\0"),
        ("1", 0, T.GET_DOMAIN_PATH, b"2\0", b"/local/domain/2\0"),
        ("0", 0, T.IS_DOMAIN_INTRODUCED, b"1\0", b"T\0"),
        ("0", 0, T.IS_DOMAIN_INTRODUCED, b"999\0", b"F\0"),
        ("0", 0, T.IS_DOMAIN_INTRODUCED, b"32752\0", b"T\0"),
        *refused(b"ENOENT", (T.RELEASE, b"99\0"), (T.RESUME, b"99\0"), (T.SET_TARGET, b"99\0001\0")),
        *refused(b"ENOENT", (T.SET_TARGET, b"1\00099\0"), (T.INTRODUCE, b"99\0001\0001\0")),
        *refused(b"EINVAL", (T.RELEASE, b"0\0"), (T.INTRODUCE, b"1\0001\0000\0"), (T.INTRODUCE, b"70000\0001\0001\0")),
        ("0", 0, T.RESUME, b"1\0", OK),
        ("0", 0, T.INTRODUCE, b"1\0001\0001\0", OK),
        ("0", 0, T.SET_TARGET, b"2\0001\0", OK),
        ("2", 0, T.WRITE, b"/local/domain/1/data/mine\0", OK),
        ("0", 0, T.RELEASE, b"1\0", OK),
        ("0", 0, T.IS_DOMAIN_INTRODUCED, b"1\0", b"F\0"),
        ("0", 0, T.READ, b"/local/domain/1/data\0", b"ENOENT"),
        ("0", 0, T.INTRODUCE, b"1\0001\0001\0", OK),
    ),
    case(
        "other messages",
        *refused(b"ENOSYS", *((kind, b"/\0") for kind in (15, 16, 20, 27, 0xFFFF, 0xFFFF_FFFF))),
        ("0", 0, T.CONTROL, b"print\0hello\0", b"OK\0"),
        ("0", 0, T.CONTROL, b"check\0", b"OK\0"),
        *refused(b"EINVAL", (T.CONTROL, b"bogus\0"), (T.CONTROL, b""), (T.CONTROL, b"quota\0set\0x\0001\0")),
        ("0", 0, T.CONTROL, b"quota\0set\0nodes\0001000\0", b"OK\0"),
        ("0", 0, T.GET_FEATURE, b"", b"4\0"),
        ("0", 0, T.GET_QUOTA, b"nodes\0", b"1000\0"),
        ("0", 0, T.GET_QUOTA, b"1\0watches\0", b"128\0"),
        ("0", 0, T.SET_QUOTA, b"nodes\0001000\0", OK),
        ("0", 0, T.SET_QUOTA, b"none\0001\0", b"EINVAL"),
        *refused(b"EACCES", (T.GET_QUOTA, b"nodes\0"), (T.SET_QUOTA, b"nodes\0001\0"), who="1"),
        ("0", 0, T.SET_FEATURE, b"1\0004\0", b"EBUSY"),
    ),
    case(
        "special nodes",
        *refused(b"EINVAL", (T.READ, b"@releaseDomain\0"), (T.GET_PERMS, b"@releaseDomain\0")),
        *refused(b"EINVAL", (T.SET_PERMS, b"@other\0n0\0"), (T.WRITE, b"@releaseDomain\0x")),
        ("0", 0, T.SET_PERMS, b"@releaseDomain\0n0\0r1\0", OK),
        ("0", 0, T.SET_PERMS, b"@releaseDomain\0n0\0", OK),
    ),
    case(
        "parts of a long list",
        *(("0", 0, T.WRITE, b"/t/child-%03d\0" % n, OK) for n in range(3)),
        ("0", 0, T.DIRECTORY_PART, b"/t\0", b"EINVAL"),
        ("0", 0, T.DIRECTORY_PART, b"/none\0000\0", b"ENOENT"),
    ),
)
