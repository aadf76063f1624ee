"""A webhook's endpoint: from the request to its event, and from what came of it to a response.

First come the answers to what counts as no delivery: a platform's handshake, or one that is not wanted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import ValidationError

from definable.agent.run.output import RunOutput
from definable.agent.runtime.dispatch import Outcome, Returned, namespace_of
from definable.agent.runtime.http.documents import Accepted, WebhookRun
from definable.agent.runtime.http.request import EndpointContext, Request
from definable.agent.runtime.http.response import Response, Sendable, json_response, reply_response, wrong_fields
from definable.agent.runtime.ingress import Coalesced, Duplicate, InFlight
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.challenge import Challenge, reply_of
from definable.agent.trigger.content import parsed
from definable.agent.trigger.request import RawRequest, Reply
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.call import call_user
from definable.concurrency.clock import current_clock
from definable.errors import ConfigurationError
from definable.server.problem import Problem

IGNORED = Response(b'{"status":"ignored"}')

STATUS_OK = Response(b'{"status":"ok"}')

DUPLICATE = Response(b'{"status":"duplicate"}')

COALESCED = Response(b'{"status":"accepted"}', 202)

HANDLED_BY_THEN = (b"retry-after", b"5")
"""Seconds: senders that wait mostly do so for 5 to 10."""


async def answer_webhook(context: EndpointContext, webhook: Webhook, request: Request) -> Sendable:
    """Handle one delivery. Its work goes on when the client goes away: the sender has handed it over."""
    body = await request.content(webhook.max_body)
    event = webhook_event(webhook, request, body)
    if webhook.challenge is not None and (reply := await challenge_answer(webhook, event)) is not None:
        return reply_response(reply)
    if webhook.body is not None:
        event = with_checked_body(webhook, event)
    if webhook.answers_early and (early := await early_answer(webhook, event)) is not None:
        return early
    user_id = None if request.auth is None else request.auth.user_id
    if webhook.respond == "accept":
        return accepted_response(request, await context.ingress.accept(webhook, event, user_id))
    answer_of = partial(outcome_response, namespace=namespace_of(event), request=request)
    if webhook.dedupe is not None:
        return await context.ingress.handle_once(webhook, event, user_id, answer_of)
    return answer_of(await context.ingress.handle(webhook, event, user_id))


def webhook_event(webhook: Webhook, request: Request, body: bytes) -> TriggerEvent:
    """What the handler of a webhook gets."""
    scope = request.scope
    headers: Any = request.headers  # decoded when the handler asks for them
    raw = RawRequest(
        method=scope["method"],
        path=scope["path"],
        path_params=request.path_params,
        query=request.query,
        headers=headers,
        body=body,
        client=request.client,
        auth=request.auth,
        scheme=scope.get("scheme", "http"),
        raw_path=scope.get("raw_path") or b"",
        query_string=scope["query_string"].decode("latin-1"),
    )
    content, source = parsed(request.content_type, body), webhook.source_of(raw.method)
    return TriggerEvent(content, headers, source, current_clock().now(), raw)


def unsigned_answer(webhook: Webhook, request: Request) -> Sendable | None:
    """The answer to a handshake that no platform signs, and that is therefore answered before auth; None otherwise."""
    challenge = webhook.challenge
    if not isinstance(challenge, Challenge):
        return None
    reply: Reply | None = None
    if request.method == "OPTIONS":
        reply = challenge.by_options(request.headers, webhook.methods)
    elif request.scope["query_string"] or request.method == "HEAD":
        reply = challenge.by_query(request.method, request.query)
    return None if reply is None else reply_response(reply)


async def early_answer(webhook: Webhook, event: TriggerEvent) -> Sendable | None:
    """The answer to a delivery that is not wanted, or that needs no queue; None to all others."""
    if webhook.filter is not None and not await call_user(webhook.filter, event):
        return IGNORED
    if webhook.before_accept is not None:
        answer: Any = await call_user(webhook.before_accept, event)
        if isinstance(answer, Reply):
            return reply_response(answer)
        if answer is not None:
            raise ConfigurationError(f"before_accept of {webhook.source} returned {answer!r}: a Reply, or None")
    return None


def with_checked_body(webhook: Webhook, event: TriggerEvent) -> TriggerEvent:
    """The event, with the body that `Webhook(body=...)` makes of its own.

    Raises:
        Problem: 422 with the names of the fields that are wrong.
    """
    try:
        body = webhook.checked_body(event.body)
    except ValidationError as error:
        raise wrong_fields(error) from None
    return TriggerEvent(body, event.headers, event.source, event.timestamp, event.raw)


async def challenge_answer(webhook: Webhook, event: TriggerEvent) -> Reply | None:
    """The answer to a handshake that auth let in; None to anything else."""
    challenge = webhook.challenge
    if challenge is None:
        return None
    if isinstance(challenge, Challenge):
        return challenge.by_body(event, getattr(webhook.auth, "mac", None))
    return reply_of(await call_user(challenge, event))


async def answer_handshake(webhook: Webhook, request: Request) -> Sendable:
    """Answer the GET of a webhook that has another method: for handshakes alone, and for everybody."""
    reply: Sendable | None = None
    if isinstance(webhook.challenge, Challenge):
        reply = unsigned_answer(webhook, request)
    elif (found := await challenge_answer(webhook, webhook_event(webhook, request, b""))) is not None:
        reply = reply_response(found)
    if reply is None:
        raise Problem(405, "this is no handshake", headers=[(b"allow", ", ".join(webhook.methods).encode())])
    return reply


def accepted_response(request: Request, accepted: str | Duplicate | Coalesced) -> Response:
    """What a sender is told whose work is done later: the id of the run that may come of it."""
    if not isinstance(accepted, str):
        return DUPLICATE if isinstance(accepted, Duplicate) else COALESCED
    request.note_run(accepted)
    headers = [(b"location", request.link(f"/runs/{accepted}"))]
    return json_response(Accepted(status="accepted", run_id=accepted), 202, headers)


def outcome_response(
    outcome: Outcome | Duplicate | InFlight, namespace: str = "", request: Request | None = None
) -> Sendable:
    """What a sender that waited is told; it knows its sessions without its namespace.

    Raises:
        Problem: 409, the delivery is being handled already.
    """
    match outcome:
        case None:
            return STATUS_OK
        case Duplicate():
            return DUPLICATE
        case InFlight():
            raise Problem(409, "this delivery is being handled already: try again later", headers=[HANDLED_BY_THEN])
        case Reply():
            return reply_response(outcome, request)
        case Returned(bytes() as value):  # as the text that it is: base64 that nobody has asked for helps nobody
            return json_response(value.decode())
        case Returned(value):
            return json_response(value)
        case RunOutput():
            if request is not None:
                request.note_run(outcome.run_id)
            return json_response(WebhookRun.of(outcome, session_id=outcome.session_id.removeprefix(namespace)))
