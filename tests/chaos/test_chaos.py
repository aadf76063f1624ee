"""A served agent with all its sources under load, while everything fails that can: what it accepted is accounted for.

A seed makes a plan, a plan is a round: some lives of the service with faults, each with its own end, then a calm one
that handles what is left. Two rounds a backend; DEFINABLE_CHAOS_ROUNDS=100 makes a hundred, DEFINABLE_CHAOS_SEED=7
begins with that seed, which replays a round that failed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from chaos.line_chat import LineServer
from chaos.load import Load, Tally
from chaos.plan import End, Plan
from watched_process import WatchedProcess

ROUNDS = int(os.environ.get("DEFINABLE_CHAOS_ROUNDS", "2"))

FIRST_SEED = int(os.environ.get("DEFINABLE_CHAOS_SEED", "1"))

TESTS = Path(__file__).parent.parent

DRAIN_LIMIT = 90.0
"""Seconds that the calm life may take to handle what the others left, and any life to end."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
]


class Round:
    """One plan, carried out.

    Args:
        plan: The plan.
        backend: The service's.
        directory: Where the service keeps its files.
    """

    def __init__(self, plan: Plan, backend: str, directory: Path) -> None:
        self.plan = plan
        self.tally = Tally()
        self.chat = LineServer()
        self._backend = backend
        self._directory = directory
        self._chance = random.Random(plan.seed)
        self._ids = itertools.count()
        self._forgotten: set[str] = set()
        """What died with lives whose bus was memory; their accounts were right."""

    async def run(self) -> None:
        """Every life, then the calm one."""
        async with anyio.create_task_group() as platform:
            await platform.start(self.chat.run)
            for number, (end, seconds) in enumerate(self.plan.lives):
                await self._life(number, end, seconds)
            if self.plan.is_durable:
                await self._calm_life()
            platform.cancel_scope.cancel()

    async def _life(self, number: int, end: End, seconds: float) -> None:
        self.tally.begin_life(forget=not self.plan.is_durable)
        if not self.plan.is_durable:
            self._forgotten |= self.missing()
        with self._process(str(number)) as process:
            url = await self._ready(process)
            load = Load(
                url,
                self.chat,
                self.tally,
                self._chance.getrandbits(32),
                endless=end is not End.DRAIN,
                ids=self._ids,
            )
            async with anyio.create_task_group() as clients:
                clients.start_soon(load.run)
                await anyio.sleep(seconds)
                await self._end(process, end, load)
                status = await to_thread.run_sync(process.exit_status, DRAIN_LIMIT)
                clients.cancel_scope.cancel()
            self._check(process, end, status)

    async def _calm_life(self) -> None:
        with self._process("calm") as process:
            await self._ready(process)
            with anyio.move_on_after(DRAIN_LIMIT):
                while self.missing():
                    await anyio.sleep(0.05)
            process.process.send_signal(signal.SIGTERM)
            status = await to_thread.run_sync(process.exit_status, DRAIN_LIMIT)
            assert not self.missing(), "accepted and lost"
            assert status == 0
            account = account_of(process)
            assert account is not None and account["clean"] and not account["leaks"], account

    def missing(self) -> set[str]:
        """What was accepted and has come to no end."""
        accepted, ended = self._journal()
        return (self.tally.promised | self.chat.accepted | accepted) - ended - self._forgotten

    async def _end(self, process: WatchedProcess, end: End, load: Load) -> None:
        number = self._chance.choice((signal.SIGINT, signal.SIGTERM))
        if end is End.KILL:
            process.process.kill()
        elif end is End.INTERRUPT:
            await load.interrupt()
        else:
            for _ in range({End.FORCE: 2, End.HARD: 3}.get(end, 1)):
                process.process.send_signal(number)
                await anyio.sleep(0.15)  # signals that come together arrive as one

    def _check(self, process: WatchedProcess, end: End, status: int) -> None:
        allowed: tuple[int, ...] = (0,)
        if end is End.KILL:
            allowed = (-signal.SIGKILL,)
        elif end is End.INTERRUPT:
            allowed = (-signal.SIGINT,)
        elif end in (End.FORCE, End.HARD):
            allowed = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
            if "chaos stopped" in process.text:  # the last signal came when `serve` had returned
                allowed += (-signal.SIGINT, -signal.SIGTERM)
        assert status in allowed, f"{end}: exit status {status}"
        if end not in (End.INTERRUPT, End.FORCE, End.HARD):  # which may break in anywhere, also into finalisers
            assert not unplanned(process)
        account = account_of(process)
        if account is None:
            assert end in (End.KILL, End.HARD), "no account"
            return
        assert not account["leaks"], account
        self._check_account(account, end)

    def _check_account(self, account: dict[str, Any], end: End) -> None:
        totals = {
            source: count["completed"] + count["cancelled"] + count["never_started"]
            for source, count in account["sources"].items()
        }
        answered = self.tally.statuses.total() - self.tally.statuses[503]
        assert totals["http"] >= answered, (account, self.tally)
        if end is End.DRAIN:
            assert account["clean"] and not account["forced"], account
        if self.plan.is_durable:
            return
        certain = account["emitted"] + self.tally.accepted
        assert certain <= totals["event"] <= certain + self.tally.unsure, (account, self.tally)
        assert totals["lines"] == account["taken"], account
        assert totals["cron"] == account["fired"], account
        if end is End.DRAIN:
            assert not self.missing()

    @contextmanager
    def _process(self, life: str) -> Generator[WatchedProcess, None, None]:
        script = TESTS / "chaos" / "service.py"
        arguments = [self._backend, str(self._directory), life, str(self.chat.port), self.plan.to_json()]
        with WatchedProcess([str(script), *arguments], self._directory, {"PYTHONPATH": str(TESTS)}) as process:
            try:
                yield process
            finally:
                (self._directory / f"life {life}").write_text(process.text)

    async def _ready(self, process: WatchedProcess) -> str:
        return await to_thread.run_sync(process.wait_for, r"http +(http://\S+)")

    def _journal(self) -> tuple[set[str], set[str]]:
        accepted: set[str] = set()
        ended: set[str] = set()
        path = self._directory / "journal"
        for word, id in map(str.split, path.read_text().splitlines() if path.exists() else ()):
            (accepted if word == "accepted" else ended).add(id)
        return accepted, ended


def account_of(process: WatchedProcess) -> dict[str, Any] | None:
    """What the service printed at its end."""
    return next((json.loads(line[8:]) for line in process.lines if line.startswith("account ")), None)


def unplanned(process: WatchedProcess) -> list[str]:
    """Lines that say of a task or a thread that nobody looked at its failure.

    But for trio's own word on a generator that a handler has left unfinished: that is planned.
    """
    marks = ("never retrieved", "never awaited", "Exception ignored", "Exception in thread", "Exception in callback")
    planned = "trio.async_generator_errors"
    return [line for line in process.lines if any(mark in line for mark in marks) and planned not in line]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
def test_whatever_fails_what_was_accepted_is_accounted_for(backend: str, seed: int, tmp_path: Path) -> None:
    plan = Plan.of(seed)
    sys.stdout.write(f"replay with DEFINABLE_CHAOS_SEED={seed} DEFINABLE_CHAOS_ROUNDS=1: {plan}, in {tmp_path}\n")
    anyio.run(Round(plan, backend, tmp_path).run)
