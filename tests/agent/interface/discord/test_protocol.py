"""The gateway's protocol, without a socket and without a clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.interface.discord.protocol import (
    Deliver,
    Established,
    GatewayProtocol,
    GatewaySession,
    HangUp,
    Opcode,
    Payload,
    PayloadError,
    ResumeAction,
    Send,
    StartHeart,
    decode,
    explain,
    resume_action,
)

HELLO = Payload(Opcode.HELLO, {"heartbeat_interval": 41250})
ACK = Payload(Opcode.HEARTBEAT_ACK)
READY = Payload(0, {"session_id": "s1", "resume_gateway_url": "ws://r", "user": {"id": "1"}}, 1, "READY")


def begun(sequence: int | None = 5) -> GatewaySession:
    session = GatewaySession()
    session.begin(READY.fields, sequence)
    return session


def protocol(session: GatewaySession | None = None) -> GatewayProtocol:
    return GatewayProtocol(GatewaySession() if session is None else session, "token", {"intents": 1})


def sent(actions: Any) -> list[tuple[int, Any]]:
    payloads = [json.loads(action.text) for action in actions if isinstance(action, Send)]
    return [(payload["op"], payload["d"]) for payload in payloads]


def test_a_hello_starts_the_heart_and_is_answered_with_identify() -> None:
    heart, identify = protocol().receive(HELLO)
    assert heart == StartHeart(41.25)
    assert sent([identify]) == [(Opcode.IDENTIFY, {"token": "token", "intents": 1})]


def test_a_session_is_resumed_where_it_was_left() -> None:
    _, resume = protocol(begun(5)).receive(HELLO)
    assert sent([resume]) == [(Opcode.RESUME, {"token": "token", "session_id": "s1", "seq": 5})]


def test_ready_begins_the_session() -> None:
    session = GatewaySession()
    talk = protocol(session)
    talk.receive(HELLO)
    assert talk.receive(READY) == (Established(resumed=False),)
    assert (session.session_id, session.resume_url, session.user_id, session.sequence) == ("s1", "ws://r", "1", 1)


def test_events_are_delivered_and_count_when_they_were_handled() -> None:
    session = begun(5)
    talk = protocol(session)
    talk.receive(HELLO)
    event = Payload(0, {}, 6, "MESSAGE_CREATE")
    assert talk.receive(event) == (Deliver(event),)
    assert session.sequence == 5
    session.handled(event.sequence)
    assert session.sequence == 6


def test_resumed_is_delivered_behind_what_was_replayed() -> None:
    talk = protocol(begun())
    talk.receive(HELLO)
    resumed = Payload(0, {}, 9, "RESUMED")
    assert talk.receive(resumed) == (Established(resumed=True), Deliver(resumed))


def test_a_requested_heartbeat_is_sent_at_once_and_is_no_reason_to_hang_up() -> None:
    talk = protocol(begun(5))
    talk.receive(HELLO)
    assert sent(talk.receive(Payload(Opcode.HEARTBEAT))) == [(Opcode.HEARTBEAT, 5)]
    assert sent(talk.beat()) == [(Opcode.HEARTBEAT, 5)]


def test_a_beat_without_acknowledgement_of_the_last_one_hangs_up_to_resume() -> None:
    talk = protocol(begun())
    talk.receive(HELLO)
    talk.beat()
    talk.receive(ACK)
    talk.beat()
    (hang_up,) = talk.beat()
    assert isinstance(hang_up, HangUp) and hang_up.action is ResumeAction.RESUME


@pytest.mark.parametrize(
    ("payload", "action"),
    [
        (Payload(Opcode.RECONNECT), ResumeAction.RESUME),
        (Payload(Opcode.INVALID_SESSION, True), ResumeAction.RESUME),
        (Payload(Opcode.INVALID_SESSION, False), ResumeAction.IDENTIFY),
        (Payload(Opcode.INVALID_SESSION, None), ResumeAction.IDENTIFY),
        (HELLO, ResumeAction.RESUME),
    ],
)
def test_what_discord_ends_a_connection_with(payload: Payload, action: ResumeAction) -> None:
    talk = protocol(begun())
    talk.receive(HELLO)
    (hang_up,) = talk.receive(payload)
    assert isinstance(hang_up, HangUp) and hang_up.action is action
    assert talk.receive(Payload(Opcode.HEARTBEAT)) == talk.beat() == ()


@pytest.mark.parametrize("data", [None, {}, {"heartbeat_interval": 0}, {"heartbeat_interval": "x"}, [1]])
def test_a_hello_that_makes_no_sense_hangs_up(data: Any) -> None:
    (hang_up,) = protocol().receive(Payload(Opcode.HELLO, data))
    assert isinstance(hang_up, HangUp)


def test_close_codes() -> None:
    assert resume_action(4004) is ResumeAction.BAD_TOKEN
    assert {code for code in range(3000, 5000) if resume_action(code) is ResumeAction.REFUSED} == {*range(4010, 4015)}
    assert {code for code in range(3000, 5000) if resume_action(code) is ResumeAction.IDENTIFY} == {4003, 4007, 4009}
    assert resume_action(None) is resume_action(1000) is resume_action(1006) is ResumeAction.RESUME
    assert explain(None, "") == "the connection broke"
    assert "Message Content Intent" in explain(4014, "Disallowed intent(s).")
    assert explain(4000, "Unknown error") == "closed with 4000: Unknown error"


NO_PAYLOADS = ["", "{", "[]", "null", '{"op":"1"}', '{"op":true}', '{"op":0,"s":"1"}', "[" * 100_000]


@pytest.mark.parametrize("text", NO_PAYLOADS, ids=range(len(NO_PAYLOADS)))
def test_what_is_no_payload_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        decode(text)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["op", "d", "s", "t"]), inner),
    max_leaves=8,
)


@given(documents)
def test_reading_a_payload_never_fails_otherwise(value: Any) -> None:
    try:
        payload = decode(json.dumps(value))
    except PayloadError:
        return
    assert isinstance(payload.fields, dict)


data = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.dictionaries(
        st.sampled_from(["heartbeat_interval", "session_id", "user", "resume_gateway_url"]), st.integers() | st.text()
    )
)
payloads = st.builds(
    Payload,
    st.sampled_from([*Opcode, 3, 99]),
    data,
    st.none() | st.integers(0, 50),
    st.sampled_from([None, "READY", "RESUMED", "MESSAGE_CREATE"]),
)


@given(st.booleans(), st.lists(payloads | st.just("beat") | st.just(HELLO), max_size=30))
def test_whatever_comes_the_rules_hold(resumable: bool, events: list[Any]) -> None:
    session = begun(7) if resumable else GatewaySession()
    talk, introduced, over = protocol(session), 0, False
    for event in events:
        former, actions = session.sequence, talk.beat() if event == "beat" else talk.receive(event)
        assert not (over and actions), "nothing follows a HangUp"
        for op, _ in sent(actions):
            introduced += op in (Opcode.IDENTIFY, Opcode.RESUME)
            assert op in (Opcode.IDENTIFY, Opcode.RESUME, Opcode.HEARTBEAT)
            assert op != Opcode.IDENTIFY or not resumable
            assert op != Opcode.RESUME or resumable
        assert introduced <= 1, "a connection introduces itself once"
        if not over and event != "beat" and event.op == Opcode.HEARTBEAT:
            assert [op for op, _ in sent(actions)] == [Opcode.HEARTBEAT]
        if not any(isinstance(action, Established) and not action.resumed for action in actions):
            assert session.sequence == former, "only what was handled counts"
        over = over or any(isinstance(action, HangUp) for action in actions)


@given(st.lists(st.none() | st.integers(1, 100)))
def test_a_session_never_goes_back(sequences: list[int | None]) -> None:
    session = begun(1)
    for sequence in sequences:
        before = session.sequence
        session.handled(sequence)
        assert session.sequence is not None and before is not None and session.sequence >= before
    assert session.sequence == max([1, *(each for each in sequences if each is not None)])
