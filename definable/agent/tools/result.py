"""What came of a tool call: the function's value, and the text that the model sees of it.

`tool.py` makes them; the run loop puts `content` into the conversation, also for calls of tools that do not exist. Bad
arguments are answered with pydantic's errors in words that a model can act on: which field, what was expected, and
what came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails, ValidationError, to_json

from definable.concurrency.isolation import error_text, sole_member
from definable.frozen import setters_of
from definable.json_text import json_bytes, well_formed
from definable.model.message import Image

MAX_PROBLEMS = 10
"""Further ones are counted, not told."""

MAX_INPUT_LENGTH = 60
"""Characters of the offending value that are shown."""


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong, field by field.

    Returns:
        Such as `city: required, but missing; days: input should be a valid integer, got "many"`.
    """
    problems = error.errors(include_url=False, include_context=False)
    told = "; ".join(_problem(problem) for problem in problems[:MAX_PROBLEMS])
    more = len(problems) - MAX_PROBLEMS
    return f"{told}; and {more} more" if more > 0 else told


def _problem(problem: ErrorDetails) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {_complaint(problem)}" if field else _complaint(problem)


def _complaint(problem: ErrorDetails) -> str:
    message = problem["msg"]
    match problem["type"]:
        case "missing":
            return "required, but missing"
        case "extra_forbidden":
            return "unknown, must not be given"
        case "json_invalid":
            return f"not valid JSON: {message.removeprefix('Invalid JSON: ')}"
        case "value_error" | "assertion_error":  # a user's own validator: after the comma come its words
            return f"{message.partition(', ')[2]}, got {_shown(problem['input'])}"
        case _:
            return f"{message[:1].lower()}{message[1:]}, got {_shown(problem['input'])}"


def _shown(value: Any) -> str:
    text = to_json(value, fallback=repr, bytes_mode="base64").decode()
    return text if len(text) <= MAX_INPUT_LENGTH else f"{text[:MAX_INPUT_LENGTH]}..."


MAX_ERROR_LENGTH = 2_000
"""Characters of an exception's message that the model is shown."""


@dataclass(frozen=True, slots=True)
class Button:
    """A button under a message in a chat.

    Args:
        text: What it says.
        value: What comes back when it is pressed (`InterfaceMessage.button`); its text when None.
        url: A page that it opens in place of that.

    Raises:
        ValueError: It says nothing, or has both a value and a page.
    """

    text: str
    value: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("Button(text=''): a button says something")
        if self.value is not None and self.url is not None:
            raise ValueError(f"Button({self.text!r}): a value that comes back or a url that it opens, not both")

    @property
    def pressed(self) -> str:
        """What comes back when it is pressed."""
        return self.text if self.value is None else self.value


@dataclass(frozen=True, slots=True, init=False)
class ToolResult:
    """The outcome of one tool call; a tool returns one to show images beside its text.

    Args:
        content: What the model is told: text as it is, anything else as JSON, as pydantic writes it (models,
            dataclasses, dates, sets and so on; what JSON has no form for, as `json_bytes` says). None is `null`: some
            providers refuse an empty content.
        media: Images, or their bytes (PNG, JPEG, GIF, WebP), for a model that can see, and for the chat.
        buttons: For the chat, under the answer: rows of `Button`s; one outside a row is a row by itself.
        value: What the function returned.
        error: What went wrong; None after success.

    Raises:
        ValueError: `content` contains itself, or bytes in `media` are no image of these formats.

    Example:
        >>> ToolResult("the chart of May", media=[Image(url="https://example.com/may.png")]).content
        'the chart of May'
    """

    content: str
    """What the model sees."""
    media: tuple[Image, ...]
    """What it sees besides, if it can."""
    buttons: tuple[tuple[Button, ...], ...]
    """What the chat shows under the answer, row by row."""
    value: Any
    """What the function returned; None after a failure."""
    error: str | None
    """What went wrong, in the words of `content`; None after success."""

    def __init__(
        self,
        content: Any,
        media: Iterable[Image | bytes] = (),
        *,
        buttons: Iterable[Button | Iterable[Button]] = (),
        value: Any = None,
        error: str | None = None,
    ) -> None:
        text = well_formed(str.__str__(content)) if isinstance(content, str) else json_bytes(content).decode()
        _set_content(self, text)
        _set_media(self, tuple([_image(each) for each in media]) if media else ())
        _set_buttons(self, button_rows(buttons) if buttons else ())
        _set_value(self, value)
        _set_error(self, error)

    @classmethod
    def of(cls, value: Any) -> ToolResult:
        """The result of a call that returned `value`: an image, its bytes or a `ToolResult` too.

        Raises:
            ValueError: `value` contains itself.
        """
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, Image) or (isinstance(value, bytes) and image_type(value) is not None):
            image = _image(value)
            return cls(
                f"an image ({image.media_type})" if image.data else f"an image: {image.url}", (image,), value=value
            )
        return cls(value, value=value)

    @classmethod
    def failed(cls, error: str) -> ToolResult:
        """The result of a call that failed; the model is told why and may do better."""
        return cls(error, error=error)


_set_content, _set_media, _set_buttons, _set_value, _set_error = setters_of(ToolResult)


def button_rows(buttons: Iterable[Button | Iterable[Button]]) -> tuple[tuple[Button, ...], ...]:
    """Rows of buttons; one outside a row is a row by itself, and an empty row is none."""
    rows = [(each,) if isinstance(each, Button) else tuple(each) for each in buttons]
    return tuple([row for row in rows if row])


_IMAGE_STARTS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
"""What the files of each format begin with (their specifications; a WebP is a RIFF container)."""


def image_type(data: bytes) -> str | None:
    """The MIME type of an image by its first bytes; None for anything but the formats that models take."""
    for start, media_type in _IMAGE_STARTS:
        if data.startswith(start):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _image(given: Image | bytes) -> Image:
    if isinstance(given, Image):
        return given
    media_type = image_type(given)
    if media_type is None:
        raise ValueError(
            f"{len(given)} bytes that are no PNG, JPEG, GIF or WebP: Image(data=..., media_type=...) says so"
        )
    return Image(data=given, media_type=media_type)


def describe_exception(exception: BaseException) -> str:
    """`ExceptionType: message`, on the cause itself where exception groups hold a single one."""
    text = error_text(exception)
    name = type(sole_member(exception)).__name__
    limit = len(name) + len(": ") + MAX_ERROR_LENGTH
    return text if len(text) <= limit else f"{text[:limit]}..."
