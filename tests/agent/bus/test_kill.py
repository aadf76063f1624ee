"""`kill -9` of a service whose bus is durable: nothing that was accepted is lost, whatever the moment.

`DEFINABLE_KILLS=20` kills that often instead of twice.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from definable.agent.bus import SQLiteBus

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

KILLS = int(os.environ.get("DEFINABLE_KILLS", "2"))

BACKENDS = ("asyncio", "trio")

WORKERS = 20
"""Of the victim: what is handled at once."""

PROMISERS = 4
"""Clients that have work promised over HTTP."""

LIMIT = 60.0
"""Seconds that the last life may take to handle what the others left."""


@dataclass
class Journal:
    """What the lives of the victim noted down."""

    accepted: set[str] = field(default_factory=set)
    begun: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """Attempts and lives."""
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    ran: Counter[str] = field(default_factory=Counter)
    keyed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What was begun and done of events with a key, in order."""

    @classmethod
    def read(cls, path: Path) -> Journal:
        journal = cls()
        for word, id, *rest in map(str.split, path.read_text().splitlines() if path.exists() else ()):
            if id.startswith("keyed") and word in ("begun", "done"):
                journal.keyed.append((word, id))
            if word == "begun":
                journal.begun[id].append((int(rest[0]), rest[1]))
            elif word == "ran":
                journal.ran[id] += 1
            else:
                {"accepted": journal.accepted, "failed": journal.failed, "done": journal.done}[word].add(id)
        return journal

    def repeated_after(self, life: str) -> set[str]:
        """What was begun in that life and again in a later one."""
        return {id for id, begun in self.begun.items() if life in [where for _, where in begun[:-1]]}


def check_order_of_keys(journal: Journal) -> int:
    """What was accepted of one key is begun when all before it is done; returns how many were handled."""
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for id in journal.accepted:
        if id.startswith("keyed"):
            key, _, number = id.rpartition(".")
            waiting[key].append(int(number))
    handled = sum(map(len, waiting.values()))
    for word, id in journal.keyed:
        key, _, number = id.rpartition(".")
        earlier = [each for each in waiting[key] if each < int(number)]
        assert not earlier, (word, id, earlier)
        if word == "done" and int(number) in waiting[key]:
            waiting[key].remove(int(number))
    return handled


@dataclass
class Home:
    """Where the victim lives."""

    directory: Path
    bus: str
    """A file's path, or a URL."""

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def journal(self) -> Journal:
        return Journal.read(self.log)

    @contextmanager
    def life(self, name: str, backend: str) -> Generator[subprocess.Popen[str], None, None]:
        command = [sys.executable, str(Path(__file__).with_name("victim.py")), self.bus, str(self.log)]
        with subprocess.Popen(
            [*command, backend, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def last_life(self, backend: str, promised: set[str]) -> Journal:
        """Let it handle what is left, and stop it cleanly."""
        with self.life("last", backend) as process:
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline().startswith("http")
            end = time.monotonic() + LIMIT
            while not is_complete(journal := self.journal(), promised) and time.monotonic() < end:
                time.sleep(0.1)
            process.stdin.close()
            assert process.wait(LIMIT) == 0
        return journal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def home(request: pytest.FixtureRequest, tmp_path: Path, file: Path) -> Home:
    if request.param == "sqlite":
        return Home(tmp_path, str(file))
    server = request.getfixturevalue(request.param)
    return Home(tmp_path, server if request.param == "postgres" else server.url)


def is_complete(journal: Journal, promised: set[str]) -> bool:
    return journal.accepted <= journal.done and promised <= journal.ran.keys()


class Promiser(threading.Thread):
    """Has work promised until the service is gone: webhooks and runs that are answered with 202."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.promised: set[str] = set()
        self.has_begun = threading.Event()
        """Set at the first promise."""
        self.start()

    def run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=20, trust_env=False, verify=False) as client:
            try:
                while True:
                    key = f"{random.getrandbits(64):x}"
                    self._keep(client.post("/hook", json={}, headers={"X-Delivery": key}))
                    self._keep(client.post("/run", json={"input": "hi"}, headers={"Prefer": "respond-async"}))
            except httpx2.HTTPError:
                pass

    def _keep(self, response: httpx2.Response) -> None:
        assert response.status_code == 202, response.text
        self.promised.add(response.json()["run_id"])
        self.has_begun.set()


@pytest.mark.timeout(120 + 30 * KILLS)  # a life takes 2 s, and 8 s where six others share the machine
def test_nothing_that_was_accepted_is_lost(home: Home) -> None:
    promised: set[str] = set()
    for life in range(KILLS):
        with home.life(str(life), BACKENDS[life % 2]) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http")
            promisers = [Promiser(url) for _ in range(PROMISERS)]
            assert promisers[0].has_begun.wait(LIMIT)  # a busy machine takes longer than the sleep to make a client
            time.sleep(random.uniform(0.0, 0.5))
            process.kill()
            process.wait()
            for promiser in promisers:
                promiser.join(LIMIT)
                promised |= promiser.promised
    journal = home.last_life(BACKENDS[KILLS % 2], promised)

    lost = journal.accepted - journal.done
    repeats = {life: journal.repeated_after(str(life)) for life in range(KILLS)}
    sys.stdout.write(
        f"{KILLS} kills: {len(journal.accepted)} events accepted, {len(lost)} lost; {len(promised)} runs promised, "
        f"{len(promised - journal.ran.keys())} lost; begun again after each kill: {[*map(len, repeats.values())]}\n"
    )
    assert len(journal.accepted) > 50 * KILLS
    assert not lost
    assert promised
    assert promised <= journal.ran.keys()
    for again in repeats.values():  # what was in hand, and what was done but a moment ago
        assert len(again) <= 2 * WORKERS
    for begun in journal.begun.values():
        attempts = [attempt for attempt, _ in begun]
        assert attempts == sorted(set(attempts)), "every attempt is counted over the kills"
        assert len({life for _, life in begun}) == len(begun), "nothing is handed out twice within one life"


@pytest.mark.timeout(240 + 60 * KILLS)
def test_every_kind_of_event_survives_kills_of_replicas_and_only_what_was_in_flight_is_repeated(home: Home) -> None:
    """Limited triggers, retries, later events; of buses that processes share, three replicas of which one is killed."""
    replicas = 3 if "://" in home.bus else 1
    numbers, killed = itertools.count(), list[str]()
    with ExitStack() as stack:

        def begin() -> tuple[str, subprocess.Popen[str]]:
            number = next(numbers)
            life = f"mix{number}"
            process = stack.enter_context(home.life(life, BACKENDS[number % 2]))
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http")
            return life, process

        running = [begin() for _ in range(replicas)]
        for kill in range(KILLS):
            time.sleep(random.uniform(0.2, 0.8))
            life, process = running.pop(0)
            process.kill()
            process.wait()
            killed.append(life)
            if kill < KILLS - 1:
                running.append(begin())
        for life, process in running:
            process.kill()
            process.wait()
            killed.append(life)
    journal = home.last_life(BACKENDS[KILLS % 2], set())

    lost = journal.accepted - journal.done
    repeats = [
        (id, life)
        for id, begun in journal.begun.items()
        for attempt, life in begun[:-1]
        if not (id.startswith(("retried", "keyed")) and attempt == 1 and id in journal.failed)
    ]
    sys.stdout.write(
        f"{len(killed)} kills, {replicas} replicas: {len(journal.accepted)} events accepted, {len(lost)} lost, "
        f"{len(repeats)} begun again, at most {max(Counter(life for _, life in repeats).values(), default=0)} a kill; "
        f"{check_order_of_keys(journal)} with a key in its order\n"
    )
    assert len(journal.accepted) > 5 * KILLS
    assert not lost
    for life, count in Counter(life for _, life in repeats).items():
        assert life in killed, repeats
        assert count <= 2 * WORKERS  # what was in flight, and what was done but a moment ago
    for id, begun in journal.begun.items():
        attempts = [attempt for attempt, _ in begun]
        assert attempts == sorted(set(attempts)), "every attempt is counted over the kills"
        if id.startswith("retried") and id in journal.done:
            assert attempts[-1] >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_event_that_takes_the_process_along_comes_back_as_the_next_attempt(home: Home, backend: str) -> None:
    for name in ("poison", "again"):
        with home.life(name, backend) as process:
            assert process.wait(LIMIT) == -9
    with home.life("last", backend) as process:
        assert process.stdin is not None
        while "poison" not in home.journal().done:
            assert process.poll() is None
            time.sleep(0.02)
        process.stdin.close()
        assert process.wait(LIMIT) == 0
    assert [attempt for attempt, _ in home.journal().begun["poison"]] == [1, 2, 3]


def test_a_file_whose_owner_was_killed_is_free_at_once(tmp_path: Path, file: Path) -> None:
    home = Home(tmp_path, str(file))
    with home.life("1", "asyncio") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
    with home.life("last", "trio") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http")
    assert repr(SQLiteBus(file)) == f"SQLiteBus({str(file)!r})"
