"""From a trigger's event to its handler, and from what the handler returns to an agent run.

Webhook endpoints (a caller waits) and workers (nobody waits) both come through here.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import anyio

from definable.agent.arguments import check_run
from definable.agent.auth.base import AuthContext
from definable.agent.run.context import RunRequest, current_trigger, ids_of, mark
from definable.agent.run.output import RunOutput
from definable.agent.run.telemetry import trigger_span
from definable.agent.trigger.base import BaseTrigger, TriggerEvent
from definable.agent.trigger.request import Reply
from definable.concurrency.backoff import Backoff
from definable.concurrency.call import call_user
from definable.concurrency.isolation import contained_error, error_text
from definable.concurrency.logs import logger_named
from definable.errors import ConfigurationError, ModelError, RunCancelled, RunTimeout

from .runs import RunRegistry

logger: logging.Logger = logger_named(__name__)

RETRY_BACKOFF = Backoff(initial=1.0, maximum=60.0, jitter=0.25)
"""Between the attempts at a trigger's event."""

RUN_ARGUMENTS = frozenset({"input", "session_id", "user_id", "metadata", "keep"})
"""What a handler's dict may hold: the parameters of `Agent.arun`."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A handler's value that is neither a run's input nor a `Reply`."""

    value: Any


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for what a handler does."""

    user_id: str | None
    """Whose run it is, unless the handler says."""
    run_id: str | None
    """The run's id, where it was promised to somebody."""
    auth: AuthContext | None

    def request(self, arguments: dict[str, Any], event: TriggerEvent) -> RunRequest:
        """The run that a handler asks for. One for a user that the handler named is no caller's, but the service's."""
        user_id = arguments.setdefault("user_id", self.user_id)
        namespace = self.auth.namespace if self.auth is not None and user_id == self.user_id else ""
        request = RunRequest(**arguments, trigger=event, auth=self.auth, namespace=namespace)
        return request if self.run_id is None else replace(request, run_id=self.run_id)


Outcome: TypeAlias = RunOutput | Reply | Returned | None
"""What an event came to: a run, the handler's own response, its value, or None for a mere acknowledgement."""


def is_success(outcome: Outcome) -> bool:
    """Whether a sender that waits for what came of its event is answered 2xx."""
    return not isinstance(outcome, Reply) or 200 <= outcome.status < 300


class Dispatcher:
    """Calls handlers and starts the runs that they ask for."""

    def __init__(self, registry: RunRegistry) -> None:
        self._registry = registry
        self._places: dict[BaseTrigger, anyio.Semaphore] = {}

    async def dispatch(
        self,
        trigger: BaseTrigger,
        event: TriggerEvent,
        *,
        user_id: str | None = None,
        run_id: str | None = None,
        auth: AuthContext | None = None,
        wait_for_place: bool = False,
    ) -> Outcome:
        """Handle an event once, within the trigger's timeout.

        Args:
            trigger: The trigger that fired.
            event: What its handler gets.
            user_id: Whose run it is, unless the handler says.
            run_id: The run's id, where it was promised to somebody.
            auth: Who asked for it, where that is not the sender of a webhook's request.
            wait_for_place: Whether the run waits when too many are under way, rather than fail.

        Raises:
            RunTimeout: Handler and run did not end in time.
            TooManyRuns: Too many runs are under way.
            Exception: What the handler or the run raised.
        """
        asked = Asked(user_id, run_id, auth or caller_of(event))
        token = current_trigger.set(event)
        try:
            span = trigger_span(event, trigger, waited_for=not wait_for_place)
            with span:
                try:
                    if trigger.timeout is None:
                        return await self._decide_and_run(trigger, event, asked, wait_for_place)
                    with anyio.move_on_after(trigger.timeout):
                        return await self._decide_and_run(trigger, event, asked, wait_for_place)
                except BaseException as error:
                    raise contained_error(error, "a handler")  # noqa: B904 - it is the same, or has its cause
                raise RunTimeout(f"{event.source} did not end within timeout={trigger.timeout:g} seconds")
        except Exception as error:
            mark(error)
            raise
        finally:
            current_trigger.reset(token)

    def dispatch_with_retries(
        self, trigger: BaseTrigger, event: TriggerEvent, *, user_id: str | None = None
    ) -> Awaitable[Outcome]:
        """Handle an event for a caller that waits: in its turn, and again when it fails, as the trigger says."""
        if trigger.max_concurrency is None and not trigger.retries:
            return self.dispatch(trigger, event, user_id=user_id)
        return self._dispatch_in_turn(trigger, event, user_id)

    async def _dispatch_in_turn(self, trigger: BaseTrigger, event: TriggerEvent, user_id: str | None) -> Outcome:
        body = event.body
        while True:
            if trigger.retries:  # a copy: later attempts get the same body
                event = replace(event, body=own_body(body))
            try:
                if trigger.max_concurrency is None:
                    return await self.dispatch(trigger, event, user_id=user_id)
                async with self._place(trigger, trigger.max_concurrency):
                    return await self.dispatch(trigger, event, user_id=user_id)
            except Exception as error:
                if not may_retry(trigger, event.attempt, error):
                    raise
                log_failure(logger, logging.WARNING, error, "%s failed, attempt %d", event.source, event.attempt)
            await anyio.sleep(RETRY_BACKOFF.delay(event.attempt))
            event = replace(event, attempt=event.attempt + 1)

    def _place(self, trigger: BaseTrigger, max_concurrency: int) -> anyio.Semaphore:
        place = self._places.get(trigger)
        if place is None:
            place = self._places[trigger] = anyio.Semaphore(max_concurrency)
        return place

    async def _decide_and_run(self, trigger: BaseTrigger, event: TriggerEvent, asked: Asked, wait: bool) -> Outcome:
        assert trigger.handler is not None
        decision = await call_user(trigger.handler, event)
        while decision is not None and inspect.isawaitable(decision):
            decision = await decision
        if decision is None or isinstance(decision, Reply):
            return decision
        arguments = run_arguments(decision)
        if arguments is None:
            logger.debug("the handler of %s returned %r", event.source, decision)
            return Returned(decision)
        request = asked.request(arguments, event)
        attempt = None if asked.run_id is None else event.attempt
        return await self._registry.run(request, event.source, wait=wait, attempt=attempt)


def caller_of(event: TriggerEvent) -> AuthContext | None:
    """Who sent a webhook's request, as its auth provider says; None for other events and on public endpoints."""
    return None if event.raw is None else event.raw.auth


def namespace_of(event: TriggerEvent) -> str:
    """What tells the runs and sessions of an event's sender from others'; empty where nobody was asked who it is."""
    auth = caller_of(event)
    return "" if auth is None else auth.namespace


def may_retry(trigger: BaseTrigger, attempt: int, error: Exception) -> bool:
    """Whether a failed attempt is followed by another: not when somebody cancelled the run by its id."""
    return attempt <= trigger.retries and not isinstance(error, RunCancelled)


def run_arguments(decision: Any) -> dict[str, Any] | None:
    """The run that a handler's return value asks for; None when it asks for none.

    Raises:
        ConfigurationError: A dict has keys that `Agent.arun` does not know, lacks the input, or has values that it does
            not take.
    """
    if isinstance(decision, str):
        return {"input": decision}
    if not isinstance(decision, Mapping):
        return None
    arguments = dict(cast("Mapping[str, Any]", decision))
    if "instruction" in arguments and "input" not in arguments:  # what the original library calls it
        arguments["input"] = arguments.pop("instruction")
    unknown = arguments.keys() - RUN_ARGUMENTS
    if unknown:
        raise ConfigurationError(
            f"a handler's dict holds the arguments of arun ({', '.join(sorted(RUN_ARGUMENTS))}), "
            f"not {', '.join(sorted(map(repr, unknown)))}; wrap other data in Reply(...)"
        )
    if "input" not in arguments:
        raise ConfigurationError("a handler's dict needs 'input', the agent's input")
    check_run(**arguments)
    return arguments


def log_failure(logger: logging.Logger, level: int, error: Exception, what: str, *args: object) -> None:
    """Log a failure.

    Args:
        logger: Whose it is.
        level: Of the record.
        error: Why it failed.
        what: What failed, a format for `args`, without the reason.
        args: Of the format.
    """
    if not says_it_all(error):
        logger.log(level, what, *args, exc_info=error)
        return
    ids = ids_of(error)
    logger.log(level, f"{what}: %s", *args, error_text(error), extra=None if ids is None else ids._asdict())  # noqa: G004 - the format is the caller's


def says_it_all(error: Exception) -> bool:
    """Whether a failure's message names what failed and what to do: of a model provider, whose calls are all ours."""
    return isinstance(error, ModelError)


CONTAINERS = (dict, list)
"""What JSON is made of; of anything else that an event in memory may hold there is but one."""


def own_body(body: Any) -> Any:
    """A copy of a body's dicts and lists, at whatever depth; of one that holds itself, of the outermost alone.

    What one handler does to the body is seen by no other handler, and by no later attempt.
    """
    try:
        return _copied(body)
    except RecursionError:
        return body.copy()


def _copied(value: Any) -> Any:
    kind = value.__class__
    if kind is dict:
        return {key: _copied(each) if type(each) in CONTAINERS else each for key, each in value.items()}
    if kind is list:
        return [_copied(each) if type(each) in CONTAINERS else each for each in value]
    return value
