"""What is said over one gateway connection, and what follows from it: the protocol, pure.

`connection.py` feeds it with what it receives and with the ticks of the heartbeat, and does what it answers. It knows
no socket and no clock. Source: Discord's "Gateway", Connection Lifecycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .close_code import Recovery
from .gateway_session import GatewaySession
from .payload import Opcode, Payload, encode


@dataclass(frozen=True, slots=True)
class Send:
    """Send this."""

    text: str


@dataclass(frozen=True, slots=True)
class StartHeart:
    """Send a heartbeat every `interval` seconds, the first after a random share of it."""

    interval: float


@dataclass(frozen=True, slots=True)
class Established:
    """The bot is on line: events come from now on."""

    resumed: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event: deal with it in its turn, then tell the session that it was handled."""

    event: Payload


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close, and go on as `recovery` says."""

    recovery: Recovery
    why: str


Action: TypeAlias = Send | StartHeart | Established | Deliver | HangUp


class GatewayProtocol:
    """One connection's side of the protocol.

    Args:
        session: Resumed where it can be, else begun anew.
        token: The bot's.
        identify: The data of the identify payload, less the token.
    """

    def __init__(self, session: GatewaySession, token: str, identify: Mapping[str, Any]) -> None:
        self._session = session
        self._token = token
        self._identify = identify
        self._greeted = False
        self._resuming = False
        self._acknowledged = True
        self._over = False

    def receive(self, payload: Payload) -> Sequence[Action]:
        """What follows from a payload; nothing once a `HangUp` was answered."""
        react = self._reactions.get(payload.op)
        return () if self._over or react is None else react(self, payload)

    def beat(self) -> Sequence[Action]:
        """What to do when a heartbeat is due: a connection whose last one was not acknowledged is dead, a "zombie"."""
        if self._over:
            return ()
        if not self._acknowledged:
            return self._hang_up(Recovery.RESUME, "the last heartbeat was not acknowledged")
        self._acknowledged = False
        return (self._heartbeat(),)

    def _on_hello(self, payload: Payload) -> Sequence[Action]:
        interval: Any = payload.fields.get("heartbeat_interval")
        if self._greeted or not isinstance(interval, int | float) or not interval > 0:
            return self._hang_up(Recovery.RESUME, "a hello that makes no sense")
        self._greeted = True
        self._resuming = self._session.resumable
        return (StartHeart(interval / 1000), self._resume() if self._resuming else self._begin())

    def _on_dispatch(self, payload: Payload) -> Sequence[Action]:
        if not self._greeted:
            return self._hang_up(Recovery.RESUME, "an event before the hello")
        if payload.event == "READY":
            return self._on_ready(payload)
        if payload.event == "RESUMED":
            self._session.resumed()
            return (Established(resumed=True), Deliver(payload))
        return (Deliver(payload),)

    def _on_ready(self, payload: Payload) -> Sequence[Action]:
        self._session.begin(payload.fields, payload.sequence)
        return (Established(resumed=False),)

    def _on_invalid_session(self, payload: Payload) -> Sequence[Action]:
        if payload.data is True:
            return self._hang_up(Recovery.RESUME, "the session is not to be had just now")
        return self._hang_up(Recovery.IDENTIFY, "the session is no longer valid")

    def _on_reconnect(self, payload: Payload) -> Sequence[Action]:
        return self._hang_up(Recovery.RESUME, "Discord asks to connect again")

    def _on_heartbeat(self, payload: Payload) -> Sequence[Action]:
        # Out of turn, so it says nothing about whether the regular one was acknowledged.
        return (self._heartbeat(),)

    def _on_acknowledged(self, payload: Payload) -> Sequence[Action]:
        self._acknowledged = True
        return ()

    def _hang_up(self, recovery: Recovery, why: str) -> Sequence[Action]:
        self._over = True
        return (HangUp(recovery, why),)

    def _heartbeat(self) -> Send:
        return Send(encode(Opcode.HEARTBEAT, self._session.sequence))

    def _begin(self) -> Send:
        return Send(encode(Opcode.IDENTIFY, {"token": self._token, **self._identify}))

    def _resume(self) -> Send:
        session = self._session
        data = {"token": self._token, "session_id": session.session_id, "seq": session.sequence}
        return Send(encode(Opcode.RESUME, data))

    _reactions: Mapping[int, Callable[[Any, Payload], Sequence[Action]]] = {
        Opcode.DISPATCH: _on_dispatch,
        Opcode.HEARTBEAT: _on_heartbeat,
        Opcode.RECONNECT: _on_reconnect,
        Opcode.INVALID_SESSION: _on_invalid_session,
        Opcode.HELLO: _on_hello,
        Opcode.HEARTBEAT_ACK: _on_acknowledged,
    }
