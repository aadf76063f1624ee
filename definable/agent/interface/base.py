"""`BaseInterface`: how a platform's messages come to the agent and its answers go back.

A custom interface implements `receive` and `send`. The runtime's supervisor runs it; the interface knows nothing of the
runtime, it is handed the callables that it needs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from definable.agent.run_output import RunOutput
from definable.agent.runner import RunRequest

from .config import InterfaceConfig
from .message import InterfaceMessage, InterfaceResponse

if TYPE_CHECKING:
    from definable.agent.agent import Agent

logger = logging.getLogger(__name__)

Accept: TypeAlias = Callable[[InterfaceMessage], Awaitable[None]]
"""Takes a message in; returns once it is accepted, which is before it is answered."""

StartRun: TypeAlias = Callable[[RunRequest], Awaitable[RunOutput]]
"""Makes a run of the agent."""


class BaseInterface(ABC):
    """A chat platform in front of the agent.

    Args:
        config: Settings; the defaults when None.
        agent: The agent that answers; the one that serves the interface when None.

    Example:
        A custom interface implements two methods:

            class Lines(BaseInterface):
                async def receive(self, accept):
                    async for number, line in read_lines():
                        await accept(InterfaceMessage("lines", "me", "here", str(number), text=line))

                async def send(self, message, response):
                    await write_line(response.content)
    """

    def __init__(self, config: InterfaceConfig | None = None, *, agent: Agent | None = None) -> None:
        self.config = InterfaceConfig() if config is None else config
        self.agent = agent

    @property
    def name(self) -> str:
        """Names the interface in reports, logs and `/health`."""
        return self.config.platform or type(self).__name__

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
        """Send a response to the chat that a message came from."""

    async def answer(self, message: InterfaceMessage, start_run: StartRun) -> bool:
        """Answer one accepted message: run the agent and send what it says; a failure sends `error_message`.

        Returns:
            Whether the agent answered.
        """
        session_id = f"{message.platform}:{message.platform_chat_id}:{message.platform_user_id}"
        request = RunRequest(message.text or "", session_id, f"{message.platform}:{message.platform_user_id}")
        try:
            output = await start_run(request)
            await self.send(message, InterfaceResponse(content=str(output.content)))
        except Exception:
            logger.exception("%s: message %s was not answered", self.name, message.platform_message_id)
            await self._apologise(message)
            return False
        return True

    async def _apologise(self, message: InterfaceMessage) -> None:
        try:
            await self.send(message, InterfaceResponse(content=self.config.error_message))
        except Exception:
            logger.exception("%s: the error message could not be sent", self.name)
