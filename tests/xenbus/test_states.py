"""The tables of the handshake: whole, and leading where they should from everywhere."""

from __future__ import annotations

import itertools

import pytest

from xenfs.abi.xenbus import XenbusState as S
from xenfs.xenbus import states
from xenfs.xenbus.states import PEERS, BackStep, BackTable, FrontStep, FrontTable

CLASSES = [
    pytest.param(states.FRONT_AT_ONCE, states.BACK_AT_ONCE, S.Connected, id="net and usb"),
    pytest.param(states.FRONT_AFTER, states.BACK_AFTER, S.Initialised, id="block"),
]
FRONT_MAKES = {
    FrontStep.CONNECT: S.Connected,
    FrontStep.RESTART: S.Initialising,
    FrontStep.CLOSE: S.Closed,
    FrontStep.LEAVE: S.Closed,
    FrontStep.REOPEN: S.Initialising,
    FrontStep.FAIL: S.Closing,
}
BACK_MAKES = {
    BackStep.OFFER: S.InitWait,
    BackStep.EVICT: S.Closing,
    BackStep.CONNECT: S.Connected,
    BackStep.RECONNECT: S.InitWait,
    BackStep.CLOSE: S.Closing,
    BackStep.CLOSED: S.Closed,
    BackStep.FAIL: S.Closing,
}
FRONT_OWN = {S.Initialising, S.Initialised, S.Connected, S.Closing, S.Closed}
BACK_OWN = {S.Initialising, S.InitWait, S.Connected, S.Closing, S.Closed}


@pytest.mark.parametrize(("front", "back", "published"), CLASSES)
def test_every_combination_has_a_named_outcome(front: FrontTable, back: BackTable, published: S) -> None:
    del published
    pairs = set(itertools.product(S, PEERS))
    assert set(front) == set(back) == pairs
    assert len(pairs) == 90


@pytest.mark.parametrize("step", [*FrontStep, *BackStep])
def test_every_outcome_occurs_and_says_what_it_is(step: FrontStep | BackStep) -> None:
    tables = [states.FRONT_AT_ONCE, states.FRONT_AFTER, states.BACK_AT_ONCE, states.BACK_AFTER]
    assert any(step in table.values() for table in tables)
    assert len(step.value.split()) > 3


def moves(front: FrontTable, back: BackTable, published: S, f: S, b: S) -> set[tuple[S, S]]:
    """Where two honest ends can go from a pair of states, with a device that is wanted."""
    ahead = set()
    step = front[f, b]
    if step is FrontStep.PUBLISH:
        ahead.add((published, b))
    elif step in FRONT_MAKES:
        ahead.add((FRONT_MAKES[step], b))
    other = back[b, f]
    if other in BACK_MAKES:
        ahead.add((f, BACK_MAKES[other]))
    return ahead - {(f, b)}


@pytest.mark.parametrize(("front", "back", "published"), CLASSES)
def test_two_honest_ends_come_together_from_wherever_they_stand(
    front: FrontTable, back: BackTable, published: S
) -> None:
    for start in itertools.product(FRONT_OWN, BACK_OWN):
        if published is S.Connected and start[0] is S.Initialised:
            continue
        reached, ahead = {start}, [start]
        while ahead:
            new = moves(front, back, published, *ahead.pop()) - reached
            reached |= new
            ahead += new
        ends = {pair for pair in reached if not moves(front, back, published, *pair)}
        assert ends == {(S.Connected, S.Connected)}, start


@pytest.mark.parametrize(("front", "back", "published"), CLASSES)
def test_no_end_is_connected_to_one_that_has_let_go(front: FrontTable, back: BackTable, published: S) -> None:
    del published
    gone = (S.Unknown, S.Closing, S.Closed)
    assert {front[S.Connected, peer] for peer in gone} == {FrontStep.CLOSE}
    assert {back[S.Connected, peer] for peer in gone} == {BackStep.CLOSE, BackStep.CLOSED}


@pytest.mark.parametrize(("front", "back", "published"), CLASSES)
def test_only_what_is_no_state_of_the_other_end_is_an_error(front: FrontTable, back: BackTable, published: S) -> None:
    del published
    wrong = {peer for (own, peer), step in front.items() if step is FrontStep.FAIL and own in FRONT_OWN}
    assert wrong <= {S.Initialised, S.Reconfiguring, S.Reconfigured, None}
    wrong = {peer for (own, peer), step in back.items() if step is BackStep.FAIL and own in BACK_OWN}
    assert wrong <= {S.InitWait, S.Initialised, S.Reconfiguring, S.Reconfigured, None}
