"""What a webhook answers before its delivery counts as one: a platform's handshake, or that it is not wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from definable.agent.calling import call_user
from definable.agent.runtime.http.problem import Problem
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Response, reply_response
from definable.agent.trigger.base import Reply, TriggerEvent
from definable.agent.trigger.challenge import Challenge, reply_of
from definable.agent.trigger.webhook import Webhook
from definable.errors import ConfigurationError

from .base import Sendable
from .webhook_event import webhook_event

IGNORED = Response(b'{"status":"ignored"}')


def unsigned_answer(webhook: Webhook, request: Request) -> Sendable | None:
    """The answer to a handshake that no platform signs, and that is therefore answered before auth; None otherwise."""
    challenge = webhook.challenge
    if not isinstance(challenge, Challenge) or not (request.scope["query_string"] or request.method == "HEAD"):
        return None
    reply = challenge.by_query(request.method, request.query)
    return None if reply is None else reply_response(reply)


async def early_answer(webhook: Webhook, event: TriggerEvent) -> Sendable | None:
    """The answer to a delivery that is a handshake or is not wanted; None to all others."""
    reply = await challenge_answer(webhook, event)
    if reply is not None:
        return reply_response(reply)
    if webhook.filter is not None and not await call_user(webhook.filter, event):
        return IGNORED
    if webhook.before_accept is not None:
        answer: Any = await call_user(webhook.before_accept, event)
        if isinstance(answer, Reply):
            return reply_response(answer)
        if answer is not None:
            raise ConfigurationError(f"before_accept of {webhook.source} returned {answer!r}: a Reply, or None")
    return None


async def challenge_answer(webhook: Webhook, event: TriggerEvent) -> Reply | None:
    """The answer to a handshake that auth let in; None to anything else."""
    challenge = webhook.challenge
    if challenge is None:
        return None
    if isinstance(challenge, Challenge):
        return challenge.by_body(event, getattr(webhook.auth, "mac", None))
    return reply_of(await call_user(challenge, event))


@dataclass(frozen=True, slots=True)
class HandshakeEndpoint:
    """The GET of a webhook that has another method: for handshakes alone, and for everybody."""

    webhook: Webhook

    async def __call__(self, request: Request) -> Sendable:
        reply: Sendable | None = None
        if isinstance(self.webhook.challenge, Challenge):
            reply = unsigned_answer(self.webhook, request)
        elif (found := await challenge_answer(self.webhook, webhook_event(self.webhook, request, b""))) is not None:
            reply = reply_response(found)
        if reply is None:
            raise Problem(405, "this is no handshake", headers=[(b"allow", self.webhook.method.encode())])
        return reply
