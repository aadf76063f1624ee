"""Voice as text by an API like OpenAI's, over a loopback server."""

from __future__ import annotations

from typing import Any

import pytest
from quart import request

from definable.agent import Agent
from definable.agent.interface import Media, OpenAITranscriber
from definable.errors import ModelError
from definable.testing import served

pytestmark = pytest.mark.anyio


async def test_a_voice_message_is_sent_as_a_file_and_a_refusal_is_a_model_error() -> None:
    agent, received = Agent("offline"), list[tuple[Any, ...]]()

    @agent.blueprint.post("/v1/audio/transcriptions")
    async def transcribe() -> Any:  # https://platform.openai.com/docs/api-reference/audio/createTranscription
        if request.headers["Authorization"] != "Bearer sk-loopback":
            return {"error": {"message": "no such key", "type": "invalid_request_error"}}, 401
        voice, form = (await request.files)["file"], await request.form
        received.append((voice.filename, voice.mimetype, voice.read(), form["model"], form["language"]))
        return {"text": "what is the time?"}

    async with served(agent) as service:
        url = f"{service.runtime.url}/v1"
        transcriber = OpenAITranscriber("whisper-1", "sk-loopback", url, language="de")
        assert await transcriber(Media(b"OggS", media_type="audio/ogg; codecs=opus")) == "what is the time?"
        assert await transcriber(Media(b"ID3", media_type="audio/mpeg", filename="a.mp3")) == "what is the time?"
        with pytest.raises(ModelError, match="no such key"):
            await OpenAITranscriber("whisper-1", "sk-other-key", url)(Media(b"OggS", media_type="audio/ogg"))
    assert [each[0] for each in received] == ["voice.ogg", "a.mp3"]
    assert received[1][1:] == ("audio/mpeg", b"ID3", "whisper-1", "de")
