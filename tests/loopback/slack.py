"""A strict loopback Slack: Web API, Socket Mode and Events API on one port, on asyncio and on trio.

It can fail as Slack does. It knows nothing of definable's classes; slack_sdk's own clients get along with it.

```
async with SlackServer().running() as server:
    await server.say("D1", "hello")
    await server.until(lambda: server.shown("D1"))
```
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup, TaskStatus

from .slack_api import POSTS, TIERS, Refusal, WebAPI, checked_message
from .slack_blocks import shown
from .slack_delivery import Deliveries, signed
from .slack_http import Answer, Call, next_call, send_answer
from .slack_socket import SocketConnection

BOT_TOKEN = "xoxb-100000000001-200000000002-loopbackSlackSecret00000"
APP_TOKEN = "xapp-1-A0000000001-300000000003-loopback" + "0" * 24
SIGNING_SECRET = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Fault:
    """What happens to a request in place of its answer."""

    kind: Literal["answer", "slow", "vanish", "vanish after"]
    """An answer is sent; the answer is late; the connection closes before or after the request was carried out."""
    path: str
    """Requests whose path ends so."""
    answer: Answer | None = None
    seconds: float = 0.0


class SlackServer:
    """The server; see the module."""

    def __init__(self) -> None:
        self.bot_token, self.app_token, self.signing_secret = BOT_TOKEN, APP_TOKEN, SIGNING_SECRET
        self.bot_user, self.bot_id, self.app_id = "UBOT00001", "BBOT00001", "A0000000001"
        self.url = ""
        """Of the Web API."""
        self.channels = {"D1": "im", "D2": "im", "C1": "channel", "C2": "channel", "G1": "mpim"}
        self.users = {"U1": "Ann", "U2": "Bob", "UBOT00001": "Agent"}
        self.archived: set[str] = set()
        self.not_joined: set[str] = set()
        self.vanished: set[str] = set()
        """Threads that cannot be replied to any more."""
        self.token_error = ""
        """What every call is refused with, say `token_revoked`."""
        self.missing_scopes: set[str] = set()
        self.tiers, self.posts, self.connection_limit = dict(TIERS), POSTS, (30, 60.0)
        self.rejects_sockets = False
        self.is_silent = False
        """Whether there is no hello."""
        self.refuses_sockets = ""
        """The reason with which every new socket is disconnected, say `link_disabled`."""
        self.within = 3.0
        """Seconds in which an envelope, or an event over HTTP, must be acknowledged."""
        self.retry_delays: tuple[float, ...] = (0.0, 60.0, 300.0)
        self.events_url: str | None = None
        """Where events go over HTTP; None: over sockets."""
        self.faults: deque[Fault] = deque()
        self.tickets: set[str] = set()
        self.connections: list[SocketConnection] = []
        self.greeted = 0
        """How many sockets were."""
        self.client_closes: list[int] = []
        self.late: set[str] = set()
        """Envelopes that were not acknowledged in time."""
        self.lost: list[Any] = []
        """Payloads that were given up."""
        self.responses: list[tuple[int, str]] = []
        """What was answered to each request of the Events API: status and body."""
        self.messages: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        """By channel and `ts`."""
        self.ephemerals: list[tuple[str, str, dict[str, Any]]] = []
        self.replies: list[dict[str, Any]] = []
        """What was sent to response URLs."""
        self.files: dict[str, dict[str, Any]] = {}
        self.uploaded: list[tuple[str, str | None, str, bytes]] = []
        self.reactions: list[tuple[str, str, str]] = []
        self.statuses: list[tuple[str, str, str]] = []
        self.updates: list[tuple[str, str, str]] = []
        """Channel, `ts` and text of each change of a message."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refusals: list[str] = []
        self.violations: list[str] = []
        """What a well-behaved client never does."""
        self.tells_own = True
        """Whether the bot is told of its own messages, as it is in channels whose messages it gets."""
        self._api = WebAPI(self)
        self._deliveries = Deliveries(self)
        self._numbers = itertools.count(1)
        self._began = time.time()
        self._response_uses: dict[str, int] = {}
        self._changed = anyio.Event()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SlackServer]:
        async with anyio.create_task_group() as self._tasks:
            await self._tasks.start(self._serve)
            yield self
            self._tasks.cancel_scope.cancel()

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/api/"
            task_status.started()
            await listener.serve(self._meet)

    def note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds; bounded by the caller."""
        while not condition():
            with anyio.move_on_after(0.01):
                await self._changed.wait()

    # --- what happens on the platform

    async def say(self, channel: str, text: str | None, user: str = "U1", **fields: Any) -> str:
        """Somebody writes a message; returns its `ts`. A mention in a channel is two events, as it is on Slack."""
        ts = fields.pop("ts", None) or self.new_ts()
        message = {"type": "message", "user": user, "text": text, "ts": ts, "team": "T1", **fields}
        self.messages[channel][ts] = message
        await self.dispatch(message | {"channel": channel, "channel_type": self._type_of(channel)})
        if f"<@{self.bot_user}>" in (text or "") and self.channels[channel] not in ("im", "mpim"):
            await self.dispatch(message | {"type": "app_mention", "channel": channel})
        return ts

    async def edit(self, channel: str, ts: str, text: str) -> None:
        """Somebody corrects a message."""
        before = self.messages[channel][ts]
        after = before | {"text": text, "edited": {"user": before["user"], "ts": self.new_ts()}}
        self.messages[channel][ts] = after
        await self._told_of_change(channel, before, after)

    async def press(self, channel: str, ts: str, number: int = 0, user: str = "U1") -> None:
        """Somebody presses a button of a message."""
        message = self.messages[channel][ts]
        buttons = [each for block in message["blocks"] if block["type"] == "actions" for each in block["elements"]]
        action = {"action_ts": self.new_ts(), "block_id": "b1", **buttons[number]}
        await self.push(
            "interactive",
            {
                "type": "block_actions",
                "user": {"id": user, "username": self.users[user].lower(), "name": self.users[user].lower()},
                "api_app_id": self.app_id,
                "token": "deprecated",
                "container": {"type": "message", "message_ts": ts, "channel_id": channel},
                "channel": {"id": channel, "name": f"name-of-{channel}"},
                "message": message,
                "trigger_id": f"{next(self._numbers)}.1.a",
                "response_url": self._response_url("actions"),
                "actions": [action],
            },
        )

    async def command(self, name: str, text: str = "", channel: str = "C1", user: str = "U1") -> None:
        """Somebody uses a slash command."""
        payload = {"token": "deprecated", "team_id": "T1", "team_domain": "loopback", "channel_id": channel}
        payload |= {"channel_name": "directmessage" if self._type_of(channel) == "im" else "general", "user_id": user}
        payload |= {"user_name": self.users[user].lower(), "command": f"/{name}", "text": text}
        payload |= {"api_app_id": self.app_id, "is_enterprise_install": "false"}
        payload |= {"response_url": self._response_url("commands"), "trigger_id": f"{next(self._numbers)}.1.c"}
        await self.push("slash_commands", payload)

    def attach(self, name: str, content: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        """Upload a file; returns the object that stands in the message which shares it."""
        id = f"F{next(self._numbers):05d}"
        url = f"{self.url.removesuffix('/api/')}/files-pri/T1-{id}/{name}"
        made = {"id": id, "name": name, "mimetype": media_type, "size": len(content), "url_private": url}
        made |= {"url_private_download": url, "mode": "hosted", "file_access": "visible", **fields}
        self.files[id] = {"object": made, "content": content}
        return made

    async def dispatch(self, event: dict[str, Any]) -> None:
        """An event, as the Events API wraps it."""
        number = next(self._numbers)
        await self.push(
            "events_api",
            {
                "token": "deprecated",
                "team_id": "T1",
                "api_app_id": self.app_id,
                "event": event | {"event_ts": event.get("ts") or self.new_ts()},
                "type": "event_callback",
                "event_id": f"Ev{number:08d}",
                "event_time": int(time.time()),
                "authorizations": [{"team_id": "T1", "user_id": self.bot_user, "is_bot": True}],
            },
        )

    async def push(self, kind: str, payload: dict[str, Any]) -> None:
        """Deliver a payload, again where it is not acknowledged."""
        assert self._tasks is not None
        self._tasks.start_soon(self._deliveries.deliver, kind, payload)

    # --- the bot's own

    async def add_own(self, channel: str, posted: dict[str, Any]) -> str:
        ts = self.new_ts()
        own = {"user": self.bot_user, "bot_id": self.bot_id, "app_id": self.app_id, "type": "message", "ts": ts}
        posted |= own
        self.messages[channel][ts] = posted
        if self.tells_own:
            await self.dispatch(posted | {"channel": channel, "channel_type": self._type_of(channel)})
        self.note_change()
        return ts

    async def change_own(self, channel: str, ts: str, changes: dict[str, Any]) -> None:
        before = dict(self.messages[channel][ts])
        self.messages[channel][ts] |= changes | {"edited": {"user": self.bot_id, "ts": self.new_ts()}}
        self.updates.append((channel, ts, shown(self.messages[channel][ts])))
        if self.tells_own:
            await self._told_of_change(channel, before, self.messages[channel][ts])
        self.note_change()

    def own(self, channel: str, thread: str | None = None) -> list[dict[str, Any]]:
        """The bot's messages in a channel as they are now, those of one thread where it is given."""
        posted = [each for each in self.messages[channel].values() if each.get("bot_id") == self.bot_id]
        return [each for each in posted if thread is None or each.get("thread_ts") == thread]

    def shown(self, channel: str, thread: str | None = None) -> list[str]:
        """What the bot's messages say now."""
        return [shown(each) for each in self.own(channel, thread) if not each.get("files")]

    def new_ts(self) -> str:
        return f"{self._began + next(self._numbers) / 1000:.6f}"

    def new_socket_url(self) -> str:
        ticket = f"ticket-{next(self._numbers)}"
        self.tickets.add(ticket)
        return f"{self.url.replace('http', 'ws', 1).removesuffix('/api/')}/link/?ticket={ticket}&app_id={self.app_id}"

    @property
    def on_line(self) -> bool:
        """Whether a bot is connected and hears."""
        return any(each.is_ready and not each.is_zombie for each in self.connections)

    async def every_connection(self, do: Callable[[SocketConnection], Any]) -> None:
        """Do something to all sockets that are open now."""
        for connection in list(self.connections):
            await do(connection)

    async def until_back(self, do: Callable[[SocketConnection], Any]) -> None:
        """Do what has the bot connect anew, and wait until it has."""
        before = self.greeted
        await self.every_connection(do)
        await self.until(lambda: self.greeted > before and self.on_line)

    def fail_next(self, path: str, *errors: str | int) -> None:
        """The next calls of a method fail with these codes, or statuses."""
        for error in errors:
            refused = Answer(error, content=b"<html>", content_type="text/html") if isinstance(error, int) else None
            self.faults.append(Fault("answer", path, refused or Answer(document={"ok": False, "error": error})))

    def limit_next(self, path: str, retry_after: int) -> None:
        """The next call of a method is answered with a 429."""
        document = {"ok": False, "error": "ratelimited"}
        self.faults.append(Fault("answer", path, Answer(429, document, {"Retry-After": str(retry_after)})))

    def signed(self, body: bytes, at: float | None = None) -> dict[str, str]:
        """The headers of a request of the Events API."""
        return signed(body, self.signing_secret, at)

    async def _told_of_change(self, channel: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        changed = {"type": "message", "subtype": "message_changed", "hidden": True, "channel": channel}
        changed |= {"channel_type": self._type_of(channel), "ts": self.new_ts()}
        await self.dispatch(changed | {"message": dict(after), "previous_message": before})

    def _type_of(self, channel: str) -> str:
        return self.channels[channel]

    def _response_url(self, kind: str) -> str:
        path = f"/{kind}/T1/{next(self._numbers)}/secret"
        self._response_uses[path] = 0
        return self.url.removesuffix("/api/") + path

    # --- the port

    async def _meet(self, stream: SocketStream) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.RemoteProtocolError):
            pass

    async def _converse(self, stream: ByteStream) -> None:
        http = h11.Connection(h11.SERVER)
        while (call := await next_call(stream, http)) is not None:
            if call.headers.get("upgrade", "").lower() == "websocket":
                return await SocketConnection(self, stream).run(call.head)
            is_due = self.faults and call.path.endswith(self.faults[0].path)
            fault = self.faults.popleft() if is_due else None
            if fault is not None and fault.kind == "vanish":
                return
            if fault is not None and fault.kind == "slow":
                await anyio.sleep(fault.seconds)
            answer = fault.answer if fault is not None and fault.answer else await self._answer(call)
            self.note_change()
            if fault is not None and fault.kind == "vanish after":
                return
            await send_answer(stream, http, answer)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _answer(self, call: Call) -> Answer:
        if call.path.startswith("/api/"):
            return await self._api.answer(call)
        if call.path.startswith("/upload/"):
            return self._api.upload(call)
        if call.path.startswith("/files-pri/"):
            return self._file(call)
        return self._response(call)

    def _file(self, call: Call) -> Answer:
        """A private file; whoever may not see it gets the page to sign in."""
        found = re.fullmatch(r"/files-pri/T1-(F\w+)/.*", call.path)
        allowed = call.headers.get("authorization") == f"Bearer {self.bot_token}"
        if not allowed or "files:read" in self.missing_scopes:
            return Answer(content=b"<!DOCTYPE html><html>Sign in</html>", content_type="text/html; charset=utf-8")
        if found is None or found[1] not in self.files:
            return Answer(404, content=b"", content_type="text/html")
        return Answer(content=self.files[found[1]]["content"], content_type="application/octet-stream")

    def _response(self, call: Call) -> Answer:
        """A response URL: five uses (https://docs.slack.dev/interactivity/handling-user-interaction)."""
        if "authorization" in call.headers:
            self.violations.append("the token was sent to a response URL")
        if call.path not in self._response_uses:
            return Answer(404, content=b"no_service", content_type="text/plain")
        self._response_uses[call.path] += 1
        if self._response_uses[call.path] > 5:
            return Answer(404, {"ok": False, "error": "used_url"})
        body = json.loads(call.body)
        try:
            self.replies.append(body | checked_message(body))
        except Refusal as refusal:
            return Answer(400, refusal.document)
        return Answer(content=b"ok", content_type="text/plain")
