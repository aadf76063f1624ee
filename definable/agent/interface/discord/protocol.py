"""The gateway's protocol, without a socket or a clock: payloads, the session, and what follows from what is received.

`connection.py` feeds `GatewayProtocol` with what it receives and with the ticks of the heartbeat, and does what it
answers. A `GatewaySession` outlives connections, so that the next can go on where one broke. Sources: Discord's
"Gateway", Connection Lifecycle; "Gateway Events"; "Opcodes and Status Codes", Gateway Close Event Codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, TypeAlias, cast


class Opcode(IntEnum):
    """What a payload is; of those that exist, the ones that a bot without voice meets."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class PayloadError(ValueError):
    """What was received is no gateway payload."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One payload that was received."""

    op: int
    """An `Opcode`, or one that is not known here."""
    data: Any = None
    sequence: int | None = None
    """Of a dispatch: its number within the session."""
    event: str | None = None
    """Of a dispatch: what happened."""

    @property
    def fields(self) -> dict[str, Any]:
        """The data, where it is an object; empty where it is not."""
        data: object = self.data
        return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def decode(text: str | bytes) -> Payload:
    """Read one payload.

    Raises:
        PayloadError: It is not JSON, or not a payload.
    """
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError("not JSON") from error
    if not isinstance(parsed, dict):
        raise PayloadError("not a JSON object")
    body = cast("dict[str, Any]", parsed)
    op, sequence, event = _integer(body.get("op")), body.get("s"), body.get("t")
    if op is None or (sequence is not None and _integer(sequence) is None):
        raise PayloadError("without an opcode or with a sequence number that is none")
    return Payload(op, body.get("d"), sequence, event if isinstance(event, str) else None)


def encode(op: Opcode, data: Any) -> str:
    """Write one payload."""
    return json.dumps({"op": op, "d": data}, separators=(",", ":"))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


RESUMABLE_CLOSE = 4000
"""What we close with: 1000 and 1001 would end the session, and Discord would not replay what came meanwhile."""


class ResumeAction(Enum):
    """How to go on."""

    RESUME = "resume"
    """Connect again and go on with the session, where there is one."""
    IDENTIFY = "identify"
    """The session is over: connect again and begin a new one."""
    BAD_TOKEN = "bad token"
    """Do not connect again: the token is refused."""
    REFUSED = "refused"
    """Do not connect again: Discord will not have this bot as it is set up."""


NEW_SESSION = frozenset({4003, 4007, 4009})
"""Not authenticated, invalid sequence, session timed out."""

BAD_TOKEN = 4004

REFUSALS = {
    4010: "invalid shard",
    4011: "the bot is in too many servers for one connection: sharding is required",
    4012: "invalid version of the gateway",
    4013: "invalid intents",
    4014: "an intent that is not allowed: switch on the Message Content Intent on the page Bot of the developer "
    "portal, or set intents_message_content=False",
}


def resume_action(code: int | None) -> ResumeAction:
    """How to go on after the peer has closed.

    Args:
        code: The WebSocket close code; None or 1006 where the connection broke without.
    """
    if code == BAD_TOKEN:
        return ResumeAction.BAD_TOKEN
    if code in REFUSALS:
        return ResumeAction.REFUSED
    return ResumeAction.IDENTIFY if code in NEW_SESSION else ResumeAction.RESUME


def explain(code: int | None, reason: str) -> str:
    """The end of a connection in words, for logs and errors."""
    if code is None or code == 1006:
        return "the connection broke"
    words = REFUSALS.get(code) or reason
    return f"closed with {code}: {words}" if words else f"closed with {code}"


MAX_FAILED_RESUMES = 3
"""In a row; then a new session is started, or the bot would stay mute for as long as the resumes fail."""


class GatewaySession:
    """The session that Discord keeps for the bot, as we know it.

    `sequence` is that of the last event that was dealt with, not of the last that came in: what was received and not
    accepted when a connection or the service ended is replayed on resume.
    """

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.resume_url: str | None = None
        """Where to resume; None: the gateway's usual address."""
        self.sequence: int | None = None
        self.user_id: str | None = None
        """The bot's own, known from the first session on."""
        self._failed_resumes = 0
        """In a row."""

    @property
    def resumable(self) -> bool:
        """Whether there is a session to go on with."""
        return self.session_id is not None and self.sequence is not None

    def begin(self, ready: dict[str, Any], sequence: int | None) -> None:
        """A new session began; `ready` is the data of its READY event."""
        self.session_id = _text(ready.get("session_id"))
        self.resume_url = _text(ready.get("resume_gateway_url"))
        self.sequence = sequence
        self._failed_resumes = 0
        user = ready.get("user")
        self.user_id = _text(cast("dict[str, Any]", user).get("id")) if isinstance(user, dict) else None

    def has_handled(self, sequence: int | None) -> bool:
        """Whether an event was dealt with before: a resume may bring more than it was asked for."""
        return sequence is not None and self.sequence is not None and sequence <= self.sequence

    def handled(self, sequence: int | None) -> None:
        """An event was dealt with: it need not be replayed."""
        if sequence is not None:
            self.sequence = max(sequence, self.sequence or 0)

    def resumed(self) -> None:
        """The session was resumed."""
        self._failed_resumes = 0

    def resume_failed(self) -> None:
        """The gateway was there, and did not give the session back, without a word that it is over."""
        self._failed_resumes += 1
        if self._failed_resumes >= MAX_FAILED_RESUMES:
            self.forget()

    def forget(self) -> None:
        """The session is over; the next connection begins a new one."""
        self.session_id = self.resume_url = self.sequence = None
        self._failed_resumes = 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


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
    """Close, and go on as `action` says."""

    action: ResumeAction
    why: str


Action: TypeAlias = Send | StartHeart | Established | Deliver | HangUp


class GatewayProtocol:
    """One connection's side of the protocol.

    Args:
        session: Resumed where that is possible, else a new one is started.
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
            return self._hang_up(ResumeAction.RESUME, "the last heartbeat was not acknowledged")
        self._acknowledged = False
        return (self._heartbeat(),)

    def _on_hello(self, payload: Payload) -> Sequence[Action]:
        interval: Any = payload.fields.get("heartbeat_interval")
        if self._greeted or not isinstance(interval, int | float) or not interval > 0:
            return self._hang_up(ResumeAction.RESUME, "a hello that makes no sense")
        self._greeted = True
        self._resuming = self._session.resumable
        return (StartHeart(interval / 1000), self._resume() if self._resuming else self._begin())

    def _on_dispatch(self, payload: Payload) -> Sequence[Action]:
        if not self._greeted:
            return self._hang_up(ResumeAction.RESUME, "an event before the hello")
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
            return self._hang_up(ResumeAction.RESUME, "the session is not to be had just now")
        return self._hang_up(ResumeAction.IDENTIFY, "the session is no longer valid")

    def _on_reconnect(self, payload: Payload) -> Sequence[Action]:
        return self._hang_up(ResumeAction.RESUME, "Discord asks to connect again")

    def _on_heartbeat(self, payload: Payload) -> Sequence[Action]:
        # Out of turn, so it says nothing about whether the regular one was acknowledged.
        return (self._heartbeat(),)

    def _on_acknowledged(self, payload: Payload) -> Sequence[Action]:
        self._acknowledged = True
        return ()

    def _hang_up(self, action: ResumeAction, why: str) -> Sequence[Action]:
        self._over = True
        return (HangUp(action, why),)

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
