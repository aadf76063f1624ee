"""Voice messages as text, for the model."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from definable.concurrency.call import call_user
from definable.concurrency.isolation import error_text
from definable.concurrency.logs import logger_named
from definable.errors import ModelError

from .message import InterfaceMessage, Media

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from .config import Transcriber

logger: logging.Logger = logger_named(__name__)


async def with_transcripts(message: InterfaceMessage, transcriber: Transcriber) -> InterfaceMessage:
    """The message with what is said in its audio as text; a transcriber that fails costs the transcript alone.

    Args:
        message: What came in.
        transcriber: The interface's.
    """
    texts = [message.text] if message.text else []
    for voice in message.audio:
        if voice.data is None:
            continue
        try:
            texts.append(str(await call_user(transcriber, voice)).strip())
        except Exception as error:
            logger.warning(
                "%s: message %s: a voice message was not transcribed: %s",
                message.platform,
                message.platform_message_id,
                error_text(error),
            )
    return replace(message, text="\n".join(texts) or None)


class OpenAITranscriber:
    """Transcribes voice by an API like OpenAI's: a `transcriber=` of an interface.

    Args:
        model: `"gpt-4o-mini-transcribe"`, `"whisper-1"`, or what a server of your own has.
        api_key: The key; `OPENAI_API_KEY` when None.
        base_url: The API's; OpenAI's when None.
        timeout: Seconds that one transcription may take.
        options: More of the request, say `language="de"`
            (https://platform.openai.com/docs/api-reference/audio/createTranscription).

    Example:
        TelegramInterface(bot_token=token, transcriber=OpenAITranscriber("whisper-1"))
    """

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self.model = model
        self._client_options: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "timeout": timeout}
        self._options = options

    async def __call__(self, voice: Media) -> str:
        """What is said in a voice message.

        Raises:
            ModelError: The API did not answer, or refused.
        """
        from openai import OpenAIError  # heavy

        name = voice.filename or f"voice.{voice.media_type.partition(';')[0].rpartition('/')[2] or 'ogg'}"
        try:
            async with self._client() as client:  # a client belongs to one event loop
                create: Any = client.audio.transcriptions.create  # its overloads know no options of other servers
                answer: Any = await create(
                    model=self.model, file=(name, voice.data or b"", voice.media_type), **self._options
                )
        except OpenAIError as error:
            raise ModelError(f"{self.model}: {error}") from error
        return str(answer if isinstance(answer, str) else answer.text)

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI  # heavy

        return AsyncOpenAI(**self._client_options)
