"""What the agent is told of a message: pure."""

from __future__ import annotations

from typing import Any

from definable.json_text import json_bytes
from definable.model.message import Message

from .message import InterfaceMessage


def run_input(message: InterfaceMessage) -> str | Message:
    """A message as a run's input: its text, its images, and a line for each attachment that a model cannot see."""
    lines = [message.text] if message.text else []
    for kind, media in (("audio", message.audio), ("video", message.videos), ("file", message.files)):
        lines += [f"[{kind}: {each}]" for each in media]
    text = "\n".join(lines)
    return Message("user", text, images=message.images) if message.images else text


def reply_text(content: Any) -> str:
    """A run's output as text: an object of the agent's `output_type` as JSON."""
    return content if isinstance(content, str) else json_bytes(content).decode()
