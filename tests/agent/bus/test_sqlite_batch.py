"""What waits to be written: nothing of it is lost when a transaction fails."""

from __future__ import annotations

import pytest

from definable.agent.bus.sqlite_batch import Batch
from definable.errors import StorageError

pytestmark = pytest.mark.anyio


def wishes(first: int) -> Batch:
    """Two wishes of each kind, told from others by their positions."""
    one, two = first, first + 1
    return Batch(
        awaited=[(one, "id", "job", b""), (two, "id", "job", b"")],
        unawaited=[(one, "id", "job", b""), (two, "id", "job", b"")],
        acked=[(one,), (two,)],
        later=[(5.0, one), (5.0, two)],
        dead=[("why", 5.0, one), ("why", 5.0, two)],
        untaken=[(one,), (two,)],
    )


async def test_what_was_promised_is_taken_over_in_its_order_before_what_came_since() -> None:
    failed, pending = wishes(1), wishes(3)
    pending.take_over(failed)
    assert [row[0] for row in pending.unawaited] == [1, 2, 3, 4]
    assert pending.acked == pending.untaken == [(1,), (2,), (3,), (4,)]
    assert [row[-1] for row in pending.later] == [row[-1] for row in pending.dead] == [1, 2, 3, 4]
    assert [row[0] for row in pending.awaited] == [3, 4]  # the publishers of the others are told that it failed


async def test_the_keys_of_those_who_are_told_are_free_and_the_latest_word_on_the_others_counts() -> None:
    failed = Batch(keys={"told": 1.0, "kept": 2.0, "released since": 3.0, "taken since": 3.0}, awaited_keys=["told"])
    failed.forgotten |= {"told", "forgotten"}
    pending = Batch(keys={"taken since": 5.0, "new": 4.0}, forgotten={"released since", "taken since"})
    pending.take_over(failed)
    assert pending.keys == {"kept": 2.0, "taken since": 5.0, "new": 4.0}
    assert pending.forgotten == {"told", "forgotten", "released since", "taken since"}


@pytest.mark.parametrize("kind", ["awaited", "unawaited", "acked", "later", "dead", "untaken"])
async def test_one_wish_is_enough_to_be_written(kind: str) -> None:
    assert Batch().is_empty
    batch = Batch(**{kind: getattr(wishes(1), kind)[:1]})
    assert not batch.is_empty
    assert batch.publications + batch.settlements == 1
    assert batch.publications == (1 if "awaited" in kind else 0)


async def test_a_key_a_replay_and_somebody_who_waits_are_wishes_too() -> None:
    for batch in (Batch(keys={"k": 1.0}), Batch(forgotten={"k"}), Batch(replays={"id": 1}), Batch(barrier=True)):
        assert not batch.is_empty
        assert batch.publications == batch.settlements == 0


async def test_who_waits_is_told_of_a_failure() -> None:
    batch = Batch()
    batch.done.set()
    await batch.written()
    batch.failure = StorageError("the disk is full")
    with pytest.raises(StorageError, match="the disk is full") as caught:
        await batch.written()
    assert caught.value.__cause__ is batch.failure
