"""Memory barriers and atomic words in shared memory, from gcc's libatomic.

Python's own loads and stores through a memoryview are single moves, which is enough for a word that one side writes;
order between two words needs `fence`, and a word that both sides change (event channel bits, grant flags, the notify
bytes of libvchan) needs `Word32`, `Word16` or `Word8`. Every operation is sequentially consistent.

The library is called with the interpreter lock held (PyDLL) and without declared argument types: releasing the lock or
converting arguments costs more than the barrier.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, NoReturn

_SEQ_CST = 5


class MissingLibatomicError(RuntimeError):
    """libatomic.so.1 is not installed; the message says what to do."""


def _open() -> ctypes.PyDLL | None:
    try:
        return ctypes.PyDLL("libatomic.so.1")
    except OSError:
        return None


_LIBATOMIC = _open()


def _missing(*_: object) -> NoReturn:
    message = "libatomic.so.1 is not installed, and shared rings need it: apt-get install libatomic1"
    raise MissingLibatomicError(message)


def _function(name: str, result: Any = None) -> Callable[..., Any]:
    """One function of the library; without it, one that says what to install."""
    if _LIBATOMIC is None:
        return _missing
    function = _LIBATOMIC[name]
    function.restype = result
    return function


fence: Callable[[], None] = partial(_function("atomic_thread_fence"), _SEQ_CST)
"""Full barrier: xen_mb(), and since nothing cheaper can be had from Python, xen_rmb() and xen_wmb() too."""


class _Calls(NamedTuple):
    load: Callable[..., Any]
    store: Callable[..., Any]
    exchange: Callable[..., Any]
    compare_exchange: Callable[..., Any]
    fetch_or: Callable[..., Any]
    fetch_and: Callable[..., Any]


def _calls(cell: type[Any]) -> _Calls:
    size = ctypes.sizeof(cell)
    results = {"store": None, "compare_exchange": ctypes.c_bool}
    return _Calls(*(_function(f"__atomic_{name}_{size}", results.get(name, cell)) for name in _Calls._fields))


class Word32:
    """An aligned unsigned 32-bit word at `offset` of a writable buffer; its address is found once.

    It keeps the buffer exported, so that the mapping cannot go away beneath it, until `release`. Values outside the
    word's range raise ValueError.
    """

    __slots__ = ("_address", "_cell")
    _type: ClassVar[type[Any]] = ctypes.c_uint32
    _call: ClassVar[_Calls] = _calls(ctypes.c_uint32)

    def __init__(self, view: memoryview, offset: int = 0) -> None:
        """Raises ValueError when the word is not inside the buffer or not aligned, TypeError on a read-only one."""
        self._cell: Any = self._type.from_buffer(view, offset)
        address = ctypes.addressof(self._cell)
        if address % ctypes.sizeof(self._type):
            message = f"{type(self).__name__} at offset {offset}: address {address:#x} is not aligned"
            raise ValueError(message)
        self._address = ctypes.c_void_p(address)

    def load(self) -> int:
        """The value now."""
        return int(self._call.load(self._at(), _SEQ_CST))

    def store(self, value: int) -> None:
        """Set it."""
        self._call.store(self._at(), self._fit(value), _SEQ_CST)

    def exchange(self, value: int) -> int:
        """Set it and give what it was."""
        return int(self._call.exchange(self._at(), self._fit(value), _SEQ_CST))

    def compare_exchange(self, expected: int, value: int) -> int:
        """Set it if it is `expected`; give what was found, so the change was made iff that equals `expected`."""
        found = self._type(self._fit(expected))
        self._call.compare_exchange(self._at(), ctypes.byref(found), self._fit(value), _SEQ_CST, _SEQ_CST)
        return int(found.value)

    def fetch_or(self, bits: int) -> int:
        """Set `bits` and give what it was."""
        return int(self._call.fetch_or(self._at(), self._fit(bits), _SEQ_CST))

    def fetch_and(self, bits: int) -> int:
        """Clear all but `bits` and give what it was."""
        return int(self._call.fetch_and(self._at(), self._fit(bits), _SEQ_CST))

    def release(self) -> None:
        """Let go of the buffer; the word cannot be used afterwards (ValueError)."""
        self._cell = None

    def _at(self) -> ctypes.c_void_p:
        if self._cell is None:
            message = f"{type(self).__name__} was released"
            raise ValueError(message)
        return self._address

    def _fit(self, value: int) -> int:
        bits = 8 * ctypes.sizeof(self._type)
        if not 0 <= value < 1 << bits:
            message = f"{value} does not fit {bits} bits"
            raise ValueError(message)
        return value


class Word16(Word32):
    """As Word32, of 16 bits: the flags of a grant entry."""

    __slots__ = ()
    _type = ctypes.c_uint16
    _call = _calls(ctypes.c_uint16)


class Word8(Word32):
    """As Word32, of 8 bits: the notify bytes of libvchan.h."""

    __slots__ = ()
    _type = ctypes.c_uint8
    _call = _calls(ctypes.c_uint8)
