"""Slack's Web API: what each method wants, and what it answers; strict, and without a socket.

Sources: https://docs.slack.dev/reference/methods, https://docs.slack.dev/apis/web-api/rate-limits
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import anyio

from .slack_blocks import MAX_SIZE, InvalidBlocks, check_blocks, size_of
from .slack_http import Answer, Call

if TYPE_CHECKING:
    from .slack import SlackServer


class Refusal(Exception):
    """An answer that is not `ok`."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.document = {"ok": False, "error": error, **more}


TIERS = {1: (1, 60.0), 2: (20, 60.0), 3: (50, 60.0), 4: (100, 60.0)}
"""Calls in so many seconds, of each method."""

POSTS = (10, 5.0)
"""Of one channel: one a second, in short bursts more."""


@dataclass(frozen=True)
class Method:
    """What a method wants."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    tier: int = 4
    scope: str = ""
    takes_json: bool = False
    """Reading methods want a form or a query."""
    token: str = "bot"


def method(required: str = "", optional: str = "", **more: Any) -> Method:
    return Method(frozenset(required.split()), frozenset(optional.split()), **more)


MESSAGE = "text blocks attachments markdown_text parse link_names metadata"

METHODS = {
    "auth.test": method(takes_json=True),
    "apps.connections.open": method(tier=1, scope="connections:write", takes_json=True, token="app"),
    "chat.postMessage": method(
        "channel",
        f"{MESSAGE} thread_ts reply_broadcast unfurl_links unfurl_media mrkdwn",
        tier=0,
        scope="chat:write",
        takes_json=True,
    ),
    "chat.postEphemeral": method("channel user", f"{MESSAGE} thread_ts", scope="chat:write", takes_json=True),
    "chat.update": method("channel ts", MESSAGE, tier=3, scope="chat:write", takes_json=True),
    "chat.delete": method("channel ts", tier=3, scope="chat:write", takes_json=True),
    "conversations.info": method("channel", "include_locale include_num_members", tier=3, scope="channels:read"),
    "conversations.replies": method(
        "channel ts", "cursor inclusive latest limit oldest include_all_metadata", tier=3, scope="channels:history"
    ),
    "users.info": method("user", "include_locale", scope="users:read"),
    "files.info": method("file", "count cursor limit page", scope="files:read"),
    "files.getUploadURLExternal": method("filename length", "alt_txt snippet_type", scope="files:write"),
    "files.completeUploadExternal": method(
        "files", "channel_id channels thread_ts initial_comment blocks", scope="files:write", takes_json=True
    ),
    "reactions.add": method("channel name timestamp", tier=3, scope="reactions:write", takes_json=True),
    "assistant.threads.setStatus": method(
        "channel_id thread_ts status", "loading_messages", scope="chat:write", takes_json=True
    ),
}


class WebAPI:
    """Answers calls of methods."""

    def __init__(self, server: SlackServer) -> None:
        self._server = server
        self._times: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._uploads: dict[str, dict[str, Any]] = {}
        self._next_file = 0

    async def answer(self, call: Call) -> Answer:
        name = call.path.removeprefix("/api/")
        try:
            known = METHODS.get(name)
            if known is None:
                raise Refusal("unknown_method", req_method=name)
            self._check_token(known, call)
            parameters = self._parameters(known, name, call)
            if (limited := self._limited(name, known, parameters)) is not None:
                return limited
            self._server.calls.append((name, parameters))
            handle: Callable[..., Any] = getattr(self, "_" + name.replace(".", "_"))
            return Answer(document={"ok": True, **await handle(**parameters)})
        except Refusal as refusal:
            self._server.refusals.append(f"{name}: {refusal.document}")
            return Answer(document=refusal.document)

    def _check_token(self, known: Method, call: Call) -> None:
        server = self._server
        given = call.headers.get("authorization", "").removeprefix("Bearer ")
        if not given:
            raise Refusal("not_authed")
        if server.token_error:
            raise Refusal(server.token_error)
        if given not in (server.bot_token, server.app_token):
            raise Refusal("invalid_auth")
        if given != (server.app_token if known.token == "app" else server.bot_token):
            raise Refusal("not_allowed_token_type")
        if known.scope in server.missing_scopes:
            provided = "chat:write,users:read"
            raise Refusal("missing_scope", needed=known.scope, provided=provided)

    def _parameters(self, known: Method, name: str, call: Call) -> dict[str, Any]:
        kind = call.headers.get("content-type", "").partition(";")[0]
        given: dict[str, Any] = dict(parse_qsl(call.query, keep_blank_values=True))
        if kind == "application/json" and call.body:
            if not known.takes_json:
                raise Refusal("invalid_arguments", response_metadata={"messages": ["[ERROR] a form, not JSON"]})
            try:
                given |= json.loads(call.body)
            except ValueError:
                raise Refusal("invalid_json") from None
        elif kind == "application/x-www-form-urlencoded":
            given |= parse_qsl(call.body.decode(), keep_blank_values=True)
        elif call.body:
            raise Refusal("invalid_post_type")
        given.pop("token", None)
        if missing := known.required - given.keys():
            raise Refusal("invalid_arguments", response_metadata={"messages": [f"missing {sorted(missing)}"]})
        if unknown := given.keys() - known.required - known.optional:
            self._server.violations.append(f"{name}: unknown arguments {sorted(unknown)}")
        for each in ("blocks", "files", "loading_messages"):
            if isinstance(given.get(each), str):
                given[each] = json.loads(given[each])
        return {key: value for key, value in given.items() if key not in unknown}

    def _limited(self, name: str, known: Method, parameters: Mapping[str, Any]) -> Answer | None:
        server = self._server
        if known.tier == 1 and name == "apps.connections.open":
            count, seconds = server.connection_limit
        else:
            count, seconds = server.tiers[known.tier] if known.tier else server.posts
        now, times = anyio.current_time(), self._times[name, "" if known.tier else str(parameters["channel"])]
        while times and times[0] <= now - seconds:
            times.popleft()
        if len(times) < count:
            times.append(now)
            return None
        server.violations.append(f"{name}: more than {count} calls in {seconds:g} s")
        return limited(times[0] + seconds - now)

    # --- methods

    async def _auth_test(self) -> dict[str, Any]:
        server = self._server
        return {"url": "https://loopback.slack.com/", "team": "Loopback", "user": "agent", "team_id": "T1"} | {
            "user_id": server.bot_user,
            "bot_id": server.bot_id,
            "is_enterprise_install": False,
        }

    async def _apps_connections_open(self) -> dict[str, Any]:
        return {"url": self._server.new_socket_url()}

    async def _chat_postMessage(self, channel: str, **parameters: Any) -> dict[str, Any]:
        posted = self._message(channel, parameters)
        if parameters.get("thread_ts") in self._server.vanished:
            raise Refusal("cannot_reply_to_message")
        ts = await self._server.add_own(channel, posted)
        return {"channel": channel, "ts": ts, "message": posted}

    async def _chat_postEphemeral(self, channel: str, user: str, **parameters: Any) -> dict[str, Any]:
        self._server.ephemerals.append((channel, user, self._message(channel, parameters)))
        return {"message_ts": self._server.new_ts()}

    async def _chat_update(self, channel: str, ts: str, **parameters: Any) -> dict[str, Any]:
        message = self._own(channel, ts, "cant_update_message")
        if len(str(parameters.get("text") or "")) > 4000:
            raise Refusal("msg_too_long")
        changed = self._message(channel, parameters, is_update=True)
        text = str(parameters.get("text") or "")
        if parameters.get("parse", "client") != "none" and ("@" in text or "#" in text):
            self._server.violations.append("chat.update: parse=client links names")
        await self._server.change_own(channel, ts, {key: changed[key] for key in ("text", "blocks") if key in changed})
        return {"channel": channel, "ts": ts, "text": message["text"], "message": message}

    async def _chat_delete(self, channel: str, ts: str) -> dict[str, Any]:
        self._own(channel, ts, "cant_delete_message")
        del self._server.messages[channel][ts]
        return {"channel": channel, "ts": ts}

    async def _conversations_info(self, channel: str, **_: Any) -> dict[str, Any]:
        kind = self._channel(channel)
        flags = {"is_im": kind == "im", "is_mpim": kind == "mpim", "is_private": kind in ("im", "group")}
        return {"channel": {"id": channel, "name": f"name-of-{channel}", "is_archived": False, **flags}}

    async def _conversations_replies(self, channel: str, ts: str, limit: Any = 100, **_: Any) -> dict[str, Any]:
        self._channel(channel)
        said = self._server.messages[channel]
        if ts not in said:
            raise Refusal("thread_not_found")
        thread = [each for each in said.values() if ts in (each["ts"], each.get("thread_ts"))]
        return {"messages": thread[: int(limit)], "has_more": len(thread) > int(limit)}

    async def _users_info(self, user: str, **_: Any) -> dict[str, Any]:
        name = self._server.users.get(user)
        if name is None:
            raise Refusal("user_not_found")
        profile = {"display_name": name, "real_name": f"{name} Real"}
        made = {"id": user, "name": name.lower(), "real_name": f"{name} Real", "is_bot": False, "tz": "Europe/Oslo"}
        return {"user": {**made, "locale": "nb-NO", "deleted": False, "profile": profile}}

    async def _files_info(self, file: str, **_: Any) -> dict[str, Any]:
        if file not in self._server.files:
            raise Refusal("file_not_found")
        return {"file": self._server.files[file]["object"]}

    async def _files_getUploadURLExternal(self, filename: str, length: Any, **_: Any) -> dict[str, Any]:
        if not str(length).isdecimal() or int(length) == 0:
            raise Refusal("invalid_arguments", response_metadata={"messages": ["length must be greater than 0"]})
        self._next_file += 1
        id = f"F{self._next_file:04d}UP"
        self._uploads[id] = {"filename": filename, "length": int(length), "data": None}
        return {"upload_url": f"{self._server.url.removesuffix('/api/')}/upload/v1/{id}", "file_id": id}

    def upload(self, call: Call) -> Answer:
        """`POST` of a file's content to its upload URL, raw or as a form."""
        if "authorization" in call.headers:
            self._server.violations.append("the token was sent with an upload")
        upload = self._uploads.get(call.path.rpartition("/")[2])
        data, kind = call.body, call.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            part: Any = message_from_bytes(f"content-type: {kind}\r\n\r\n".encode() + data).get_payload(0)
            data = part.get_payload(decode=True)
        if upload is None or len(data) != upload["length"]:
            return Answer(400, content=b"the length is another one", content_type="text/plain")
        upload["data"] = data
        return Answer(content=f"OK - {len(data)}".encode(), content_type="text/plain")

    async def _files_completeUploadExternal(
        self, files: list[dict[str, Any]], channel_id: str = "", thread_ts: str | None = None, **_: Any
    ) -> dict[str, Any]:
        if channel_id:
            self._member(channel_id)
        done: list[dict[str, Any]] = []
        for file in files:
            upload = self._uploads.pop(file["id"], None)
            if upload is None or upload["data"] is None:
                raise Refusal("file_not_found")
            done.append({"id": file["id"], "name": upload["filename"], "title": file.get("title")})
            self._server.uploaded.append((channel_id, thread_ts, upload["filename"], upload["data"]))
        if channel_id:
            shared = {"subtype": "file_share", "text": "", "files": done, "thread_ts": thread_ts}
            await self._server.add_own(channel_id, shared)
        return {"files": done}

    async def _reactions_add(self, channel: str, name: str, timestamp: str) -> dict[str, Any]:
        self._member(channel)
        self._server.reactions.append((channel, timestamp, name))
        return {}

    async def _assistant_threads_setStatus(
        self, channel_id: str, thread_ts: str, status: str, **_: Any
    ) -> dict[str, Any]:
        self._member(channel_id)
        self._server.statuses.append((channel_id, thread_ts, status))
        return {}

    # --- rules

    def _channel(self, channel: str) -> str:
        kind = self._server.channels.get(channel)
        if kind is None:
            raise Refusal("channel_not_found")
        return kind

    def _member(self, channel: str) -> None:
        self._channel(channel)
        if channel in self._server.archived:
            raise Refusal("is_archived")
        if channel in self._server.not_joined:
            raise Refusal("not_in_channel")

    def _message(self, channel: str, parameters: Mapping[str, Any], *, is_update: bool = False) -> dict[str, Any]:
        self._member(channel)
        return checked_message(parameters, keeps_blocks=is_update)

    def _own(self, channel: str, ts: str, refusal: str) -> dict[str, Any]:
        self._channel(channel)
        message = self._server.messages[channel].get(ts)
        if message is None:
            raise Refusal("message_not_found")
        if message.get("bot_id") != self._server.bot_id:
            raise Refusal(refusal)
        return message


def checked_message(parameters: Mapping[str, Any], *, keeps_blocks: bool = False) -> dict[str, Any]:
    """The message that a method's parameters, or a body for a response URL, make."""
    text, blocks = parameters.get("text") or parameters.get("markdown_text"), parameters.get("blocks")
    if blocks:
        try:
            check_blocks(blocks)
        except InvalidBlocks as error:
            raise Refusal("invalid_blocks", response_metadata={"messages": [f"[ERROR] {error}"]}) from None
        if size_of(blocks) > MAX_SIZE:
            raise Refusal("msg_blocks_too_long")
    elif not (text and text.strip()):
        raise Refusal("no_text")
    made: dict[str, Any] = {"text": (text or "")[:40_000]}
    if blocks or not keeps_blocks:
        made["blocks"] = blocks or []
    if parameters.get("thread_ts"):
        made["thread_ts"] = parameters["thread_ts"]
    return made


def limited(seconds: float) -> Answer:
    """A 429."""
    headers = {"Retry-After": str(max(1, round(seconds + 0.5)))}
    return Answer(429, {"ok": False, "error": "ratelimited"}, headers)
