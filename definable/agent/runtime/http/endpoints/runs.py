"""`/runs` and below: what runs there are, how one stands, its events, and its cancellation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from definable.agent.run.output import RunEvent, RunStatus
from definable.agent.runtime.http.auth import may_see
from definable.agent.runtime.http.documents import Parameter, record_document, summary_document
from definable.agent.runtime.http.request import EndpointContext, Request, until_gone
from definable.agent.runtime.http.response import Response, ResponseSender, Sendable, json_response
from definable.agent.runtime.http.sse import send_events, send_no_events
from definable.agent.runtime.runs import FIRST, Place, RunRecord, RunRegistry
from definable.server.problem import Problem

DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
"""Runs in one answer of `GET /runs`."""

PLACE = re.compile(r"([012])\.([0-9]{1,18})")
"""`after` of `GET /runs`, as `next` has it."""

LIMIT = Parameter(
    "limit",
    "How many runs are wanted at most.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    place="query",
)

AFTER = Parameter(
    "after", "The `next` of the page before.", {"type": "string", "pattern": f"^{PLACE.pattern}$"}, place="query"
)

LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    "The last event that the client has: those after it are sent.",
    {"type": "string", "pattern": "^[0-9]*$"},
)

MAX_DIGITS = 18
"""Of a `Last-Event-ID`."""


def visible_run(runs: RunRegistry, request: Request) -> RunRecord:
    """The run that a request names.

    Raises:
        Problem: 404, there is none, or it is another user's: the two are told apart to nobody.
    """
    record = runs.find(request.path_params["run_id"])
    if record is None or not may_see(request.auth, record):
        raise Problem(404, "there is no such run")
    return record


async def list_runs(context: EndpointContext, request: Request) -> Response:
    """Queued runs, then active, then recent ones, each newest first; in pages, and without contents."""
    limit, after = page_of(request.query)
    listed = context.runs.listed(after)
    visible = ((place, record) for place, record in listed if may_see(request.auth, record))
    page = list(islice(visible, limit + 1))
    document: dict[str, Any] = {"runs": [summary_document(record) for _, record in page[:limit]], "next": None}
    if len(page) > limit:
        document["next"] = "{}.{}".format(*page[limit - 1][0])
    return json_response(document)


def page_of(query: Mapping[str, str]) -> tuple[int, Place]:
    """How many runs are wanted, and after which place.

    Raises:
        Problem: 422, `limit` or `after` is not what it must be.
    """
    limit, after = query.get("limit", f"{DEFAULT_LIMIT}"), query.get("after")
    if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:MAX_DIGITS]) <= MAX_LIMIT):
        raise Problem(
            422, f"limit is a number from 1 to {MAX_LIMIT}", errors=[{"field": "limit", "message": "is wrong"}]
        )
    place = None if after is None else PLACE.fullmatch(after)
    if after is not None and place is None:
        raise Problem(422, "after is the `next` of an earlier page", errors=[{"field": "after", "message": "is wrong"}])
    return int(limit), FIRST if place is None else (int(place[1]), int(place[2]))


async def show_run(context: EndpointContext, request: Request) -> Response:
    """A run's status, and its output once there is one."""
    return json_response(record_document(visible_run(context.runs, request)))


async def cancel_run(context: EndpointContext, request: Request) -> Response:
    """Cancel a run: 202 while it ends, 409 when it has ended already."""
    record = visible_run(context.runs, request)
    if not context.runs.cancel(record.run_id):
        raise Problem(409, f"the run has ended already: it is {record.status.value}")
    return Response(b"", 202, content_type=None)


async def follow_run(context: EndpointContext, request: Request) -> Sendable:
    """A run's server-sent events, from the beginning or after `Last-Event-ID`.

    204 tells a client that has seen the last one to come no more (HTML, "Processing model" of server-sent events).
    """
    record = visible_run(context.runs, request)
    await request.body(0)
    last = request.headers.get("last-event-id") or "0"  # an EventSource has none before the first event
    if not (last.isdecimal() and last.isascii()):
        raise Problem(400, f"Last-Event-ID is the number of an event, not {last!r}")
    events = LoggedEvents(record, int(last[:MAX_DIGITS]))
    return Response(b"", 204) if events.all_seen else FollowedRun(request, events, record.namespace)


@dataclass(frozen=True, slots=True)
class FollowedRun:
    """A run's events, sent to one who only looks on: leaving does not cancel it."""

    request: Request
    events: LoggedEvents
    namespace: str
    """Of the run's caller."""

    async def send(self, sender: ResponseSender) -> None:
        """Send the events until the run ends or the client leaves; to HEAD, that there are any."""
        if self.request.method == "HEAD":
            await send_no_events(sender)
            return
        await until_gone(self.request, lambda: self._send(sender))

    async def _send(self, sender: ResponseSender) -> None:
        events = self.events
        await send_events(sender, events, events.last_id, self.namespace, will_go_on=lambda: events.will_go_on)


class LoggedEvents:
    """The events that a run's log holds and will hold, and how the run ended, where that is heard of.

    No generator, which a cancelled wait would end.

    Args:
        record: The run.
        last_id: The last event that the client has.
    """

    def __init__(self, record: RunRecord, last_id: int) -> None:
        self._record = record
        self._ended = False
        self.last_id: int = last_id
        """The last event that was handed out."""

    @property
    def all_seen(self) -> bool:
        """Whether the client has the last event there will be."""
        log = self._record.log
        return log.ended and not self.will_go_on and self.last_id >= log.last_id + (self._record.output is None)

    @property
    def will_go_on(self) -> bool:
        """Whether the run will be made although this process ends."""
        return self._record.will_go_on

    def __aiter__(self) -> LoggedEvents:
        return self

    async def __anext__(self) -> tuple[int, RunEvent | RunRecord]:
        logged = await self._record.log.after(self.last_id)
        if logged is not None:
            self.last_id = logged[0]
            return logged
        if self._record.output is not None or self._ended:  # its end was an event, or has been told
            raise StopAsyncIteration
        if self._record.status in (RunStatus.QUEUED, RunStatus.RUNNING):  # its end will not be heard of here
            raise StopAsyncIteration
        self._ended = True
        return self._record.log.last_id + 1, self._record
