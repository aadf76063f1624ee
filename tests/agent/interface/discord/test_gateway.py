"""The gateway in virtual time, against peers that follow a script: its waits, and what it makes of an end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from loopback.discord_objects import TOKEN, ready

from definable.agent.interface import (
    DiscordConfig,
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceRateLimitError,
)
from definable.agent.interface.discord.gateway import (
    Gateway,
    GatewayInfo,
    GatewayRefusedError,
    read_gateway_info,
    with_query,
)
from definable.agent.interface.discord.protocol import GatewaySession, Payload
from definable.agent.interface.websocket import SocketClosed, WebSocket
from definable.testing import VIRTUAL_BACKENDS, virtual_time

pytestmark = pytest.mark.anyio


@pytest.fixture(params=VIRTUAL_BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Iterator[object]:
    with virtual_time(request.param) as backend:
        yield backend


class Peer:
    """One connection's other end. A script says what it sends; heartbeats it acknowledges by itself."""

    def __init__(self, *script: Any, acknowledges: bool = True) -> None:
        self.script = script
        """Payloads as (op, data) or (op, data, sequence, event); numbers are seconds to wait, or as "4000" close codes;
        at its end the peer stays silent."""
        self.acknowledges = acknowledges
        self.heard: list[tuple[float, int, Any]] = []
        self.opened = 0.0
        self.send: MemoryObjectSendStream[str | int]

    async def play(self) -> None:
        for line in self.script:
            match line:
                case float() | int():
                    await anyio.sleep(line)
                case str():
                    await self.send.send(int(line))
                case (op, data, *rest):
                    sequence, event = rest or (None, None)
                    await self.send.send(json.dumps({"op": op, "d": data, "s": sequence, "t": event}))

    async def took(self, payload: Any) -> None:
        """What happens before a payload is heard."""

    def ops(self, *wanted: int) -> list[int]:
        return [op for _, op, _ in self.heard if not wanted or op in wanted]


class PeerSocket:
    def __init__(self, peer: Peer, received: MemoryObjectReceiveStream[str | int]) -> None:
        self.peer = peer
        self.received = received

    async def receive(self) -> str | bytes:
        item = await self.received.receive()
        if isinstance(item, int):
            raise SocketClosed(item or None)
        return item

    async def send(self, text: str) -> None:
        payload = json.loads(text)
        await self.peer.took(payload)
        self.peer.heard.append((anyio.current_time() - self.peer.opened, payload["op"], payload["d"]))
        if payload["op"] == 1 and self.peer.acknowledges:
            await self.peer.send.send(json.dumps({"op": 11}))


class Platform:
    """Hands out its peers, one a connection, and remembers where and when it was connected to."""

    def __init__(self, *peers: Peer | None) -> None:
        self.peers = list(peers)
        self.urls: list[str] = []
        self.times: list[float] = []
        self.asked = 0
        self.info = GatewayInfo("ws://main", 1000, 0.0)
        self.closed: list[float] = []
        self.events: list[Payload] = []
        self.signs_of_life: list[float] = []
        self.began = anyio.current_time()

    async def discover(self) -> GatewayInfo:
        self.asked += 1
        return self.info

    async def handle(self, event: Payload) -> None:
        self.events.append(event)

    @asynccontextmanager
    async def open(self, url: str, timeout: float) -> AsyncGenerator[WebSocket, None]:
        self.urls.append(url.partition("?")[0])
        self.times.append(anyio.current_time() - self.began)
        peer = self.peers.pop(0) if self.peers else Peer(HELLO, READY)
        if peer is None:
            raise InterfaceConnectionError("nobody is there")
        peer.opened = anyio.current_time()
        peer.send, received = anyio.create_memory_object_stream[str | int](1000)
        with peer.send, received:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.play)
                yield PeerSocket(peer, received)
                self.closed.append(anyio.current_time() - self.began)
                tasks.cancel_scope.cancel()

    async def run(self, seconds: float, session: GatewaySession | None = None, **config: Any) -> None:
        """Run a gateway for so long."""
        settings = DiscordConfig(bot_token=TOKEN, **config)
        gateway = Gateway(
            settings, session or GatewaySession(), self.discover, self.handle, self.alive, None, self.open
        )
        with anyio.move_on_after(seconds):
            await gateway.run()

    def alive(self) -> None:
        self.signs_of_life.append(anyio.current_time() - self.began)


HELLO = (10, {"heartbeat_interval": 40_000})
READY = (0, ready("s1", "ws://resume"), 1, "READY")
RESUMED = (0, {}, 9, "RESUMED")


def event(sequence: int) -> tuple[Any, ...]:
    return (0, {"id": str(sequence)}, sequence, "MESSAGE_CREATE")


async def test_the_heart_beats_at_its_interval_the_first_time_after_a_share_of_it() -> None:
    peer = Peer(HELLO, READY)
    await Platform(peer).run(200)
    beats = [at for at, op, _ in peer.heard if op == 1]
    assert 0 <= beats[0] <= 40
    assert [later - beat for beat, later in pairwise(beats)] == pytest.approx([40] * (len(beats) - 1))
    assert len(beats) >= 4


async def test_a_zombie_is_left_and_the_session_resumed() -> None:
    zombie, next_one = Peer(HELLO, READY, event(2), acknowledges=False), Peer(HELLO, RESUMED)
    platform = Platform(zombie, next_one)
    await platform.run(100)
    assert zombie.ops() == [2, 1]
    assert next_one.heard[0][1:] == (6, {"token": TOKEN, "session_id": "s1", "seq": 2})
    assert platform.urls == ["ws://main/", "ws://resume/"]
    assert 40 <= platform.times[1] <= 80


@pytest.mark.parametrize("ending", [(7, None), (9, True), "4000", "4008", "1001", "0"])
async def test_after_an_ordinary_end_the_session_is_resumed_at_once(ending: Any) -> None:
    platform = Platform(Peer(HELLO, READY, 20, ending), following := Peer(HELLO, RESUMED))
    await platform.run(30)
    assert following.ops(2, 6) == [6]
    assert platform.times == pytest.approx([0, 20])
    assert platform.asked == 1


@pytest.mark.parametrize("ending", [(9, False), "4003", "4007", "4009"])
async def test_when_the_session_is_over_a_new_one_begins_after_a_while(ending: Any) -> None:
    platform = Platform(Peer(HELLO, READY, 20, ending), following := Peer(HELLO, READY))
    await platform.run(30)
    assert following.ops(2, 6) == [2]
    assert 21 <= platform.times[1] <= 25
    assert platform.urls == ["ws://main/", "ws://main/"]


@pytest.mark.parametrize("code", [4010, 4011, 4012, 4013, 4014])
async def test_a_bot_that_is_refused_does_not_try_again(code: int) -> None:
    platform = Platform(Peer(HELLO, str(code)))
    with pytest.raises(GatewayRefusedError, match=str(code)) as caught:
        await platform.run(1000)
    assert isinstance(caught.value, InterfaceAuthenticationError), "what the supervisor takes for fatal"
    assert len(platform.times) == 1


async def test_a_refused_token_is_not_tried_again_and_not_shown() -> None:
    platform = Platform(Peer(HELLO, "4004"))
    with pytest.raises(InterfaceAuthenticationError, match="4004") as caught:
        await platform.run(1000)
    assert TOKEN not in str(caught.value) and len(platform.times) == 1


async def test_two_identifies_keep_their_distance() -> None:
    platform = Platform(*(Peer(HELLO, READY, (9, False)) for _ in range(3)))
    await platform.run(60)
    assert all(later - former >= 5 for former, later in pairwise(platform.times))


async def test_connections_that_do_not_last_follow_slower_and_slower() -> None:
    platform = Platform(*(Peer(HELLO, READY, (7, None)) for _ in range(12)))
    await platform.run(600)
    gaps = [later - former for former, later in pairwise(platform.times)]
    assert gaps[0] == 0 and gaps[1] == pytest.approx(1, rel=0.11) and gaps[2] == pytest.approx(2, rel=0.11)
    assert max(gaps) <= 66


async def test_a_gateway_that_cannot_be_had_is_left_to_the_supervisor_soon() -> None:
    platform = Platform(*[None] * 10)
    with pytest.raises(InterfaceConnectionError, match="nobody is there"):
        await platform.run(1000)
    assert len(platform.times) == 3


@pytest.mark.parametrize("script", [[], [HELLO]])
async def test_a_gateway_that_does_not_greet_is_given_up_in_time(script: list[Any]) -> None:
    platform = Platform(*(Peer(*script) for _ in range(5)))
    with pytest.raises(InterfaceConnectionError, match="not on line within 7 s"):
        await platform.run(1000, connect_timeout=7)
    assert platform.times[1] == pytest.approx(7)


async def test_a_gateway_that_greets_and_lets_nobody_in_is_not_alive() -> None:
    platform = Platform(*(Peer(HELLO) for _ in range(2)), Peer(HELLO, 5, READY))
    await platform.run(80)
    assert platform.signs_of_life[0] == pytest.approx(platform.times[2] + 5)


async def test_a_dead_resume_address_gives_way_to_the_usual_one() -> None:
    platform = Platform(Peer(HELLO, READY, 20, "4000"), None, following := Peer(HELLO, RESUMED))
    await platform.run(40)
    assert platform.urls == ["ws://main/", "ws://resume/", "ws://main/"]
    assert following.ops(2, 6) == [6]


async def test_a_configured_gateway_is_used_throughout() -> None:
    platform = Platform(Peer(HELLO, READY, 20, "4000"), Peer(HELLO, RESUMED))
    await platform.run(40, gateway_url="wss://proxy/gateway")
    assert platform.urls == ["wss://proxy/gateway"] * 2


async def test_no_session_is_begun_when_none_is_left() -> None:
    platform = Platform()
    platform.info = GatewayInfo("ws://main", 0, 3600.0)
    with pytest.raises(InterfaceRateLimitError) as caught:
        await platform.run(10_000)
    assert caught.value.retry_after == 3600 and platform.times == []


async def test_a_short_wait_for_a_session_start_is_waited() -> None:
    platform = Platform(peer := Peer(HELLO, READY))
    platform.info = GatewayInfo("ws://main", 0, 30.0)
    await platform.run(40)
    assert platform.times == pytest.approx([30]) and 2 in peer.ops()


async def test_what_was_not_accepted_is_replayed_on_resume() -> None:
    session, platform = GatewaySession(), Platform(Peer(HELLO, READY, event(2), event(3)))

    async def slow(event: Payload) -> None:
        await anyio.sleep(10)
        platform.events.append(event)

    platform.handle = slow
    await platform.run(15, session)  # cut off while the second is being accepted
    assert [each.sequence for each in platform.events] == [2]
    platform.peers.append(following := Peer(HELLO, event(3), RESUMED))
    await platform.run(25, session)
    assert following.heard[0][2]["seq"] == 2
    assert [each.sequence for each in platform.events] == [2, 3, 9]


async def test_events_that_came_before_a_session_ended_are_handled_still() -> None:
    platform = Platform(Peer(HELLO, READY, event(2), event(3), (9, False)))

    async def slow(event: Payload) -> None:
        await anyio.sleep(3)
        platform.events.append(event)

    platform.handle = slow
    await platform.run(20)
    assert [each.sequence for each in platform.events] == [2, 3]


@pytest.mark.parametrize("refusal", [[HELLO, (9, True)], [HELLO, "4000"], [HELLO], []])
async def test_a_session_that_is_never_given_back_gives_way_to_a_new_one(refusal: list[Any]) -> None:
    session, peers = GatewaySession(), [Peer(*refusal) for _ in range(3)]
    platform = Platform(Peer(HELLO, READY, 20, "4000"), *peers)
    with pytest.raises(InterfaceConnectionError):
        await platform.run(1000, session)
    platform.peers.append(following := Peer(HELLO, READY))
    await platform.run(30, session)
    assert following.ops(2, 6) == [2]


async def test_a_session_out_of_reach_is_resumed_however_long_that_takes() -> None:
    session, platform = GatewaySession(), Platform(Peer(HELLO, READY, 20, "4000"), *[None] * 6)
    for _ in range(2):
        with pytest.raises(InterfaceConnectionError):
            await platform.run(1000, session)
    platform.peers.append(following := Peer(HELLO, RESUMED))
    await platform.run(30, session)
    assert following.ops(2, 6) == [6]


async def test_a_session_that_is_given_back_piece_by_piece_is_kept() -> None:
    """The replay takes longer than the connections last."""
    session = GatewaySession()
    parts = [Peer(HELLO, event(number), "4000") for number in range(2, 8)]
    platform = Platform(Peer(HELLO, READY, 20, "4000"), *parts)
    for _ in range(2):
        with pytest.raises(InterfaceConnectionError):
            await platform.run(1000, session)
    platform.peers.append(following := Peer(HELLO, RESUMED))
    await platform.run(30, session)
    assert following.heard[0][1:] == (6, {"token": TOKEN, "session_id": "s1", "seq": 7})


@pytest.mark.parametrize("ending", [(7, None), "4000"])
async def test_a_connection_is_closed_at_once_whatever_is_still_to_be_dealt_with(ending: Any) -> None:
    """Discord would hold a socket without a heartbeat for dead, and its session with it."""
    platform = Platform(Peer(HELLO, READY, event(2), event(3), ending), following := Peer(HELLO, RESUMED))

    async def slow(event: Payload) -> None:
        await anyio.sleep(100)
        platform.events.append(event)

    platform.handle = slow
    await platform.run(210)
    assert platform.closed[0] == pytest.approx(0, abs=1)
    assert [each.sequence for each in platform.events] == [2, 3]
    assert following.heard[0][2]["seq"] == 3, "nothing is asked for again that was dealt with meanwhile"


async def test_what_is_no_payload_ends_the_connection_alone() -> None:
    broken = Peer(HELLO, READY, 20)
    platform = Platform(broken, following := Peer(HELLO, RESUMED))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(platform.run, 40)
        await anyio.sleep(15)
        await broken.send.send("{not json")
    assert following.ops(2, 6) == [6]


async def test_a_gateway_that_takes_nothing_is_left_and_the_session_resumed() -> None:
    class Full(Peer):
        async def took(self, payload: Any) -> None:
            if payload["op"] == 1:
                await anyio.sleep_forever()

    full, resumed = Full(HELLO, READY), Peer(HELLO, RESUMED)
    platform = Platform(full, resumed)
    await platform.run(200)
    assert (full.ops(1), resumed.ops(6)) == ([], [6])
    assert platform.urls == ["ws://main/", "ws://resume/"]


async def test_an_error_in_handling_an_event_comes_out() -> None:
    platform = Platform(Peer(HELLO, READY, event(2)))

    async def fail(event: Payload) -> None:
        raise ZeroDivisionError

    platform.handle = fail
    with pytest.raises(ExceptionGroup) as caught:
        await platform.run(10)
    assert caught.value.subgroup(ZeroDivisionError)


@pytest.mark.parametrize("intents", [True, False])
async def test_only_the_intents_that_are_needed_are_asked_for(intents: bool) -> None:
    platform = Platform(peer := Peer(HELLO, READY))
    await platform.run(5, intents_message_content=intents)
    (identify,) = [data for _, op, data in peer.heard if op == 2]
    assert identify["intents"] == (1 << 9 | 1 << 12) + intents * (1 << 15)


def test_the_url_says_what_we_speak() -> None:
    assert with_query("wss://g.example") == "wss://g.example/?v=10&encoding=json"
    assert with_query("ws://h/p?v=9&x=1") == "ws://h/p?v=10&x=1&encoding=json"


@pytest.mark.parametrize("body", [None, [], {}, {"url": "x"}, {"url": "x", "session_start_limit": {"remaining": "?"}}])
def test_an_answer_that_is_no_gateway_info(body: Any) -> None:
    with pytest.raises(InterfaceConnectionError):
        read_gateway_info(body)
