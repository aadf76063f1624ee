"""What a page is told of a chat, without a page: every change once, within bounds, whatever was missed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

from definable.agent.interface.web.chat import (
    MAX_ENTRIES,
    MAX_ENTRY_CHARACTERS,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    WORKING_SECONDS,
    Chat,
    Entry,
    Stream,
)
from definable.agent.interface.web.chats import Chats, HeldFile, HeldFiles
from definable.agent.interface.web.page import asset_of
from definable.agent.interface.web.visitor import VISITOR_TTL, VisitorNames


class Shown:
    """What a page shows by the events that it was sent."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.last_id = ""
        self.entries: dict[str, dict[str, Any]] = {}
        self.busy = False

    def read(self, chat: Chat) -> None:
        """Take all that there is."""
        while True:
            data, self.position = chat.read(self.position)
            if not data:
                return
            for event in data.decode().split("\n\n")[:-1]:
                lines = dict(line.split(": ", 1) for line in event.split("\n"))
                self.last_id = lines["id"]
                self.take(lines["event"], json.loads(lines["data"]))

    def take(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "state":
                self.entries = {each["id"]: each for each in data["entries"]}
                self.busy = data["busy"]
            case "entry":
                self.entries[data["id"]] = data
            case "delta":
                self.entries[data["id"]]["text"] += data["text"]
            case "done":
                self.entries[data["id"]] |= data | {"draft": False}
            case "remove":
                self.entries.pop(data["id"], None)
            case "busy":
                self.busy = data["busy"]


STEPS = some.lists(
    some.one_of(
        some.tuples(some.just("said"), some.integers(0, 5), some.text(max_size=5)),
        some.tuples(some.just("drafted"), some.integers(0, 5), some.text(max_size=5)),
        some.tuples(some.just("grown"), some.integers(0, 5), some.text(max_size=5)),
        some.tuples(some.just("rewritten"), some.integers(0, 5), some.text(max_size=5)),
        some.tuples(some.just("withdrawn"), some.integers(0, 5), some.just("")),
        some.tuples(some.just("ended"), some.integers(0, 5), some.just("")),
        some.tuples(some.just("read"), some.just(0), some.just("")),
        some.tuples(some.just("loaded"), some.just(0), some.text(max_size=5)),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_page_that_reads_now_and_then_shows_what_one_shows_that_comes_anew(steps: list[tuple[str, int, str]]) -> None:
    chat, page, texts = Chat("ann"), Shown(), dict[str, str]()
    for step, number, text in steps:
        id, draft = f"m{number}", f"d{number}"
        if step == "said":
            chat.said(id, text, 0)
            chat.works_on(id, 0.0)
        elif step == "drafted" and draft not in texts:
            chat.answered(draft, id, text or "a", {}, is_draft=True)
            texts[draft] = text or "a"
        elif step in ("grown", "rewritten") and draft in texts:
            texts[draft] = texts[draft] + text if step == "grown" else text
            chat.grown(draft, texts[draft])
        elif step == "withdrawn":
            chat.withdrawn(draft)
            texts.pop(draft, None)
        elif step == "ended":
            chat.ended(id)
        elif step == "read":
            page.read(chat)
        elif step == "loaded":
            chat.load([Entry("h0", "user", text)])
    page.read(chat)
    anew = Shown()
    anew.read(chat)
    assert (page.entries, page.busy) == (anew.entries, anew.busy)
    assert chat.position(page.last_id) == page.position


def test_what_is_kept_is_bounded_and_who_is_behind_gets_the_state() -> None:
    chat, page = Chat("ann"), Shown()
    page.read(chat)
    for number in range(3 * MAX_EVENTS):
        chat.answered(f"a{number}", f"m{number}", "x" * 2_000, {})
    assert chat.position(page.last_id) is None
    assert len(chat.read(None)[0]) < MAX_ENTRY_CHARACTERS + MAX_ENTRIES * 200
    page.read(chat)
    assert len(page.entries) == MAX_ENTRY_CHARACTERS // 2_000
    chat.answered("large", "m", "y" * (2 * MAX_ENTRY_CHARACTERS), {})
    page.read(chat)
    assert [entry["id"] for entry in chat.state()["entries"]] == ["large"]
    assert len(chat.read(page.position)[0]) <= MAX_EVENT_BYTES


def test_a_slow_page_gets_events_in_pieces() -> None:
    chat = Chat("ann")
    position = chat.read(None)[1]
    for number in range(100):
        chat.answered(f"a{number}", "m", "x" * 1_000, {})
    sizes = []
    while True:
        data, position = chat.read(position)
        if not data:
            break
        sizes.append(len(data))
    assert len(sizes) == 2 and sum(sizes) > 100_000


def test_ids_of_another_process_or_of_nobody_lead_to_the_state() -> None:
    chat = Chat("ann")
    chat.answered("a", "m", "hi", {})
    page = Shown()
    page.read(chat)
    run, _, _ = page.last_id.rpartition("-")
    for id in ("", "x", "-1", f"{run}-99", f"{run}-x", f"{run}-" + "9" * 5_000, Chat("ann").state()["busy"] or "q-1"):
        assert chat.position(id) is None, id
    assert chat.position(page.last_id) == 1


def test_extras_go_under_the_text_that_was_written_as_it_came() -> None:
    chat = Chat("ann")
    chat.answered("d1", "m1", "Shall", {}, is_draft=True)
    chat.grown("d1", "Shall I?")
    chat.answered("d2", "m1", "", {"buttons": [[{"text": "Yes", "value": "yes-1"}]]})
    chat.ended("m1")
    [entry] = chat.state()["entries"]
    assert (entry["text"], entry["draft"]) == ("Shall I?", False)
    assert chat.has_button("yes-1") and not chat.has_button("yes-2")


def test_what_nothing_is_heard_of_is_asked_for_once_in_a_while() -> None:
    chat = Chat("ann")
    chat.said("m1", "hello", 0)
    chat.works_on("m1", 0.0)
    assert chat.unheard_of(WORKING_SECONDS) == []
    assert chat.unheard_of(WORKING_SECONDS + 1) == [("m1", "hello", WORKING_SECONDS + 1)]
    assert chat.unheard_of(WORKING_SECONDS + 2) == []
    chat.works_on("m1", 20.0)
    assert chat.unheard_of(20.0 + WORKING_SECONDS) == []


def test_chats_that_are_in_use_stay() -> None:
    chats = Chats(2)
    ann, bob = chats.of("ann"), chats.of("bob")
    assert ann is not None and bob is not None
    ann.streams.append(Stream())
    assert chats.of("cid") is not None and chats.of("ann") is ann
    assert chats.of("bob") is not bob
    bob = chats.of("bob")
    assert bob is not None
    bob.works_on("m1", 0.0)
    assert chats.of("dan") is None


def test_the_oldest_files_make_way() -> None:
    held = HeldFiles(100)
    first, second = (held.add(HeldFile("ann", "text/plain", "a.txt", bytes(60))) for _ in range(2))
    assert first is not None and second is not None
    assert held.of(first, "ann") is None and held.of(second, "ann") is not None
    assert held.of(second, "bob") is None
    assert held.add(HeldFile("ann", "text/plain", "b.txt", bytes(101))) is None
    assert held.of(second, "ann") is not None


@given(some.text(max_size=120))
def test_nobody_makes_a_name(text: str) -> None:
    assert VisitorNames(["a secret"]).visitor_of(text, 0.0) is None


def test_a_name_holds_for_its_time_and_over_a_change_of_the_secret() -> None:
    name = VisitorNames(["old"]).new(1_000.0)
    visitor = VisitorNames(["old"]).visitor_of(name, 1_000.0)
    assert visitor is not None and VisitorNames(["new", "old"]).visitor_of(name, 2_000.0) == visitor
    assert VisitorNames(["new"]).visitor_of(name, 2_000.0) is None
    assert VisitorNames(["old"]).visitor_of(name, 1_001.0 + VISITOR_TTL) is None
    assert VisitorNames(["old"]).visitor_of(name, 0.0) is None
    for at, letter in enumerate(name):
        forged = name[:at] + ("A" if letter != "A" else "B") + name[at + 1 :]
        assert VisitorNames(["old"]).visitor_of(forged, 1_000.0) in (None, visitor), forged
        assert VisitorNames(["old"]).visitor_of(forged, 1_000.0) is None or at == len(name) - 1


def test_the_guide_has_the_pages_own_words() -> None:
    script = asset_of("app.js").decode().partition("const labels = {")[2].partition("...settings.labels")[0]
    guide = (Path(__file__).parents[4] / "docs" / "web-chat.md").read_text()
    [shown] = re.findall(r"^```json\n(.*?)^```", guide, re.M | re.S)
    assert json.loads(shown) == dict(re.findall(r'^  (\w+): "(.*)",$', script, re.M)) != {}
