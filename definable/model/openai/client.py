"""One event loop's connection to a Chat Completions server. Loaded with the SDK, when an `OpenAIChat` is first used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import anyio
import openai

from definable.errors import ModelTimeoutError
from definable.model.failure import Failure
from definable.model.message import ModelReply
from definable.model.reply_stream import ReplyStream
from definable.model.sdk_client import SDKClient

from .errors import EXPLAINED, explain
from .profiles import Profile
from .response import ReplyAssembler, read_reply


class OpenAIClient(SDKClient):
    """Sends requests and explains what goes wrong.

    Args:
        key: Returns the API key, before each request.
        base_url: The server's, None for OpenAI's.
        profile: What the server understands.
        timeout: Seconds for one answer, or for the next piece of a streamed one.
        max_retries: How many tries may follow the first.
        headers: Sent with every request.
        query: Sent with every request.
        sdk: Further arguments of the SDK's client.
    """

    path: ClassVar[str] = "/chat/completions"
    credential: ClassVar[tuple[str, str]] = ("Authorization", "Bearer ")
    stream_class: ClassVar[type] = openai.AsyncStream[Any]
    explained: ClassVar[tuple[type[Exception], ...]] = EXPLAINED

    def __init__(
        self,
        key: Callable[[], Awaitable[str]],
        base_url: str | None,
        profile: Profile,
        *,
        timeout: float,
        max_retries: int,
        headers: Mapping[str, str],
        query: Mapping[str, object],
        sdk: Mapping[str, Any],
    ) -> None:
        super().__init__(
            openai.AsyncOpenAI,
            key,
            base_url,
            timeout=timeout,
            max_retries=max_retries,
            headers=headers,
            query=query,
            sdk=sdk,
        )
        self._profile = profile

    async def reply(self, body: bytes) -> ModelReply:
        """Send a request and read its whole answer, again when that fails for a while.

        Raises:
            ModelError: The provider failed.
        """
        return await self.retrying(lambda: self._reply_once(body))

    def stream(self, body: bytes) -> ReplyStream:
        """A request's answer, streamed."""
        profile = self._profile
        return ReplyStream(self, body, lambda: ReplyAssembler(profile.name, think_tags=profile.think_tags))

    def explain(self, error: BaseException) -> Failure:
        return explain(error, where=self.where, keys=self.keys, timeout=self.timeout)

    async def _reply_once(self, body: bytes) -> ModelReply:
        with anyio.move_on_after(self.timeout):
            response = await self.post(body)
            try:
                return read_reply(await response.aread(), self._profile.name, think_tags=self._profile.think_tags)
            finally:
                await response.aclose()
        raise ModelTimeoutError(f"{self.where} did not answer within {self.timeout:g} s")
