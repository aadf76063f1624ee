"""The requests of the chat's page: its files, who is asking, messages that come in, events and files that go out."""

from __future__ import annotations

import binascii
import logging
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, cast
from urllib.parse import quote

import anyio
from pydantic import BaseModel, Field

from definable.agent.interface.base import Accept
from definable.agent.interface.message import IMAGE_TYPES, InterfaceMessage
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.request import RawRequest, Reply
from definable.concurrency.logs import logger_named
from definable.json_text import json_bytes
from definable.model.message import Image

from .chat import Chat, Stream
from .chats import Chats, HeldFiles
from .config import WebConfig
from .page import ASSETS, asset_of, page_of, policy, static
from .visitor import VISITOR_TTL, VisitorNames

logger: logging.Logger = logger_named(__name__)

COOKIE = "definable_chat"

VISITOR_HEADER = "X-Chat-Visitor"
"""Brings a visitor's name from a frame, whose cookies browsers keep back or throw away."""

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment tells proxies and the page that a stream is alive."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks for an answer that another replica may have made."""

MAX_WAITING = 20
"""Messages of one chat that wait for their answers."""

MAX_ANSWER_SECONDS = 3600.0
"""After which nothing more is expected of a message of which nothing is heard."""

INLINE_TYPES = frozenset(
    {*IMAGE_TYPES, "audio/mpeg", "audio/ogg", "audio/wav", "audio/webm", "video/mp4", "video/webm"}
)
"""Files whose type a page is told; all others are downloads without one: a browser would run HTML and SVG."""


class Upload(BaseModel):
    """An image that comes with a message."""

    type: str
    data: str
    """Base64."""


class Incoming(BaseModel):
    """A message as the page posts it."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    """Made up by the page: what comes twice is answered once."""
    text: str = ""
    button: str | None = None
    quiet: bool = False
    """Of a command: the page shows what comes of it alone."""
    images: list[Upload] = []
    locale: Annotated[str, Field(max_length=35)] | None = None
    timezone: Annotated[str, Field(max_length=64)] | None = None


class Endpoints:
    """Answers the page.

    Args:
        config: The chat's.
        names: Of visitors; asked for where there are some.
        chats: What pages show.
        files: Of answers.
        accept: What takes messages in; None while nothing is received.
        load: Has a chat show the conversation of before, unless it does.
        find_answers: Looks for answers that were made elsewhere.
    """

    def __init__(
        self,
        config: WebConfig,
        names: Callable[[], VisitorNames],
        chats: Chats,
        files: HeldFiles,
        accept: Callable[[], Accept | None],
        load: Callable[[Chat], Awaitable[None]],
        find_answers: Callable[[Chat, Sequence[tuple[str, str, float]]], Awaitable[None]],
    ) -> None:
        self._config = config
        self._names = names
        self._chats = chats
        self._files = files
        self._accept = accept
        self._load = load
        self._find_answers = find_answers

    async def page(self, event: TriggerEvent) -> Reply:
        """The chat page."""
        request = request_of(event)
        return static(request, page_of(self._config), "text/html; charset=utf-8", policy(self._config))

    async def asset(self, event: TriggerEvent) -> Reply:
        """A script or a style sheet of the chat page, or the widget for other sites."""
        request = request_of(event)
        name = request.path_params["file"]
        if name not in ASSETS:
            return refusal(404, "there is no such file")
        headers = {"Cross-Origin-Resource-Policy": "cross-origin" if name == "widget.js" else "same-origin"}
        return static(request, asset_of(name), ASSETS[name], headers)

    async def session(self, event: TriggerEvent) -> Reply:
        """Say who is asking; a visitor without a name gets one, in a cookie or for a frame."""
        request = request_of(event)
        if self._user_of(request) is not None:
            return Reply({"status": "known"}, headers=NOT_STORED)
        name = self._names().new(time.time())
        body: object = event.body
        if isinstance(body, dict) and cast("dict[str, object]", body).get("framed") is True:
            return Reply({"status": "new", "visitor": name}, headers=NOT_STORED)
        return Reply({"status": "new"}, headers=[*NOT_STORED, ("Set-Cookie", cookie(name, request, self._config.path))])

    async def message(self, event: TriggerEvent) -> Reply:
        """Take a message in: 202 when it will be answered, 200 when it came in before."""
        request, incoming = request_of(event), event.body
        assert isinstance(incoming, Incoming)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            return refusal(415, "a message is JSON")
        user_id, accept = self._user_of(request), self._accept()
        if user_id is None:
            return refusal(401, "who is asking is not known: ask for a session first")
        if accept is None:
            return refusal(503, "the chat is not being served", retry_after=2)
        try:
            images = self._images(incoming.images)
        except ValueError as error:
            return refusal(422, str(error))
        if len(incoming.text) > self._config.max_input_length:
            return refusal(413, f"the message is longer than {self._config.max_input_length} characters")
        if not (incoming.text.strip() or images):
            return refusal(422, "the message is empty")
        chat = self._chats.of(user_id)
        if chat is None:
            return refusal(503, "too many chats are open", retry_after=30)
        await self._load(chat)
        if chat.waiting_count >= MAX_WAITING:
            return refusal(429, f"{MAX_WAITING} messages wait for their answers", retry_after=5)
        return await self._take(chat, incoming, images, accept)

    async def _take(self, chat: Chat, incoming: Incoming, images: tuple[Image, ...], accept: Accept) -> Reply:
        is_button = incoming.button is not None and chat.has_button(incoming.button)
        message = InterfaceMessage(
            self._config.platform,
            chat.user_id,
            chat.user_id,
            incoming.id,
            text=incoming.text,
            images=images,
            button=incoming.button if is_button else None,
            locale=incoming.locale,
            timezone=incoming.timezone,
        )
        is_command = incoming.text.startswith("/")
        is_shown = not (is_command and incoming.quiet)
        if is_shown and not chat.said(incoming.id, incoming.text, len(images)):
            return Reply({"status": "duplicate"}, headers=NOT_STORED)
        if not is_command:  # which may be answered at once, outside the chat's queue
            chat.works_on(incoming.id, anyio.current_time())  # first: the answer may be there before `accept` returns
        is_accepted = False
        try:
            is_accepted = await accept(message)
        finally:
            if not is_accepted:
                chat.ended(incoming.id)
                chat.withdrawn(incoming.id)
        if is_accepted:
            return Reply({"status": "accepted"}, 202, NOT_STORED)
        return Reply({"status": "duplicate"}, headers=NOT_STORED)

    async def events(self, event: TriggerEvent) -> Reply:
        """Everything that happens in the user's chat, as server-sent events, from `Last-Event-ID` on."""
        request = request_of(event)
        user_id = self._user_of(request)
        if user_id is None:
            return refusal(401, "who is asking is not known: ask for a session first")
        chat = self._chats.of(user_id) if self._accept() is not None else None
        if chat is None:
            return refusal(503, "too many chats are open, or the service is stopping", retry_after=5)
        position = chat.position(request.headers.get("last-event-id", ""))
        headers = [*NOT_STORED, ("Content-Type", "text/event-stream; charset=utf-8"), ("X-Accel-Buffering", "no")]
        return Reply(partial(self._follow, chat, position), headers=headers)  # nginx would hold the events back

    async def file(self, event: TriggerEvent) -> Reply:
        """A file that came with an answer."""
        request = request_of(event)
        user_id = self._user_of(request)
        file = None if user_id is None else self._files.of(request.path_params["id"], user_id)
        if file is None:
            return refusal(404, "there is no such file, or it is held no longer")
        return Reply(
            file.data,
            headers={
                "Content-Type": file.media_type if file.media_type in INLINE_TYPES else "application/octet-stream",
                "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
                "Content-Security-Policy": "default-src 'none'; sandbox",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "private, no-store",
            },
        )

    async def _follow(self, chat: Chat, position: int | None, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Write a chat's events until the page leaves, or a stop has begun and nothing is to come."""
        stream = Stream()
        chat.streams.append(stream)
        try:
            if len(chat.streams) > self._config.max_tabs:
                chat.streams.popleft().is_replaced = True
                chat.wake()
            await self._load(chat)
            await self._write_events(chat, position, stream, send)
        finally:
            with suppress(ValueError):  # it was replaced
                chat.streams.remove(stream)

    async def _write_events(
        self, chat: Chat, position: int | None, stream: Stream, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        sent_at = anyio.current_time()
        while True:
            changed = chat.changed
            data, position = chat.read(position)
            if stream.is_replaced:
                await send(b"event: replaced\ndata: {}\n\n")
                return
            if not data:
                if self._accept() is None and not chat.is_busy:
                    return
                with anyio.move_on_after(CHECK_INTERVAL):
                    await changed.wait()
                    continue
                if late := chat.unheard_of(anyio.current_time()):
                    await self._find_answers(chat, late)
                data = b": keep-alive\n\n" if anyio.current_time() - sent_at >= KEEP_ALIVE else b""
            if data:
                await send(data)
                sent_at = anyio.current_time()

    def _user_of(self, request: RawRequest) -> str | None:
        """Who is asking: whom the auth provider has let in, or a visitor with a name of ours."""
        if request.auth is not None:
            return request.auth.user_id
        name = request.headers.get(VISITOR_HEADER) or cookie_of(request)
        return self._names().visitor_of(name, time.time())

    def _images(self, uploads: Sequence[Upload]) -> tuple[Image, ...]:
        """The images of a message.

        Raises:
            ValueError: There are too many, they are too large, or one is none.
        """
        if len(uploads) > self._config.max_images:
            raise ValueError(f"a message has at most {self._config.max_images} images")
        images: list[Image] = []
        for upload in uploads:
            if upload.type not in IMAGE_TYPES:
                raise ValueError(f"{upload.type[:100]!r} is none of {', '.join(sorted(IMAGE_TYPES))}")
            try:
                images.append(Image(data=b64decode(upload.data, validate=True), media_type=upload.type))
            except binascii.Error:
                raise ValueError("an image is not base64") from None
        if sum(len(image.data or b"") for image in images) > self._config.max_upload_bytes:
            raise ValueError(f"the images have more than {self._config.max_upload_bytes} bytes")
        return tuple(images)


NOT_STORED: Sequence[tuple[str, str]] = (("Cache-Control", "no-store"),)


def request_of(event: TriggerEvent) -> RawRequest:
    """The HTTP request of a webhook's event."""
    assert event.raw is not None
    return event.raw


def refusal(status: int, detail: str, *, retry_after: int | None = None) -> Reply:
    """A problem (RFC 9457) as a reply: nothing has failed on our side.

    Args:
        status: Its status.
        detail: What the page is told.
        retry_after: Seconds.
    """
    headers = [*NOT_STORED, ("Content-Type", "application/problem+json")]
    headers += [] if retry_after is None else [("Retry-After", str(retry_after))]
    return Reply(json_bytes({"status": status, "detail": detail}), status, headers)


def cookie(name: str, request: RawRequest, path: str) -> str:
    """A `Set-Cookie` header that no script reads and no other site's page has sent along (RFC 6265bis)."""
    mounted = re.match(rf"(.*){re.escape(path)}/", request.path)
    prefix = quote(mounted[1]) if mounted else ""
    secure = "; Secure" if request.scheme == "https" else ""
    return f"{COOKIE}={name}; Path={prefix}{path}; Max-Age={int(VISITOR_TTL)}; HttpOnly; SameSite=Strict{secure}"


def cookie_of(request: RawRequest) -> str:
    """The visitor's name in a request's cookies; empty where there is none."""
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
