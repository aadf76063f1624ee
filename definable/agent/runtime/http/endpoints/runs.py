"""`/run` and `/runs`: makes a run of the agent, and tells of the runs that there are.

A run is answered whole, streamed (`Accept: text/event-stream`), or made in the background (`Prefer: respond-async`,
RFC 7240).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, cast

from pydantic import ValidationError

from definable.agent.run.context import RunRequest
from definable.agent.run.output import RunOutput
from definable.agent.runtime.http.auth import acting_user, may_see
from definable.agent.runtime.http.documents import Parameter, RunBody, record_document, run_document, summary_document
from definable.agent.runtime.http.idempotency import idempotency_key
from definable.agent.runtime.http.request import ClientGone, EndpointContext, Request, hangup_watch, until_gone
from definable.agent.runtime.http.response import Response, Sendable, json_response, wrong_fields
from definable.agent.runtime.http.sse import MEDIA_TYPE, FollowedRun, LiveRun, LoggedEvents
from definable.agent.runtime.runs import FIRST, Place, RunRecord, RunRegistry
from definable.agent.trigger.content import is_json, json_value, media_and_charset
from definable.errors import RunCancelled
from definable.server.problem import Problem

from .service import key_of_session

MAX_RUN_BODY = 1024 * 1024
"""Bytes of the body."""

SOURCE = "POST /run"

MAX_STREAMED = 1_000
"""Streamed runs that a reconnecting client is led back to."""

MAX_NAMED = 10
"""Unknown fields that are named to the client that sent them."""


async def run(context: EndpointContext, request: Request) -> Sendable:
    """Make a run; a client that goes away cancels the run that it waits for, streamed or not."""
    media, charset = media_and_charset(request.content_type)
    if not is_json(media):  # other types a page of another origin may send without a preflight
        said = f", not {media}" if media else "; the request has no Content-Type"
        raise Problem(415, f"the body must be application/json{said}")
    key = idempotency_key(request)
    body = await request.content(MAX_RUN_BODY)
    asked = run_request(run_body(body, charset), request)
    if request.header(b"last-event-id"):
        raise reconnection(context.streamed, request, asked, body)
    if asked.session_id is not None:
        session_id = await key_of_session(context.sessions, request.auth, asked.user_id, asked.session_id)
        if session_id != asked.session_id:
            asked = replace(asked, session_id=session_id)
    if key is None:
        return await made_run(context, request, asked, body)
    make = partial(made_run, context, request, asked, body, is_kept=True)
    status, events = partial(status_of, context.runs, asked), partial(events_of, context.runs, request, asked)
    return await context.keyed.answered_once(request, asked, key, body, make, status, events)


async def made_run(
    context: EndpointContext, request: Request, asked: RunRequest, body: bytes, *, is_kept: bool = False
) -> Sendable:
    """Make a run, or have it made while its events are sent.

    Args:
        context: What the endpoint uses.
        request: Who asks.
        asked: The run.
        body: The request's.
        is_kept: Whether it goes on when its client leaves: the answer is kept for it.
    """
    request.note_run(asked.run_id)
    if prefers_async(request):
        return await accepted_run(context, request, asked)
    if accepts_events(request):
        context.streamed.add(asked, body)
        return LiveRun(request, context.runs, asked, SOURCE, is_kept)
    output = await (context.runs.run(asked, SOURCE) if is_kept else finished_run(context.runs, request, asked))
    return json_response(run_document(output, asked.namespace))


def events_of(runs: RunRegistry, request: Request, asked: RunRequest, run_id: str) -> Sendable | None:
    """The events of a run that was streamed, as far as they are remembered: the last one, with the output."""
    record = runs.find(run_id)
    return None if record is None else FollowedRun(request, LoggedEvents(record, 0), asked.namespace)


def status_of(runs: RunRegistry, asked: RunRequest) -> str | None:
    """How a run stands; None where it has not begun."""
    record = runs.find(asked.run_id)
    return None if record is None else record.status.value


async def finished_run(runs: RunRegistry, request: Request, asked: RunRequest) -> RunOutput:
    """Make a run that is cancelled when its client goes away.

    Raises:
        ClientGone: It went away first.
    """
    watch = hangup_watch(request)
    if watch is None:
        return await until_gone(request, lambda: runs.run(asked, SOURCE))
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        runs.cancel(asked.run_id)

    try:
        with watch(leave):  # the run's own scope will do
            return await runs.run(asked, SOURCE)
    except RunCancelled:
        if left:
            raise ClientGone from None
        raise


async def accepted_run(context: EndpointContext, request: Request, asked: RunRequest) -> Response:
    """Make a run later: 202."""
    record = await context.ingress.accept_run(asked, SOURCE)
    headers = [(b"location", request.link(f"/runs/{asked.run_id}")), (b"preference-applied", b"respond-async")]
    return json_response(record_document(record), 202, headers)


def reconnection(streamed: StreamedRuns, request: Request, asked: RunRequest, body: bytes) -> Problem:
    """The answer to a client that lost a stream and asks for the rest of it, which another run would not be."""
    known = streamed.find(asked, body)
    if known is None:
        return Problem(409, "a stream goes on at /runs/{run_id}/events, with Last-Event-ID; a new run needs none")
    events = request.link(f"/runs/{known}/events")
    detail = "this request began a run already: `events` is where its events are, from Last-Event-ID on"
    return Problem(409, detail, headers=[(b"location", events)], run_id=known, events=events.decode())


class StreamedRuns:
    """The streamed runs of late, by who asked for what: a client that reconnects sends the same request again."""

    def __init__(self) -> None:
        self._run_ids: OrderedDict[bytes, str] = OrderedDict()

    def add(self, run: RunRequest, body: bytes) -> None:
        """Remember a run that is about to begin."""
        key = self._key(run, body)
        self._run_ids[key] = run.run_id
        self._run_ids.move_to_end(key)
        if len(self._run_ids) > MAX_STREAMED:
            self._run_ids.popitem(last=False)

    def find(self, run: RunRequest, body: bytes) -> str | None:
        """The id of the last run that the same caller asked for with the same body."""
        return self._run_ids.get(self._key(run, body))

    def _key(self, run: RunRequest, body: bytes) -> bytes:
        caller = (run.namespace, run.user_id, None if run.auth is None else run.auth.user_id)
        return blake2b(body, key=blake2b(repr(caller).encode(), digest_size=32).digest(), digest_size=16).digest()


def run_request(body: RunBody, request: Request) -> RunRequest:
    """The run that a body asks for.

    Raises:
        Problem: 403, the caller may not act for the user it names.
    """
    auth = request.auth
    user_id = acting_user(auth, body.user_id)
    namespace = "" if auth is None else auth.namespace
    return RunRequest(
        body.input,
        session_id=body.session_id,
        user_id=user_id,
        metadata=body.metadata,
        headers=request.headers,
        auth=auth,
        namespace=namespace,
        keep=body.keep,
    )


def run_body(body: bytes, charset: str | None = None) -> RunBody:
    """The validated body of `POST /run`.

    Raises:
        Problem: 400 when it is not JSON, 422 with the names of the fields that are wrong.
    """
    value, more = with_few_unknown(json_value(body, charset))
    try:
        return RunBody.model_validate(value)
    except ValidationError as error:
        raise wrong_fields(error, more) from None


def with_few_unknown(value: Any) -> tuple[Any, int]:
    """A body with no more unknown fields than are worth naming, and how many were left out."""
    if not isinstance(value, dict):
        return value, 0
    fields, known = cast("dict[str, Any]", value), RunBody.model_fields
    taken = [name for name in known if name in fields]
    more = len(fields) - len(taken) - MAX_NAMED
    if more <= 0:
        return fields, 0
    named = islice((name for name in fields if name not in known), MAX_NAMED)
    return {name: fields[name] for name in (*taken, *named)}, more


def accepts_events(request: Request) -> bool:
    """Whether the client asks for server-sent events."""
    accepted = request.header(b"accept").lower()
    return MEDIA_TYPE in accepted and any(part.partition(";")[0].strip() == MEDIA_TYPE for part in accepted.split(","))


def prefers_async(request: Request) -> bool:
    """Whether the client asks not to wait (RFC 7240, 4.1)."""
    preferred = request.header(b"prefer").lower()
    return bool(preferred) and any(each.partition(";")[0].strip() == "respond-async" for each in preferred.split(","))


# --- the runs that there are

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
