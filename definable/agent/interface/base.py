"""`BaseInterface`: how a platform's messages come to the agent and its answers go back.

A custom interface implements `receive` and `send`. The runtime's supervisor runs it, and has a `Pipeline` answer what
it accepts; the interface knows neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

import anyio

from definable.agent.auth.base import AuthProvider, check_platforms, is_provider
from definable.agent.run.runner import Runner
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.webhook import Webhook
from definable.errors import ConfigurationError
from definable.model.message import Message
from definable.original_library import INTERFACE_ATTRIBUTES, INTERFACE_CONTEXT, INTERFACE_METHODS, unknown_attribute

from .config import InterfaceConfig, configured
from .hooks import check_hook
from .identity import IdentityResolver
from .message import InterfaceMessage, InterfaceResponse
from .sessions import SessionManager

__all__ = ["Accept", "BaseInterface", "ServableAgent", "WebhookHandler"]

Accept: TypeAlias = Callable[[InterfaceMessage], Awaitable[bool]]
"""Puts a message on the agent's event bus, and returns before it is answered; False when it came in before and is not
answered again. A durable bus keeps JSON: a message's `metadata` must be JSON then."""

ReadHistory: TypeAlias = Callable[[str, str, str], Awaitable[Sequence[Message]]]
"""The messages of a conversation, oldest first, by platform, user and chat; none where there is no open one."""

WebhookHandler: TypeAlias = Callable[[TriggerEvent], Awaitable[Any]]
"""Handles a request to an interface's own webhook."""

CLOSE_TIMEOUT = 5.0
"""Seconds that letting go of the identities may take."""


class ServableAgent(Protocol):
    """What serving needs of the agent that answers; an `Agent` is one."""

    @property
    def name(self) -> str: ...
    @property
    def auth(self) -> AuthProvider | None: ...
    @property
    def runner(self) -> Runner: ...


class BaseInterface(ABC):
    """A chat platform in front of the agent.

    Args:
        config: Settings; the defaults when None.
        agent: The agent that answers; the one that serves the interface when None.
        session_manager: The open conversations; one of its own when None. It may be shared.
        hooks: Called around every message; see `InterfaceHook`.
        identity_resolver: Knows one person on several platforms; None: a user of each platform is another person.
        auth: Who may write to the agent; False lets in everybody. None asks the agent's own provider, if that speaks on
            this platform: `APIKeyAuth` and `JWTAuth` guard HTTP alone, and leave the chat open.
        settings: Fields of the config, by name: in place of a config, or beside it, and then they count.

    Raises:
        ConfigurationError: `auth` is no provider, or one of the hooks has none of a hook's methods.
        TypeError: There is no such setting.

    Example:
        A custom interface implements two methods:

            class Lines(BaseInterface):
                async def receive(self, accept):
                    async for number, line in read_lines():
                        await accept(InterfaceMessage("lines", "me", "here", str(number), text=line))

                async def send(self, message, response):
                    await write_line(response.content)
    """

    config_type: ClassVar[type[InterfaceConfig]] = InterfaceConfig
    """What the interface is configured with."""
    typing_interval: ClassVar[float] = 4.0
    """Seconds after which `typing` is called again while the agent runs."""
    edit_interval: ClassVar[float] = 1.0
    """Seconds from one `post` or `edit` of a reply that is being written to the next."""
    has_buttons: ClassVar[bool] = False
    """Whether `send` shows the buttons of a response; those of another platform are written as text."""
    has_http_users: ClassVar[bool] = False
    """Whether its users are callers of its `webhooks`, whom an auth provider has judged there by their HTTP request:
    then it judges no message again."""
    history: ReadHistory | None = None
    """Reads a conversation as the agent's session store has it; set while the interface is served."""

    def __init__(
        self,
        config: InterfaceConfig | None = None,
        *,
        agent: ServableAgent | None = None,
        session_manager: SessionManager | None = None,
        hooks: Sequence[object] = (),
        identity_resolver: IdentityResolver | None = None,
        auth: AuthProvider | Literal[False] | None = None,
        **settings: Any,
    ) -> None:
        if auth is not None and auth is not False and not is_provider(auth):
            raise ConfigurationError(f"auth={auth!r}: a provider, False for everybody, None for the agent's")
        check_platforms(auth)
        self.config: InterfaceConfig = configured(self.config_type, config, settings, type(self).__name__)
        self.agent = agent
        self.session_manager: SessionManager = session_manager or SessionManager(self.config.session_ttl_seconds)
        self.hooks: Sequence[object] = tuple(hooks)
        for hook in self.hooks:
            check_hook(hook)
        self.identity_resolver = identity_resolver
        self.auth: AuthProvider | Literal[False] | None = auth
        self.last_alive: float | None = None
        """When the platform was last heard of, in seconds of the event loop's clock; None: not since the start."""
        self._is_open = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        originals = [name for name in INTERFACE_METHODS if name in vars(cls)]
        if originals and cls.receive is BaseInterface.receive:
            raise TypeError(
                f"{cls.__name__} implements {', '.join(originals)} of the original library: here a platform implements "
                "receive(accept), which runs until it is cancelled, and send(message, response)"
            )

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(type(self).__name__, name, INTERFACE_ATTRIBUTES)

        async def __aenter__(self) -> Any:
            raise TypeError(f"{type(self).__name__} is no context: {INTERFACE_CONTEXT}")

        async def __aexit__(self, *exception: object) -> None: ...

    def add_hook(self, hook: object) -> Self:
        """Call a hook around every message, after those that are there.

        Returns:
            The interface.

        Raises:
            ConfigurationError: It has none of a hook's methods.
        """
        check_hook(hook)
        self.hooks = (*self.hooks, hook)
        return self

    @property
    def name(self) -> str:
        """Names the interface in reports, logs and `/health`."""
        return self.config.platform or type(self).__name__

    @property
    def has_allow_list(self) -> bool:
        """Whether settings of its own say who may write, apart from `auth`."""
        return False

    @property
    def max_silence(self) -> float | None:
        """Seconds without a sign of life after which `/health` calls a running interface stalled; None for never."""
        return None

    @property
    def max_part_length(self) -> int:
        """UTF-16 code units of one part of a reply: less than a message takes where its formatting needs some."""
        return self.config.max_message_length

    # --- what a platform implements

    @abstractmethod
    async def receive(self, accept: Accept) -> None:
        """Receive messages until cancelled, handing each to `accept`.

        An exception makes the supervisor start it again, after a while; a return means that there is nothing more to
        come. It is cancelled when a stop begins: messages accepted before are answered still.

        Raises:
            InterfaceAuthenticationError: The platform refuses the token: it is not tried again.
        """

    @abstractmethod
    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        """Send a response to the chat that a message came from.

        Its `content` has at most `max_part_length` UTF-16 code units: a longer reply comes in several calls, the
        last of which has the media.

        Raises:
            InterfaceError: The response was not sent.
        """

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        """Post the beginning of a reply that is being written, to be edited as it grows; optional.

        It is called once for each message of a reply: whatever it raises, the rest comes through `send`.

        Returns:
            What `edit` knows the message by; None: nothing was posted, in this chat replies come whole.
        """
        return None

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        """Have a message that `post` posted show another text; optional, and tried once: the caller tries again.

        Raises:
            InterfaceMessageError: It cannot be edited, say since it is gone: the text is sent in a new message.
            InterfaceRateLimitError: It may be edited later.
            InterfaceConnectionError: It may have been edited, or not.
        """
        raise NotImplementedError(f"{type(self).__name__} implements post, and not edit")

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        """Delete a message that `post` posted: the reply came out shorter than its beginning; optional.

        Raises:
            InterfaceError: As `edit`.
        """
        await self.edit(message, posted, "…")

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        """Fetch what a message refers to, say its images; called once its user was let in.

        Raises:
            InterfaceError: It could not be fetched.
        """
        return message

    async def typing(self, message: InterfaceMessage) -> None:  # noqa: B027 - may be left as it is
        """Show in the message's chat that the agent is at work, for as long as the platform shows it."""

    async def acknowledge(self, message: InterfaceMessage) -> None:  # noqa: B027 - may be left as it is
        """A button or a native command was taken: have the platform show no longer that it waits; optional."""

    async def show_commands(self, commands: Mapping[str, str]) -> None:  # noqa: B027 - may be left as it is
        """Have the platform's own menu show these commands; optional, called once the interface receives.

        Args:
            commands: Their descriptions by name, without a slash.

        Raises:
            InterfaceError: They are not shown; that is logged, and nothing else.
        """

    def connection(self) -> AbstractAsyncContextManager[None]:
        """Hold what both `receive` and `send` need: a context that outlives `receive` until all is answered.

        What it raises when it is entered is final. Connect in `receive`, which is tried again.
        """
        return nothing_to_hold()

    def handled(self, message: InterfaceMessage) -> None:  # noqa: B027 - may be left as it is
        """An accepted message is safe without the platform: it has come to its end, answered, refused or failed, or a
        durable event bus keeps it; not so one that a stop cut off."""

    def answer_ended(self, message: InterfaceMessage) -> None:  # noqa: B027 - may be left as it is
        """Nothing more is sent in answer to a message, nor is `typing` shown, in this process: it was answered, refused
        or dropped, or failed."""

    def webhooks(self) -> Iterable[tuple[Webhook, WebhookHandler]]:
        """Endpoints of the platform, to be served beside the agent's webhooks; new ones at every call.

        A handler may answer with a `Reply` whose body is written as it goes, say server-sent events; it must end such
        a body once `receive` was cancelled, or it holds up the stop. `Webhook(method="GET", embeddable=True)` is for
        pages and scripts.
        """
        return ()

    # --- what the supervisor calls

    @property
    def can_stream(self) -> bool:
        """Whether replies can be shown while they are written: `post` and `edit` are implemented."""
        return type(self).post is not BaseInterface.post and type(self).edit is not BaseInterface.edit

    def alive(self) -> None:
        """Note that the platform was heard of; called from within `receive`."""
        self.last_alive = anyio.current_time()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None, None]:
        """Hold everything that the interface needs, from before it receives until all is answered.

        Raises:
            ConfigurationError: It is held already: two services would share one connection and one rate limit.
        """
        if self._is_open:
            raise ConfigurationError(f"{self.name} is being served already: one agent that serves, one interface")
        self._is_open = True
        try:
            self.last_alive = None  # of another event loop's clock, where it was served before
            async with self._identified(), self.connection():
                yield
        finally:
            self._is_open = False

    @asynccontextmanager
    async def _identified(self) -> AsyncGenerator[None, None]:
        identities = self.identity_resolver
        if identities is None:
            yield
            return
        await identities.initialize()
        try:
            yield
        finally:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):  # files must not outlive a cancelled service
                await identities.close()


@asynccontextmanager
async def nothing_to_hold() -> AsyncGenerator[None, None]:
    """The connection of an interface that needs none."""
    yield
