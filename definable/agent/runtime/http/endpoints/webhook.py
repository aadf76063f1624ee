"""A webhook's endpoint: from the request to its event, and from what came of it to a response."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from definable.agent.run_output import RunOutput
from definable.agent.runtime.dispatch import Outcome, Returned, namespace_of
from definable.agent.runtime.http.problem import Problem
from definable.agent.runtime.http.request import Request
from definable.agent.runtime.http.response import Response, json_response, reply_response
from definable.agent.runtime.intake import Duplicate, InFlight, Intake
from definable.agent.trigger.base import Reply
from definable.agent.trigger.webhook import Webhook

from .base import Sendable
from .handshake import early_answer
from .webhook_event import webhook_event

STATUS_OK = Response(b'{"status":"ok"}')

DUPLICATE = Response(b'{"status":"duplicate"}')


HANDLED_BY_THEN = (b"retry-after", b"5")
"""Seconds: senders that wait mostly do so for 5 to 10."""


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """One webhook. Its work goes on when the client goes away: the sender has handed it over."""

    webhook: Webhook
    intake: Intake

    async def __call__(self, request: Request) -> Sendable:
        body = await request.content(self.webhook.max_body)
        event = webhook_event(self.webhook, request, body)
        if self.webhook.answers_early:
            early = await early_answer(self.webhook, event)
            if early is not None:
                return early
        user_id = None if request.auth is None else request.auth.user_id
        if self.webhook.respond == "accept":
            return accepted_response(request, await self.intake.accept(self.webhook, event, user_id))
        answer_of = partial(outcome_response, namespace=namespace_of(event), request=request)
        if self.webhook.dedupe is not None:
            return await self.intake.handle_once(self.webhook, event, user_id, answer_of)
        return answer_of(await self.intake.handle(self.webhook, event, user_id))


def accepted_response(request: Request, accepted: str | Duplicate) -> Response:
    """What a sender is told whose work is done later: the id of the run that may come of it."""
    if isinstance(accepted, Duplicate):
        return DUPLICATE
    request.note_run(accepted)
    headers = [(b"location", request.link(f"/runs/{accepted}"))]
    return json_response({"status": "accepted", "run_id": accepted}, 202, headers)


def outcome_response(
    outcome: Outcome | Duplicate | InFlight, namespace: str = "", request: Request | None = None
) -> Response:
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
            return reply_response(outcome)
        case Returned(bytes() as value):  # as the text that it is: base64 that nobody has asked for helps nobody
            return json_response(value.decode())
        case Returned(value):
            return json_response(value)
        case RunOutput():
            if request is not None:
                request.note_run(outcome.run_id)
            session_id = outcome.session_id.removeprefix(namespace)
            return json_response({"content": outcome.content, "run_id": outcome.run_id, "session_id": session_id})
