"""Where work comes in over HTTP: done while its sender waits, or accepted for later through the event bus; once each.

The run and webhook endpoints call the `Ingress`. What it accepts for later travels as JSON-able data, since a bus may
be more than memory, and the workers read it back with the functions here. Large bodies travel as text: 1 MiB of JSON
may be 25 MiB of values, and what is accepted may wait for long.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio

from definable.agent.auth.base import AuthContext
from definable.agent.bus.base import EventBus, KeepsValues, Submission
from definable.agent.bus.dedupe import digest
from definable.agent.bus.emitter import keeping_later
from definable.agent.run.context import RunRequest
from definable.agent.run.telemetry import trace_headers
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.content import parsed
from definable.agent.trigger.request import Headers, RawRequest
from definable.agent.trigger.webhook import Dedupe, Webhook
from definable.concurrency.call import call_user
from definable.concurrency.clock import current_clock
from definable.concurrency.logs import logger_named
from definable.errors import EventBufferFull, EventBusError, StorageError
from definable.json_text import OVERHEAD, UNCOUNTED_BODY, parsed_size

from .dispatch import Dispatcher, Outcome, is_success, namespace_of
from .runs import RunRecord, RunRegistry
from .triggers import RUNS_KEY, TriggerTable

MAX_PARSED = 1024
"""Characters of JSON beyond which a body waits as text."""

PARSED_FACTOR = 25
"""Bytes that a character of JSON may hold once it is parsed: `{},` is a dict of 64 bytes and a reference."""

logger: logging.Logger = logger_named(__name__)

Answer = TypeVar("Answer")

DEDUPE_TTL = 24 * 3600.0
"""Seconds for which a delivery's name is remembered: senders give up retrying sooner."""

RELEASE_TIMEOUT = 5.0
"""Seconds that the bus may take to forget the name of a delivery that failed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The delivery was accepted before; it is not handled again."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """The delivery is being handled already; whether that ends well is not known yet."""


@dataclass(frozen=True, slots=True)
class Coalesced:
    """The delivery waits for others about the same thing; which of them is handled is not known yet."""


class Ingress:
    """Takes in runs and webhooks.

    Args:
        bus: Carries what is accepted for later, and knows which deliveries were seen.
        triggers: The agent's triggers with their keys.
        registry: Knows the runs that were promised.
        dispatcher: Handles what a sender waits for.

    Raises:
        ConfigurationError: Deliveries of a webhook are to be coalesced, and the bus keeps nothing for later.
    """

    def __init__(self, bus: EventBus, triggers: TriggerTable, registry: RunRegistry, dispatcher: Dispatcher) -> None:
        self._bus = bus
        self._triggers = triggers
        self._registry = registry
        self._dispatcher = dispatcher
        self._waiting: WeakValueDictionary[str, RunRecord] = WeakValueDictionary()
        """What was last accepted about each thing for which deliveries are coalesced in memory."""
        if any(webhook.coalesce is not None for webhook in triggers.webhooks):
            keeping_later(bus)

    @property
    def values(self) -> KeepsValues | None:
        """Where all replicas see what one of them remembers; None where there is one process alone."""
        return self._bus if self._bus.shared and isinstance(self._bus, KeepsValues) else None

    async def accept_run(self, run: RunRequest, source: str) -> RunRecord:
        """Accept a run for later.

        Raises:
            EventBufferFull: There is no room; nothing was accepted.
        """
        asked, size = run_data(run)
        data = self._data(source, run.run_id, run.user_id) | asked | {"auth": auth_to_json(run.auth)}
        if trace := trace_headers(run.headers):
            data["headers"] = trace
        self._check_room()
        record = self._registry.queue(run, source, size)
        try:
            await self._bus.publish(RUNS_KEY, data)
        except BaseException:
            self._registry.forget(record)
            raise
        if self._bus.durable:
            self._registry.release_memory(record)
        return record

    async def accept(self, webhook: Webhook, event: TriggerEvent, user_id: str | None) -> str | Duplicate | Coalesced:
        """Accept a webhook's delivery for later.

        Returns:
            The id that a run which comes of it will have.

        Raises:
            EventBufferFull: There is no room; nothing was accepted.
        """
        key = await self._key_of(webhook.dedupe, webhook, event, user_id)
        if webhook.coalesce is not None:
            about, seconds = webhook.coalesce
            burst = await self._key_of(about, webhook, event, user_id)
            if burst is not None:
                return await self._coalesce(webhook, event, user_id, burst, seconds, key)
        run = RunRequest("", user_id=user_id, namespace=namespace_of(event))
        data = self._data(event.source, run.run_id, user_id) | request_data(event) | {"dedupe_key": key}
        self._check_room()
        record = self._registry.queue(run, event.source, data_size(data))
        accepted = False
        try:
            accepted = await self._bus.publish(
                self._triggers.key_of(webhook), data, dedupe_key=key, dedupe_ttl=DEDUPE_TTL
            )
        finally:
            if not accepted:
                self._registry.forget(record)
            elif self._bus.durable:
                self._registry.release_memory(record)
        return run.run_id if accepted else Duplicate()

    async def _coalesce(
        self, webhook: Webhook, event: TriggerEvent, user_id: str | None, about: str, seconds: float, key: str | None
    ) -> Coalesced | Duplicate:
        """Accept a delivery in the place of one about the same thing that still waits, and at its time.

        Nobody is promised a run: which delivery is handled may be decided by another replica. What waits in memory is
        listed among the runs, so that its bytes are counted.
        """
        bus = keeping_later(self._bus)
        data = self._data(event.source, None, user_id) | request_data(event) | {"dedupe_key": key}
        self._check_room()
        record: RunRecord | None = None
        if not self._bus.durable:
            run = RunRequest("", user_id=user_id, namespace=namespace_of(event))
            record = self._registry.queue(run, event.source, data_size(data))
            data["run_id"] = run.run_id
        name, accepted = self._triggers.key_of(webhook), False
        waiting = Submission(name, data, key, DEDUPE_TTL, seconds, f"coalesce {about}", keeps_time=True)
        try:
            [accepted] = await bus.publish_many([waiting])
        finally:
            if record is not None and not accepted:
                self._registry.forget(record)
            elif record is not None:
                if (replaced := self._waiting.get(about)) is not None:
                    self._registry.replace(replaced)
                self._waiting[about] = record
        return Coalesced() if accepted else Duplicate()

    def handle(self, webhook: Webhook, event: TriggerEvent, user_id: str | None) -> Awaitable[Outcome]:
        """Handle a webhook's delivery now, while its sender waits."""
        return self._dispatcher.dispatch_with_retries(webhook, event, user_id=user_id)

    async def handle_once(
        self,
        webhook: Webhook,
        event: TriggerEvent,
        user_id: str | None,
        answer_of: Callable[[Outcome | Duplicate | InFlight], Answer],
    ) -> Answer:
        """Handle a delivery that may be a repeat, and make the answer of what came of it.

        One that is not answered 2xx may come again, also one that failed in its answer: its sender hears of no success.
        """
        key = await self._key_of(webhook.dedupe, webhook, event, user_id)
        if key is None:
            return answer_of(await self.handle(webhook, event, user_id))
        handling = f"{key}:in flight"
        if not await self._bus.claim(handling, DEDUPE_TTL):
            return answer_of(InFlight())
        taken = [handling]
        try:
            if not await self._bus.claim(key, DEDUPE_TTL):
                return answer_of(Duplicate())
            taken.insert(0, key)  # released first: in between, a repeat must not be taken for one of what is done
            outcome = await self.handle(webhook, event, user_id)
            answer = answer_of(outcome)
            if is_success(outcome):
                taken.remove(key)
            return answer
        finally:
            await self._release(taken, webhook)

    async def _release(self, keys: Sequence[str], webhook: Webhook) -> None:
        """Forget keys. A bus that fails must not change the answer: what was done is done."""
        try:
            # Shielded: also a delivery that a stop cut off may come again. Bounded, for a broker that is away.
            with anyio.move_on_after(RELEASE_TIMEOUT, shield=True):
                for key in keys:
                    await self._bus.release(key)
        except (StorageError, EventBusError):
            logger.warning("%s: the event bus failed to release a delivery; a repeat may get 409", webhook.source)

    async def _key_of(
        self, named_by: Dedupe | None, webhook: Webhook, event: TriggerEvent, user_id: str | None
    ) -> str | None:
        if named_by is None:
            return None
        if isinstance(named_by, str):
            name = None if event.headers is None else event.headers.get(named_by)
        else:
            name = await call_user(named_by, event)
        if name is None or name == "":
            return None
        # One caller's names are not another's. Of any length: what the bus carries must not be.
        return digest(f"{self._triggers.key_of(webhook)}:{user_id!r}:{name}")

    def _check_room(self) -> None:
        if self._bus.capacity < 1:
            raise EventBufferFull("the event buffer is full: nothing was accepted")

    def _data(self, source: str, run_id: str | None, user_id: str | None) -> dict[str, Any]:
        return {"source": source, "timestamp": current_clock().now(), "run_id": run_id, "user_id": user_id}


def run_data(run: RunRequest) -> tuple[dict[str, Any], int]:
    """What a delivery carries of a run that `POST /run` asks for, and how many bytes that holds in memory at most.

    A large one is JSON in ASCII: a byte a character, where one emoji would make it four. A small one stays as it is, to
    be read among dead letters.
    """
    asked = {"input": run.input, "session_id": run.session_id, "metadata": run.metadata, "keep": run.keep}
    text = json.dumps(asked, separators=(",", ":"))
    if len(text) <= MAX_PARSED:
        return {"body": asked}, OVERHEAD + len(text) * PARSED_FACTOR
    return {"body_text": text}, OVERHEAD + len(text)


def data_size(data: Mapping[str, Any]) -> int:
    """Bytes that a waiting webhook holds in memory, about."""
    request = data["request"]
    return (
        OVERHEAD * (2 + len(request["headers"]))
        + len(request["body"])
        + sum(len(name) + len(value) for name, value in request["headers"])
    )


def handling_size(data: Mapping[str, Any]) -> int:
    """Bytes that the body of an accepted run or webhook holds while it is handled, about; 0 for what is small, and for
    other deliveries."""
    if "body_text" in data:
        text: str = data["body_text"]
        return parsed_size(text) if len(text) >= UNCOUNTED_BODY else 0
    if "request" in data:
        body: str = data["request"]["body"]
        return parsed_size(b64decode(body)) if len(body) >= UNCOUNTED_BODY else 0
    return 0


def auth_to_json(auth: AuthContext | None) -> list[Any] | None:
    """What a delivery carries of who asked for it."""
    if auth is None:
        return None
    scopes = None if auth.scopes is None else sorted(auth.scopes)
    return [auth.user_id, dict(auth.metadata), auth.may_act_for_others, scopes]


def auth_from_json(fields: Sequence[Any] | None) -> AuthContext | None:
    """The `AuthContext` of `auth_to_json`'s list, also of one that an older version wrote, without scopes."""
    if fields is None:
        return None
    scopes = fields[3] if len(fields) > 3 else None
    return AuthContext(fields[0], fields[1], fields[2], None if scopes is None else frozenset(scopes))


def request_data(event: TriggerEvent) -> dict[str, Any]:
    """What a delivery carries of a webhook's event: the body as it came, which is parsed again when it is handled."""
    raw = event.raw
    assert raw is not None
    auth: AuthContext | None = raw.auth
    return {
        "request": {
            "method": raw.method,
            "path": raw.path,
            "path_params": dict(raw.path_params),
            "query": dict(raw.query),
            "headers": list(raw.headers.items()),
            "body": b64encode(raw.body).decode(),
            "client": raw.client,
            "scheme": raw.scheme,
            "raw_path": raw.raw_path.decode("latin-1"),
            "query_string": raw.query_string,
            "auth": auth_to_json(auth),
        },
    }


def accepted_request(data: Mapping[str, Any]) -> tuple[Any, RawRequest]:
    """The parsed body and the request of an event whose delivery comes out of the bus."""
    request: Mapping[str, Any] = data["request"]
    headers = Headers(dict(request["headers"]))
    client = request["client"]
    raw = RawRequest(
        method=request["method"],
        path=request["path"],
        path_params=request["path_params"],
        query=request["query"],
        headers=headers,
        body=b64decode(request["body"]),
        client=None if client is None else (client[0], client[1]),
        auth=auth_from_json(request["auth"]),
        scheme=request.get("scheme", "http"),  # not in what earlier versions stored
        raw_path=request.get("raw_path", "").encode("latin-1"),
        query_string=request.get("query_string", ""),
    )
    return parsed(headers.get("content-type", ""), raw.body), raw
