"""The parts of an agent, which can be set until it is served and overridden in tests, and what is registered on it.

`Agent` derives from them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypedDict, TypeVar, Unpack, cast, runtime_checkable

import anyio

from definable.errors import ConfigurationError, ServeError
from definable.model.message import Model
from definable.model.resolve import resolve_model
from definable.original_library import AGENT_ATTRIBUTES, unknown_arguments, unknown_attribute

from .arguments import check_auth, check_interface, check_middleware, check_parts, installed_interface
from .bus.emitter import Emitter
from .run.hook_point import HookPoint
from .run.runner import Runner
from .trigger.registry import TriggerRegistry

if TYPE_CHECKING:
    from quart import Blueprint

    from .auth.base import AuthProvider
    from .bus.base import EventBus
    from .interface.base import BaseInterface
    from .runtime.runtime import AgentRuntime
    from .session.base import SessionStore
    from .trigger.base import BaseTrigger


HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., Any])
AnyAgent = TypeVar("AnyAgent", bound="AgentParts")


class Overrides(TypedDict, total=False):
    """The parts of an agent that can be overridden."""

    model: Model | str
    bus: EventBus | None
    """None: a `MemoryBus`, as of an agent that was given none."""
    sessions: SessionStore
    interfaces: Sequence[BaseInterface]
    """In place of those that `add_interface` was given; those of a `serve(...)` are not overridden."""


@contextmanager
def overridden(agent: AnyAgent, parts: Overrides) -> Generator[AnyAgent, None, None]:
    """Let the agent have other parts while the context is open.

    Raises:
        ServeError: The agent is being served, or still is at the end.
    """
    if unknown := parts.keys() - Overrides.__annotations__.keys():
        unknown_arguments("override()", unknown, Overrides.__annotations__, {})
    if agent.runtime is not None:
        raise ServeError("an agent cannot be overridden while it is served: enter override() first, serve within")
    before = agent.parts
    try:
        _exchange(agent, parts)
        yield agent
        if agent.runtime is not None:
            raise ServeError("the agent is still served at the end of override(): stop it within")
    finally:
        agent.restore(before)


def _exchange(agent: AgentParts, parts: Overrides) -> None:
    if "model" in parts:
        agent.model = parts["model"]
    if "sessions" in parts:
        agent.sessions = parts["sessions"]
    if "interfaces" in parts:
        for interface in parts["interfaces"]:
            check_interface(interface)
        agent.interfaces = list(parts["interfaces"])
    bus = parts.get("bus", agent.bus)
    agent.own(bus)
    agent.emitter = Emitter(bus)  # what one test emits is no other's, and an emitter ends with its serving
    agent.bus = bus


CLOSE_TIMEOUT = 5.0
"""Seconds that closing the model's connections may take."""


class Parts(NamedTuple):
    """What `override` may change."""

    model: Model
    sessions: SessionStore
    bus: EventBus | None
    interfaces: list[BaseInterface]
    emitter: Emitter


DEFAULT_NAME = "agent"
"""Of an agent that was given no name."""


@runtime_checkable
class NamedByAgent(Protocol):
    """A store or bus whose names at a shared server follow the agent's."""

    def belongs_to(self, agent: str | None) -> None:
        """Follow this name; None for an agent without one."""
        ...


class AgentParts:
    """What an agent is made of.

    Args:
        name: The agent's name, or None.
        runner: Makes its runs.
        bus: Carries work that is done later; None: a `MemoryBus` of each serving's own.
        auth: Who may call.
    """

    def __init__(self, name: str | None, runner: Runner, bus: EventBus | None, auth: AuthProvider | None) -> None:
        self.name: str = name or DEFAULT_NAME
        self.runner = runner
        self.interfaces: list[BaseInterface] = []
        self.triggers: TriggerRegistry = TriggerRegistry()
        self.emitter: Emitter = Emitter(bus)
        self._blueprint: Blueprint | None = None
        self.middleware: list[Callable[[Any], Any]] = []
        """What makes an ASGI application around another, the outermost first; see `add_middleware`."""
        self.runtime: AgentRuntime | None = None
        """What serves the agent now; None while nothing does."""
        self._bus = bus
        self._auth = auth
        self.own(runner.sessions.store)
        self.own(bus)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute of an agent's

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute("Agent", name, AGENT_ATTRIBUTES)

    @property
    def model(self) -> Model:
        """The language model."""
        return self.runner.model

    @model.setter
    def model(self, model: Model | str) -> None:
        self._check_not_served("model")
        self.runner.model = resolve_model(model)

    @property
    def sessions(self) -> SessionStore:
        """Where conversations are kept."""
        return self.runner.sessions.store

    @sessions.setter
    def sessions(self, sessions: SessionStore) -> None:
        check_parts(None, sessions, None, None)
        self._check_not_served("sessions")
        self.own(sessions)
        self.runner.sessions.store = sessions

    @property
    def bus(self) -> EventBus | None:
        """What carries work that is done later; None: a `MemoryBus` of each serving's own."""
        return self._bus

    @bus.setter
    def bus(self, bus: EventBus | None) -> None:
        check_parts(None, None, bus, None)
        self._check_not_served("bus")
        self.own(bus)
        self.emitter.expect(bus)
        self._bus = bus

    @property
    def auth(self) -> AuthProvider | None:
        """Who may call; may be set while the agent is served too."""
        return self._auth

    @auth.setter
    def auth(self, auth: AuthProvider | None) -> None:
        check_auth(auth)
        self._auth = auth

    def own(self, part: object) -> None:
        """Let a store or bus that keeps its names at a server follow the agent's name."""
        if isinstance(part, NamedByAgent):
            part.belongs_to(None if self.name == DEFAULT_NAME else self.name)

    def _check_not_served(self, part: str) -> None:
        if self.runtime is not None:
            raise ServeError(f"agent.{part} cannot be set while the agent is served: stop it first")

    def override(self, **parts: Unpack[Overrides]) -> AbstractContextManager[Self]:
        """Let the agent have other parts while a context is open: for tests of an agent that a module defines.

        `with agent.override(model=OfflineModel(script), interfaces=[]): ...` may hold runs and whole servings. What is
        emitted within is handled within. Contexts may be nested. The agent is changed for all tasks and threads: two
        tests that override one agent at once need two processes.

        Args:
            parts: `model`, `bus`, `sessions` and `interfaces`, as `Agent(...)` and `add_interface` take them.

        Raises:
            ServeError: The agent is being served.
            ConfigurationError: One of the parts is not what it should be.
        """
        return overridden(self, parts)

    def restore(self, before: Parts) -> None:
        """Have the parts again that `parts` gave; for `override` alone."""
        self.runner.model, self.runner.sessions.store, self._bus, self.interfaces, self.emitter = before

    @property
    def parts(self) -> Parts:
        """What `override` may change."""
        return Parts(self.model, self.sessions, self._bus, self.interfaces, self.emitter)

    # --- register

    def on(self, trigger: BaseTrigger) -> Callable[[HandlerFunction], HandlerFunction]:
        """Have a function handle a trigger's events: `@agent.on(Webhook("/github"))`.

        What the function (sync or async) returns decides: a string or a dict of `arun`'s arguments runs the agent, None
        acknowledges, a `Reply` is a webhook's own response.

        Raises:
            RouteConflict: Another webhook has the same method and path, or it shadows a built-in route.
            ConfigurationError: The trigger has a handler already, or the handler cannot be called.
        """

        def register(handler: HandlerFunction) -> HandlerFunction:
            self.triggers.add(trigger, handler)
            return handler

        return register

    def add_interface(self, interface: BaseInterface | str, **settings: Any) -> Self:
        """Serve a messaging interface along with the agent.

        Args:
            interface: The interface, or its name: of an entry point in the group `definable.interfaces`.
            settings: Of an interface that is named: `agent.add_interface("telegram", bot_token=...)`.

        Returns:
            The agent.

        Raises:
            ConfigurationError: It is no interface, or none of that name is installed.
        """
        if isinstance(interface, str):
            interface = cast("BaseInterface", installed_interface(interface, settings))
        elif settings:
            raise ConfigurationError(f"add_interface(..., {next(iter(settings))}=...): settings go with a name")
        check_interface(interface)
        self.interfaces.append(interface)
        return self

    def add_middleware(self, middleware: Callable[..., Any], *args: Any, **kwargs: Any) -> Self:
        """Put ASGI middleware around all that answers HTTP: `agent.add_middleware(GZipMiddleware, minimum_size=500)`.

        What was added first is the outermost: it sees a request first and its response last. Middleware also gets the
        lifespan of the service, and works under `agent.asgi()` too.

        Args:
            middleware: A class or function of an ASGI application that makes another around it; pure ASGI, as
                Starlette's are.
            args: Its further arguments.
            kwargs: Its arguments by name.

        Returns:
            The agent.

        Raises:
            ConfigurationError: It cannot be called so.
            ServeError: The agent is being served.
        """
        check_middleware(middleware, args, kwargs)
        if self.runtime is not None:
            raise ServeError("the agent is being served already: add middleware before")
        self.middleware.append(lambda app: middleware(app, *args, **kwargs))
        return self

    @property
    def before_request(self) -> HookPoint:
        """Registers a function of the `RunContext`, called before every run."""
        return self.runner.before_request

    @property
    def after_response(self) -> HookPoint:
        """Registers a function of the `RunOutput`, called after every run that succeeded."""
        return self.runner.after_response

    @property
    def on_error(self) -> HookPoint:
        """Registers a function of the `RunContext` and the exception, called after every run that failed."""
        return self.runner.on_error

    @property
    def blueprint(self) -> Blueprint:
        """A Quart blueprint for routes and WebSockets of your own, served beside the agent's endpoints."""
        if self._blueprint is None:
            from quart import Blueprint  # heavy, and many agents have no routes of their own

            self._blueprint = Blueprint("agent", __name__)
        return self._blueprint

    @property
    def has_blueprint(self) -> bool:
        """Whether anybody asked for the blueprint."""
        return self._blueprint is not None

    # --- for programs of the original library: here nothing has to be opened or closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """`run` has closed what it opened."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the model's connections, which `arun` keeps for the next run."""
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # also when it is left by a cancellation
            await self.model.aclose()
