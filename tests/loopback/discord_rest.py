"""The HTTP API's rules: what it answers to a request, strict; it knows no socket."""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from typing import TYPE_CHECKING, Any

import anyio

from .discord_objects import BOT, BOT_ID, application, message

if TYPE_CHECKING:
    from .discord_server import DiscordServer

PREFIX = "/api/v10"

MESSAGE_FIELDS = {"content", "nonce", "enforce_nonce", "tts", "embeds", "allowed_mentions", "message_reference"} | {
    "components",
    "flags",
    "attachments",
    "sticker_ids",
}


EDIT_FIELDS = {"content", "embeds", "flags", "allowed_mentions", "components", "attachments"}

BUCKETS = {
    "POST": "80c17d2f203122d936070c88c8d10f33",
    "PATCH": "3cd1f278bd0ecaf11e0d2391b12b2f8a",
    "DELETE": "b05c0d8c2ab83895085006a8eae073a3",
}


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def head(self) -> bytes:
        """As it came over the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Answer:
    status: int
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """Sent as it is, in place of the document."""
    content_type: str = "application/json"


@dataclass(frozen=True)
class Posted:
    """A message that the bot posted."""

    channel: str
    content: str
    reply_to: str | None
    body: Mapping[str, Any]
    files: Mapping[str, bytes]


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"message": message, "code": code})


class Limited(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__("limited")
        self.answer = answer


class Rest:
    """Answers requests."""

    def __init__(self, server: DiscordServer) -> None:
        self._server = server
        self._windows: dict[tuple[str, str], tuple[float, int]] = defaultdict(lambda: (float("-inf"), 0))
        self._last_second: deque[float] = deque()
        self._by_nonce: dict[tuple[str, str], dict[str, Any]] = {}
        self._routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", r"/gateway(?:/bot)?", self._gateway),
            ("GET", r"/users/@me", self._me),
            ("GET", r"/(?:oauth2/)?applications/@me", self._application),
            ("POST", r"/channels/(\d+)/messages", self._post),
            ("PATCH", r"/channels/(\d+)/messages/(\d+)", self._edit),
            ("DELETE", r"/channels/(\d+)/messages/(\d+)", self._delete),
            ("POST", r"/channels/(\d+)/typing", self._typing),
            ("GET", r"/channels/(\d+)", self._channel),
            ("GET", r"/guilds/(\d+)/roles", self._roles),
            ("PUT", rf"/applications/{BOT_ID}(?:/guilds/(\d+))?/commands", self._register),
            ("POST", r"/interactions/(\d+)/([^/]+)/callback", self._respond),
            ("POST", rf"/webhooks/{BOT_ID}/([^/]+)", self._follow_up),
            ("PATCH", rf"/webhooks/{BOT_ID}/([^/]+)/messages/(@original|\d+)", self._follow_up),
        ]

    async def answer(self, call: Call) -> Answer:
        if call.path.startswith("/attachments/"):
            return self._file(call)
        try:
            self._check_caller(call)
            path = call.path.removeprefix(PREFIX)
            for method, pattern, handler in self._routes:
                if (found := re.fullmatch(pattern, path)) and method == call.method:
                    return self._limited(path) or await handler(call, *found.groups())
            raise Refusal(404, "404: Not Found")
        except Limited as refusal:
            return refusal.answer
        except Refusal as refusal:
            if refusal.answer.status == 400:
                self._server.violations.append(f"{call.method} {call.path}: {refusal}")
            return refusal.answer

    def _file(self, call: Call) -> Answer:
        """What the CDN answers: everybody who knows the address may fetch the file, while its message is there."""
        if "authorization" in call.headers:
            self._server.violations.append("the token was sent to the CDN")
        content = self._server.files.get(call.path)
        if content is None:
            return Answer(404, content=b"This content is no longer available.", content_type="text/plain")
        return Answer(200, content=content, content_type="application/octet-stream")

    def _check_caller(self, call: Call) -> None:
        if not call.path.startswith(PREFIX):
            raise Refusal(404, "404: Not Found")
        if not call.headers.get("user-agent", "").startswith("DiscordBot ("):
            raise Refusal(403, "a user agent of another form")
        if call.headers.get("authorization") != f"Bot {self._server.token}":
            raise Refusal(401, "401: Unauthorized")

    def _limited(self, path: str) -> Answer | None:
        now = anyio.current_time()
        self._last_second.append(now)
        while self._last_second[0] <= now - 1:
            self._last_second.popleft()
        self._server.busiest_second = max(self._server.busiest_second, len(self._last_second))
        if len(self._last_second) > self._server.per_second:
            return limited(1.0, is_global=True)
        return None

    async def _gateway(self, call: Call) -> Answer:
        left = self._server.session_starts_left
        limit = {"total": 1000, "remaining": max(0, left), "reset_after": self._server.start_limit_resets * 1000}
        return Answer(
            200,
            {"url": self._server.gateway_url, "shards": 1, "session_start_limit": limit | {"max_concurrency": 1}},
        )

    async def _me(self, call: Call) -> Answer:
        return Answer(200, BOT)

    async def _application(self, call: Call) -> Answer:
        return Answer(200, application())

    async def _typing(self, call: Call, channel: str) -> Answer:
        self._check_channel(channel)
        self._server.typings.append((channel, anyio.current_time()))
        return Answer(204)

    async def _channel(self, call: Call, channel: str) -> Answer:
        self._check_channel(channel)
        self._server.asked.append(channel)
        parent = self._server.threads.get(channel)
        kind = {"type": 0} if parent is None else {"type": 11, "parent_id": parent}
        return Answer(200, {"id": channel, "name": f"channel-{channel}", **kind})

    async def _roles(self, call: Call, guild: str) -> Answer:
        return Answer(200, [{"id": guild, "name": "@everyone"}, *self._server.roles])

    async def _register(self, call: Call, guild: str | None) -> Answer:
        taken = self._server.interactions.register(guild, json.loads(call.body))
        if taken is None:
            raise Refusal(400, "Invalid Form Body", 50035)
        return Answer(200, taken)

    async def _respond(self, call: Call, id: str, token: str) -> Answer:
        return Answer(*self._server.interactions.respond(id, token, json.loads(call.body)))

    async def _follow_up(self, call: Call, token: str, edited: str | None = None) -> Answer:
        body, files = _parse(call)
        check_content(body.get("content"), files or body.get("embeds") or body.get("components"))
        check_components(body.get("components") or [])
        return Answer(*self._server.interactions.follow_up(token, body, edited))

    async def _post(self, call: Call, channel: str) -> Answer:
        self._check_channel(channel)
        headers = self._take_place("POST", channel)
        body, files = _parse(call)
        self._check_message(channel, body, files)
        key = channel, str(body.get("nonce"))
        if body.get("enforce_nonce") and key in self._by_nonce:
            self._server.repeated += 1
            return Answer(200, self._by_nonce[key], headers)
        posted = message(channel, BOT, body.get("content") or "", nonce=body.get("nonce"))
        self._by_nonce[key] = posted
        reply_to = (body.get("message_reference") or {}).get("message_id")
        self._server.messages[posted["id"]] = posted
        self._server.posted.append(Posted(channel, body.get("content") or "", reply_to and str(reply_to), body, files))
        await self._server.dispatch("MESSAGE_CREATE", posted)  # a bot is told of its own messages too
        return Answer(200, posted, headers)

    async def _edit(self, call: Call, channel: str, id: str) -> Answer:
        self._check_channel(channel)
        headers = self._take_place("PATCH", channel)
        body, _ = _parse(call)
        edited = self._own(channel, id, Refusal(403, "Cannot edit a message authored by another user", 50005))
        if unknown := body.keys() - EDIT_FIELDS:
            raise Refusal(400, f"unknown fields {unknown}", 50035)
        if "content" in body and body.get("allowed_mentions") != {"parse": []}:
            self._server.violations.append("an edit that may ping")
        check_components(body.get("components") or [])
        edited |= {name: value for name, value in body.items() if name in ("content", "components")}
        check_content(edited.get("content"), edited["attachments"] or edited["embeds"])
        edited |= {"edited_timestamp": "2026-01-01T00:00:00+00:00"}
        self._server.edits.append((channel, id, edited["content"], anyio.current_time()))
        await self._server.dispatch("MESSAGE_UPDATE", dict(edited))
        return Answer(200, edited, headers)

    async def _delete(self, call: Call, channel: str, id: str) -> Answer:
        self._check_channel(channel)
        headers = self._take_place("DELETE", channel)
        self._own(channel, id, Refusal(403, "Missing Permissions", 50013))
        del self._server.messages[id]
        return Answer(204, None, headers)

    def _own(self, channel: str, id: str, refusal: Refusal) -> dict[str, Any]:
        found = self._server.messages.get(id)
        if found is not None and found["channel_id"] == channel:
            return found
        raise refusal if any(each["id"] == id for each in self._server.said) else Refusal(404, "Unknown Message", 10008)

    def _check_channel(self, channel: str) -> None:
        if channel in self._server.forbidden_channels:
            raise Refusal(403, "Missing Access", 50001)
        if channel not in self._server.channels:
            raise Refusal(404, "Unknown Channel", 10003)

    def _take_place(self, method: str, channel: str) -> dict[str, str]:
        """The headers of an answer; every method and channel has a bucket of its own."""
        now, (began, used) = anyio.current_time(), self._windows[method, channel]
        if now >= began + self._server.window:
            began, used = now, 0
        self._windows[method, channel] = began, used + 1
        if used >= self._server.per_window:
            self._server.violations.append(f"the limit of {method} in channel {channel} was ignored")
            raise Limited(limited(began + self._server.window - now, is_global=False))
        return {
            "X-RateLimit-Limit": str(self._server.per_window),
            "X-RateLimit-Remaining": str(self._server.per_window - used - 1),
            "X-RateLimit-Reset-After": f"{max(0.0, began + self._server.window - now):.3f}",
            "X-RateLimit-Bucket": BUCKETS[method],
        }

    def _check_message(self, channel: str, body: dict[str, Any], files: Mapping[str, bytes]) -> None:
        content, nonce = body.get("content"), body.get("nonce")
        if unknown := body.keys() - MESSAGE_FIELDS:
            raise Refusal(400, f"unknown fields {unknown}", 50035)
        check_content(content, files or body.get("embeds") or body.get("components"))
        check_components(body.get("components") or [])
        if any(len(each) > self._server.largest_upload for each in files.values()):
            raise Refusal(413, "Request entity too large", 40005)
        if nonce is not None and not (isinstance(nonce, int | str) and len(str(nonce)) <= 25):
            raise Refusal(400, "nonce: Must be 25 or fewer in length.", 50035)
        reference = body.get("message_reference")
        if reference and channel in self._server.unread_channels:
            raise Refusal(403, "Cannot reply without permission to read message history", 160002)
        if reference and reference.get("fail_if_not_exists", True):
            known = {each["id"] for each in self._server.said if each["channel_id"] == channel}
            if str(reference.get("message_id")) not in known:  # ids are taken as integers too
                raise Refusal(400, "message_reference: Unknown message", 50035)


def check_content(content: str | None, others: object) -> None:
    """Refuse a message that is empty or too long."""
    if not ((content and content.strip()) or others):
        raise Refusal(400, "Cannot send an empty message", 50006)
    if content is not None and len(content.encode("utf-16-le")) // 2 > 2000:
        raise Refusal(400, "content: Must be 2000 or fewer in length.", 50035)


def check_components(rows: list[Any]) -> None:
    """Refuse buttons that Discord does not take ("Component Reference": Action Row, Button)."""
    buttons = [each for row in rows for each in row["components"]]
    ids = [each["custom_id"] for each in buttons if "custom_id" in each]
    if len(rows) > 5 or any(row["type"] != 1 or not 0 < len(row["components"]) <= 5 for row in rows):
        raise Refusal(400, "components: at most 5 rows of at most 5", 50035)
    if len({*ids}) < len(ids) or any(not 0 < len(each) <= 100 for each in ids):
        raise Refusal(400, "components: Component custom id cannot be duplicated", 50035)
    for each in buttons:
        is_link = each["style"] == 5
        if each["type"] != 2 or not 0 < len(each["label"]) <= 80 or is_link != ("url" in each):
            raise Refusal(400, "components: Invalid Form Body", 50035)
        if is_link and not re.fullmatch(r"(https?|discord)://\S{1,500}", each["url"]):
            raise Refusal(400, "components: Scheme must be one of ('http', 'https', 'discord').", 50035)


def limited(retry_after: float, *, is_global: bool) -> Answer:
    """A 429."""
    headers = {"Retry-After": str(round(retry_after + 0.5)), "X-RateLimit-Scope": "global" if is_global else "user"}
    headers["Via"] = "1.1 google"  # discord.py takes a 429 without it for a ban by the proxies before Discord
    if is_global:
        headers["X-RateLimit-Global"] = "true"
    document = {"message": "You are being rate limited.", "retry_after": retry_after, "global": is_global}
    return Answer(429, document, headers)


def _parse(call: Call) -> tuple[dict[str, Any], dict[str, bytes]]:
    kind, files = call.headers.get("content-type", ""), dict[str, bytes]()
    if kind == "application/json":
        return json.loads(call.body), files
    if not kind.startswith("multipart/form-data"):
        raise Refusal(400, f"content type {kind!r}")
    body: dict[str, Any] = {}
    for part in message_from_bytes(f"content-type: {kind}\r\n\r\n".encode() + call.body).get_payload():
        content = part.get_payload(decode=True)
        if part.get_param("name", header="content-disposition") == "payload_json":
            body = json.loads(content)
        else:
            files[part.get_filename() or ""] = content
    return body, files
