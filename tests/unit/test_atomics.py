from __future__ import annotations

import mmap
import subprocess
import sys
import threading

import pytest

from xenfs.atomics import Word8, Word16, Word32, fence

WORDS = [(Word8, 1), (Word16, 2), (Word32, 4)]


def test_fence_returns_nothing() -> None:
    fence()


@pytest.mark.parametrize(("kind", "size"), WORDS)
class TestWord:
    def test_loads_what_is_there_and_only_that(self, kind: type[Word32], size: int) -> None:
        page = bytearray(range(1, 33))
        word = kind(memoryview(page), 8)
        assert word.load() == int.from_bytes(page[8 : 8 + size], "little")

    def test_store_touches_only_its_bytes(self, kind: type[Word32], size: int) -> None:
        page = bytearray(b"\xaa" * 32)
        kind(memoryview(page), 8).store((1 << 8 * size) - 2)
        assert page == b"\xaa" * 8 + b"\xfe" + b"\xff" * (size - 1) + b"\xaa" * (24 - size)

    def test_operations_give_what_was_there_before(self, kind: type[Word32], size: int) -> None:
        top = (1 << 8 * size) - 1
        word = kind(memoryview(bytearray(16)), 4)
        assert word.exchange(top) == 0
        assert word.fetch_and(0x0F) == top
        assert word.fetch_or(0x50) == 0x0F
        assert word.load() == 0x5F

    def test_compare_exchange_changes_only_on_a_match(self, kind: type[Word32], size: int) -> None:
        word = kind(memoryview(bytearray(16)))
        top = (1 << 8 * size) - 1
        assert word.compare_exchange(0, top) == 0
        assert word.compare_exchange(1, 2) == top
        assert word.load() == top
        assert word.compare_exchange(top, 3) == top
        assert word.load() == 3

    def test_values_that_do_not_fit_are_refused(self, kind: type[Word32], size: int) -> None:
        word = kind(memoryview(bytearray(16)))
        for value in (-1, 1 << 8 * size):
            with pytest.raises(ValueError, match=f"{value} does not fit {8 * size} bits"):
                word.store(value)
        assert word.load() == 0

    def test_released_word_is_refused(self, kind: type[Word32], size: int) -> None:
        word = kind(memoryview(bytearray(size)))
        word.release()
        with pytest.raises(ValueError, match=f"{kind.__name__} was released"):
            word.load()


def test_release_lets_the_mapping_close() -> None:
    page = mmap.mmap(-1, 4096)
    with memoryview(page) as view:
        word = Word32(view, 16)
        word.store(7)
        word.release()
    page.close()


def test_unaligned_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Word32 at offset 2: .* not aligned"):
        Word32(memoryview(bytearray(16)), 2)


@pytest.mark.parametrize("offset", [-4, 13, 16])
def test_word_outside_the_buffer_is_refused(offset: int) -> None:
    with pytest.raises(ValueError, match=r"Buffer size too small|offset cannot be negative"):
        Word32(memoryview(bytearray(16)), offset)


def test_read_only_buffer_is_refused() -> None:
    with pytest.raises(TypeError):
        Word32(memoryview(bytes(16)))


def test_two_threads_lose_no_bit() -> None:
    word = Word32(memoryview(bytearray(4)))

    def flip(bit: int) -> None:
        for _ in range(2000):
            assert not word.fetch_or(bit) & bit
            assert word.fetch_and(~bit & 0xFFFF_FFFF) & bit

    threads = [threading.Thread(target=flip, args=(1 << bit,)) for bit in (0, 31)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert word.load() == 0


def test_without_the_library_the_first_use_says_what_to_install() -> None:
    program = """
import ctypes
def none(name): raise OSError(name)
ctypes.PyDLL = none
import xenfs.atomics as atomics
word = atomics.Word32(memoryview(bytearray(4)))
for use in (atomics.fence, word.load, lambda: word.store(1)):
    try:
        use()
    except atomics.MissingLibatomicError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == 3 * [
        "libatomic.so.1 is not installed, and shared rings need it: apt-get install libatomic1"
    ]
