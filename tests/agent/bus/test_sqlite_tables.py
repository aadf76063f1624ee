"""What one transaction does to the tables of the SQLite bus, on a database in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from definable.agent.bus.dedupe import digest
from definable.agent.bus.sqlite_batch import Batch, Row
from definable.agent.bus.sqlite_tables import MOVED_AT_ONCE, SCHEMA, Order, Receipt, carry_out, list_dead, load

NOW = 1000.0
NOTHING = Order(cursor=0, demand=0, now=NOW, due_position=None)


@pytest.fixture
def connection() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA:
            connection.execute(statement)
        yield connection


def rows(*positions: int) -> list[Row]:
    return [(position, f"id {position}", "job", b'{"n": %d}' % position) for position in positions]


def taken(receipt: Receipt) -> Sequence[tuple[int, int]]:
    """Positions and attempts."""
    return [(it.position, it.attempt) for it in receipt.taken]


def test_an_empty_file_has_nothing(connection: sqlite3.Connection) -> None:
    stored = load(connection, NOW)
    assert (stored.last_position, stored.in_line, stored.next_due, list(stored.keys)) == (0, 0, None, [])


def test_what_is_written_down_is_there_when_the_file_is_opened_next(connection: sqlite3.Connection) -> None:
    receipt = carry_out(connection, Batch(unawaited=rows(1, 2), awaited=rows(7)), NOTHING)
    assert (receipt.joined, receipt.taken, receipt.next_due, receipt.replayed) == (3, (), None, frozenset())
    stored = load(connection, NOW)
    assert (stored.last_position, stored.in_line) == (7, 3)


def test_so_many_are_taken_as_are_asked_for_in_their_order_behind_the_cursor(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=rows(4, 2, 3, 1)), NOTHING)
    assert taken(carry_out(connection, Batch(), Order(1, 2, NOW, None))) == [(2, 1), (3, 1)]
    assert taken(carry_out(connection, Batch(), Order(0, 10, NOW, None))) == [(1, 1), (2, 2), (3, 2), (4, 1)]
    assert taken(carry_out(connection, Batch(), Order(4, 1, NOW, None))) == []


def test_a_name_with_a_cursor_of_its_own_keeps_its_place_until_it_is_granted(connection: sqlite3.Connection) -> None:
    batch = Batch(unawaited=[(n, f"id {n}", "ab"[n % 2], b'{"n": %d}' % n) for n in range(1, 9)])
    order = Order(2, 3, NOW, None, 8, {"a": (2, 0)})
    receipt = carry_out(connection, batch, order)
    assert (taken(receipt), receipt.cursor, receipt.named) == ([(3, 1), (5, 1), (7, 1)], 7, {"a": 2})
    assert not receipt.all_looked_through
    receipt = carry_out(connection, Batch(), replace(order, cursor=7))
    assert (taken(receipt), receipt.cursor, receipt.all_looked_through) == ([], 8, True)
    receipt = carry_out(connection, Batch(unawaited=rows(9)), Order(8, 9, NOW, None, 9, {"a": (2, 2)}))
    assert (taken(receipt), receipt.cursor, receipt.named) == ([(4, 1), (6, 1), (9, 1)], 9, {"a": 6})
    receipt = carry_out(connection, Batch(), Order(9, 9, NOW, None, 9, {"a": (6, 2)}))
    assert (taken(receipt), receipt.cursor, receipt.named) == ([(8, 1)], 9, {"a": 9})


def test_what_was_taken_for_nobody_was_no_attempt(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=rows(1, 2)), Order(0, 2, NOW, None))
    carry_out(connection, Batch(untaken=[(2,)]), NOTHING)
    assert taken(carry_out(connection, Batch(), Order(0, 2, NOW, None))) == [(1, 2), (2, 1)]


def test_what_waits_for_its_time_is_out_of_the_line_until_then(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=rows(1, 2, 3, 4)), Order(0, 4, NOW, None))
    later = [(NOW + 20, 1), (NOW + 10, 2), (NOW + 10, 3), (NOW + 10.5, 4)]
    receipt = carry_out(connection, Batch(later=later), NOTHING)
    assert (receipt.joined, receipt.next_due, load(connection, NOW).in_line) == (0, NOW + 10, 0)
    receipt = carry_out(connection, Batch(), Order(4, 10, NOW + 10, 100))
    assert [(it.position, it.id, it.attempt, it.data) for it in receipt.taken] == [
        (100, "id 2", 2, {"n": 2}),
        (101, "id 3", 2, {"n": 3}),
    ]
    assert (receipt.joined, receipt.next_due) == (2, NOW + 10.5)


def test_of_many_that_are_due_so_many_join_as_there_are_positions_for(connection: sqlite3.Connection) -> None:
    positions = range(1, MOVED_AT_ONCE + 3)
    carry_out(connection, Batch(unawaited=rows(*positions)), NOTHING)
    carry_out(connection, Batch(later=[(NOW, position) for position in positions]), NOTHING)
    order = Order(MOVED_AT_ONCE + 2, 0, NOW, 2 * MOVED_AT_ONCE)
    assert carry_out(connection, Batch(), order).joined == MOVED_AT_ONCE
    assert load(connection, NOW).last_position == 3 * MOVED_AT_ONCE - 1


def test_a_settled_delivery_is_gone(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=rows(1, 2, 3, 4)), Order(0, 3, NOW, None))
    carry_out(connection, Batch(acked=[(1,)], later=[(NOW + 5, 2)], dead=[("why not", NOW, 3)]), NOTHING)
    assert taken(carry_out(connection, Batch(), Order(0, 10, NOW, None))) == [(4, 1)]
    [letter] = list_dead(connection)
    assert (letter.id, letter.name, letter.data, letter.attempt, letter.why, letter.died_at) == (
        "id 3",
        "job",
        {"n": 3},
        1,
        "why not",
        NOW,
    )


def test_a_replayed_letter_joins_the_line_as_new_and_once(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=rows(1)), Order(0, 1, NOW, None))
    carry_out(connection, Batch(dead=[("why not", NOW, 1)]), NOTHING)
    receipt = carry_out(connection, Batch(replays={"id 1": 5, "nobody": 6}), Order(1, 5, NOW, None))
    assert (receipt.replayed, receipt.joined, taken(receipt)) == ({"id 1"}, 1, [(5, 1)])
    assert list_dead(connection) == []
    assert carry_out(connection, Batch(replays={"id 1": 7}), NOTHING).replayed == frozenset()


def test_the_last_ten_thousand_dead_letters_are_kept(connection: sqlite3.Connection) -> None:
    positions = range(1, 10_003)
    carry_out(connection, Batch(unawaited=rows(*positions)), NOTHING)
    carry_out(connection, Batch(dead=[("", NOW, position) for position in positions]), NOTHING)
    letters = list_dead(connection)
    assert (len(letters), letters[0].id, letters[-1].id) == (10_000, "id 3", "id 10002")


def test_keys_are_written_forgotten_and_expire(connection: sqlite3.Connection) -> None:
    long, short, longer, gone = map(digest, ("long", "short", "longer", "gone"))
    keys = {long: NOW + 10, short: NOW, longer: NOW + 20, gone: NOW + 30}
    carry_out(connection, Batch(keys=keys), NOTHING)
    carry_out(connection, Batch(keys={longer: NOW + 5}, forgotten={gone}), NOTHING)
    assert list(load(connection, NOW).keys) == [(longer, NOW + 5), (long, NOW + 10)]


def test_data_that_cannot_be_read_is_dead_and_says_why_and_the_next_is_taken(connection: sqlite3.Connection) -> None:
    carry_out(connection, Batch(unawaited=[(1, "the id", "job", b"{"), *rows(2)]), NOTHING)
    receipt = carry_out(connection, Batch(), Order(0, 2, NOW, None))
    assert taken(receipt) == [(2, 1)]
    [letter] = list_dead(connection)
    assert (letter.id, letter.data, letter.attempt, letter.died_at) == ("the id", {}, 1, NOW)
    assert letter.why.startswith("a stored event cannot be read: ")


def test_keys_that_an_earlier_version_stored_are_known_by_their_digests(connection: sqlite3.Connection) -> None:
    insert = "INSERT INTO definable_event_key VALUES (?, ?)"
    connection.executemany(insert, [("job@12.000", NOW + 1), (digest("new"), NOW + 2), ("old", NOW)])
    expected = [(digest("job@12.000"), NOW + 1), (digest("new"), NOW + 2)]
    for _ in range(2):
        assert [*load(connection, NOW).keys] == expected
    assert connection.execute("SELECT key, expires_at FROM definable_event_key ORDER BY 2").fetchall() == expected
