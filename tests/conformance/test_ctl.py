"""The conversation with `ctl`, against the machine behind a file that keeps the contract and is difficult within it."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conformance.refusals import refusal
from xenfs.abi.event_channel import AllocUnbound, PortState, Status
from xenfs.abi.grant_table import GntMap, GntStatus, MapGrantRef, Transfer
from xenfs.abi.wire import Chars, Wire
from xenfs.abi.xenfs_op import AllocFrame, CreateDomain, FreeFrame, GrantAccess, NameRing
from xenfs.domain import Refused
from xenfs.domain.mounted import HypervisorGone, text
from xenfs.domain.mounted.ctl import MAX_WRITE, Ctl
from xenfs.hypervisor import Config, Machine
from xenfs.hypervisor import text as daemon_text
from xenfs.hypervisor.errors import HypercallError
from xenfs.hypervisor.table import ROWS, Hypercall
from xenfs.hypervisor.trace import Failure


class File(io.RawIOBase):
    """A `ctl` for domain 0, which takes and gives at most `piece` bytes at a time and keeps what was written."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self.machine = Machine(Config(frames=8192))
        self.piece, self.failing, self.silent = piece, 0, False
        self.interrupt_write = self.interrupt_read = False
        self.writes: list[bytes] = []
        self._line, self._answers = b"", b""

    def fileno(self) -> int:
        return -1

    def write(self, data: Any) -> int:
        if self.failing:
            raise OSError(self.failing, "")
        taken = bytes(data[: self.piece])
        self.writes.append(taken)
        *lines, self._line = (self._line + taken).split(b"\n")
        self._answers += b"" if self.silent else b"".join(self._call(line.decode()).encode() + b"\n" for line in lines)
        if self.interrupt_write:
            self.interrupt_write = False
            raise KeyboardInterrupt
        return len(taken)

    def read(self, size: int = -1) -> bytes:
        if self.interrupt_read:
            self.interrupt_read = False
            raise KeyboardInterrupt
        assert size > 0
        size = min(size, self.piece)
        data, self._answers = self._answers[:size], self._answers[size:]
        return data

    def _call(self, line: str) -> str:
        request: Wire | None = None
        try:
            request = daemon_text.parse(line)
            return daemon_text.answer(self.machine.call(request))
        except HypercallError as error:
            return daemon_text.refusal(Failure.of(error, request))


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def ctl(file: File) -> Iterator[Ctl]:
    conversation = Ctl(file, "domain 0")
    yield conversation
    conversation.close()


def sample(row: Hypercall) -> Wire:
    """A request of a row, every field of it set, with a different number in each."""
    values: dict[str, Any] = {}
    for number, field in enumerate(row.request.layout, 1):
        if field.name in row.takes:
            values[field.name] = 'a "b" \\c' if isinstance(field.kind, Chars) else number
    return row.request(**values)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_line_means_the_request(row: Hypercall) -> None:
    assert text.operation(row.request) == row.name
    assert daemon_text.parse(text.emit(sample(row))) == sample(row)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_answer_reads_back(row: Hypercall) -> None:
    request = sample(row)
    results: dict[str, Any] = {n: i for i, n in enumerate(row.gives, 1) if n not in ("status", "dev_bus_addr")}
    answered = replace(request, **results)  # type: ignore[type-var]
    assert text.parse_answer(request, daemon_text.answer(answered)) == answered


def test_words_of_an_answer_are_numbers() -> None:
    said = text.parse_answer(Status(port=3), "ok status=interdomain vcpu=0 remote_dom=2 remote_port=0x10")
    assert said == Status(port=3, status=PortState.interdomain, remote_dom=2, remote_port=16)


@pytest.mark.parametrize("code", ["EBUSY", "ENOSPC"])
@pytest.mark.parametrize("status", [None, GntStatus.eagain])
def test_a_refusal_has_its_errno_status_and_text(code: str, status: GntStatus | None) -> None:
    words = ["error", code, *([f"GNTST_{status.name}"] if status is not None else []), "grant 3: it is busy"]
    refused = text.parse_answer(AllocFrame(), " ".join(words))
    assert isinstance(refused, Refused)
    assert (refused.errno, refused.status, refused.strerror) == (getattr(errno, code), status, "grant 3: it is busy")


@pytest.mark.parametrize(
    "line",
    ["", "okay frame=1", "ok frame", "ok frame=x", "ok mfn=1", "ok frame=1 2", "error", "error EBUSY",
     "error ENOTHING it is so", "error EBUSY GNTST_nothing it is so", "error strerror it is so"],
)  # fmt: skip
def test_an_answer_that_is_none_is_told(line: str) -> None:
    with refusal(errno.EPROTO):
        text.parse_answer(AllocFrame(), line)


@pytest.mark.parametrize("name", ["new\nline", "nul\0", "tab\t", "\x7f", "ümlaut", "x" * 65])
def test_text_that_could_break_a_line_is_refused_unsent(ctl: Ctl, file: File, name: str) -> None:
    with refusal(errno.EINVAL):
        ctl.call(CreateDomain(name=name))
    assert file.writes == []


@pytest.mark.parametrize("name", ["two words", "it's", 'a "quoted" one', "back\\slash", "a=b", "#1", "$HOME", "ok\\n"])
def test_text_arrives_as_it_is(ctl: Ctl, file: File, name: str) -> None:
    domid = ctl.call(CreateDomain(name=name, frames=1)).domid
    assert file.machine.state.domains[domid].name == name


def test_a_batch_is_one_write_and_answers_are_in_order(ctl: Ctl, file: File) -> None:
    frames = [answer.frame for answer in ctl.batch([AllocFrame()] * 3) if isinstance(answer, AllocFrame)]
    assert len(file.writes) == 1
    requests: list[Wire] = [
        FreeFrame(frame=frames[0]), FreeFrame(frame=1 << 40), FreeFrame(frame=-1), GrantAccess(frame=frames[1], dom=3),
    ]  # fmt: skip
    first, unknown, wild, granted = ctl.batch(requests)
    assert first == requests[0]
    assert isinstance(unknown, Refused)
    assert isinstance(wild, Refused)
    assert (unknown.errno, wild.errno) == (errno.EINVAL, errno.EINVAL)
    assert isinstance(granted, GrantAccess)
    assert granted.ref == 8
    assert ctl.batch([]) == []


def test_a_large_batch_is_written_in_pieces_and_read_between_them(ctl: Ctl, file: File) -> None:
    count = 3 * MAX_WRITE // len("alloc_frame\n") + 1
    answers = ctl.batch([AllocFrame()] * count)
    assert len(answers) == count
    assert sum(isinstance(answer, Refused) for answer in answers) == count - 4096
    assert [len(write) <= MAX_WRITE and write.endswith(b"\n") for write in file.writes] == [True] * 4


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_reads_and_writes_may_be_short(piece: int) -> None:
    ctl = Ctl(File(piece), "domain 0")
    answers = ctl.batch([AllocFrame()] * 30)
    assert [a.frame for a in answers if not isinstance(a, Refused)] == list(range(30))


@pytest.mark.parametrize("where", ["interrupt_write", "interrupt_read"])
@pytest.mark.parametrize("piece", [*range(1, 26), 1 << 20])
def test_after_an_interrupt_the_next_call_gets_its_own_answer(where: str, piece: int) -> None:
    file = File(piece)
    ctl = Ctl(file, "domain 0")
    ctl.batch([AllocFrame()] * 200)
    setattr(file, where, True)
    with pytest.raises(KeyboardInterrupt):
        ctl.call(NameRing(name="vif-0-tx", frame=123))
    assert ctl.call(AllocUnbound(remote_dom=0)).port == 1
    named = {name: ring.frame.number for name, ring in file.machine.state.domains[0].rings.items()}
    assert named in ({}, {"vif-0-tx": 123}), "a call that was cut off is made whole or not at all"


@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.ECONNABORTED, errno.EIO])
def test_a_dead_daemon_is_the_hypervisor_gone(ctl: Ctl, file: File, code: int) -> None:
    file.failing = code
    for _ in range(2):
        with pytest.raises(HypervisorGone, match="domain 0: the hypervisor is gone") as caught:
            ctl.call(AllocFrame())
        assert caught.value.errno == errno.ENOTCONN


def test_another_error_of_the_file_is_a_refusal(ctl: Ctl, file: File) -> None:
    file.failing = errno.EMFILE
    with refusal(errno.EMFILE) as caught:
        ctl.call(AllocFrame())
    assert "RLIMIT_NOFILE" in str(caught.value)


def test_missing_answers_are_told(ctl: Ctl, file: File) -> None:
    file.silent = True
    with refusal(errno.EPROTO):
        ctl.call(AllocFrame())


def test_a_closed_handle_says_so(ctl: Ctl) -> None:
    ctl.close()
    ctl.close()
    with refusal(errno.EBADF):
        ctl.batch([])


def test_threads_do_not_mix_their_answers(ctl: Ctl) -> None:
    got: list[list[int]] = []

    def ask() -> None:
        answers = ctl.batch([AllocFrame()] * 50)
        got.append([a.frame for a in answers if not isinstance(a, Refused)])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(frame for frames in got for frame in frames) == list(range(400))
    assert all(frames == list(range(frames[0], frames[0] + 50)) for frames in got)


def test_defaults_are_left_out_of_a_line() -> None:
    assert text.emit(AllocFrame()) == "alloc_frame"
    assert text.emit(Transfer(mfn=5, domid=2, ref=9)) == "transfer mfn=5 domid=2 ref=9"
    assert text.emit(MapGrantRef(dom=2, ref=9, flags=GntMap.host_map)) == "map_grant_ref ref=9 dom=2"
