"""A strict loopback Bot API server over a real socket, on asyncio and on trio.

It refuses what Telegram refuses (`telegram_rules`), keeps updates until they are acknowledged, answers 409 to the older
of two pollers, and can fail in the ways in which Telegram and the way to it fail. It knows nothing of definable's
classes; python-telegram-bot talks to it too.

```
async with TelegramServer().running() as server:
    server.write("hello", chat=1)
    server.fail("sendMessage", Refused(429, "Too Many Requests: retry after 3", retry_after=3))
```
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from .telegram_chat import Chat
from .telegram_failure import Failure, Fault, Page, Refused, Slow
from .telegram_rules import BadRequest, check_commands, check_send, parameters_of

TOKEN = "123456789:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

BOT = {"id": 123456789, "is_bot": True, "first_name": "Bot", "username": "a_bot", "can_join_groups": True}


@dataclass(frozen=True)
class Call:
    """A method that was called, as it came over the wire."""

    method: str
    parameters: dict[str, Any]
    at: float
    """Seconds of the event loop's clock."""


@dataclass
class TelegramServer:
    """The server; see the module."""

    token: str = TOKEN
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    """Not acknowledged yet."""
    files: dict[str, bytes] = field(default_factory=dict)
    file_encoding: str = ""
    """What files are said to be encoded with, which they are not."""
    webhook: dict[str, Any] = field(default_factory=dict)
    webhook_failure: dict[str, Any] = field(default_factory=dict)
    """`last_error_date` and `last_error_message`, once the webhook could not be reached."""
    refusals: list[str] = field(default_factory=list)
    """What the rules found wrong."""
    violations: list[str] = field(default_factory=list)
    """Limits that were not kept to."""
    limits_chats: bool = True
    """Whether a bot may write to one chat once a second only."""
    revoked: bool = False
    commands: list[dict[str, str]] = field(default_factory=list)
    """The bot's menu."""
    closed_topics: set[int] = field(default_factory=set)
    """Those that are gone."""
    local_directory: str | None = None
    """Where it puts files, as a server with `--local` does; None: it serves them."""

    def __post_init__(self) -> None:
        self._failures: dict[str, deque[Failure]] = defaultdict(deque)
        self._next_update = 1000
        self.chats: dict[int, Chat] = defaultdict(Chat)
        self._changed = anyio.Event()
        self._poll: anyio.Event | None = None
        """Of the poll that is being held open: set when another one comes."""

    # --- the test's side

    def fail(self, method: str, *failures: Failure) -> None:
        """Have the next calls of a method fail, one each."""
        self._failures[method].extend(failures)

    def recover(self) -> None:
        """Fail no more."""
        self._failures.clear()

    def is_failing(self, method: str) -> bool:
        """Whether the next call of a method will fail."""
        return bool(self._failures[method])

    def write(self, text: str | None = None, *, chat: int = 1, user: int | None = None, **fields: Any) -> int:
        """A user writes to the bot; returns the message's id."""
        user = abs(chat) if user is None else user
        number = self.chats[chat].add({"text": text}, is_own=False)
        message: dict[str, Any] = {
            "message_id": number,
            "date": 1_700_000_000,
            "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
            "from": {"id": user, "is_bot": False, "first_name": "U", "username": f"user{user}"},
        }
        self.push({"message": message | ({} if text is None else {"text": text}) | fields})
        return number

    def press(self, number: int, text: str, *, chat: int = 1, user: int | None = None, **fields: Any) -> None:
        """A user presses the button with this text under a message of the bot's."""
        message = self.chats[chat].messages[number]
        row = [button for row in message.markup["inline_keyboard"] for button in row if button["text"] == text]
        user = abs(chat) if user is None else user
        self.push(
            {
                "callback_query": {
                    "id": f"{self._next_update}",
                    "from": {"id": user, "is_bot": False, "first_name": "U", "username": f"user{user}"},
                    "chat_instance": "1",
                    "data": row[0]["callback_data"],
                    "message": {
                        "message_id": number,
                        "date": 1_700_000_000,
                        "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
                        "from": BOT,
                        "text": message.text,
                        "reply_markup": message.markup,
                    }
                    | fields,
                }
            }
        )

    def push(self, update: dict[str, Any]) -> None:
        """An update, as it is, but for its number."""
        self.updates.append({"update_id": self._next_update} | update)
        self._next_update += 1
        self._changed.set()
        self._changed = anyio.Event()

    def sent(self, chat: int | None = None, method: str = "sendMessage") -> list[Any]:
        """Texts that were sent, or the parameters of another method's calls."""
        calls = [call for call in self.calls if call.method == method]
        calls = [call for call in calls if chat is None or int(call.parameters["chat_id"]) == chat]
        return [call.parameters["text"] if method == "sendMessage" else call.parameters for call in calls]

    def shown(self, chat: int) -> list[str | None]:
        """What the bot's messages in a chat say now."""
        return self.chats[chat].shown()

    async def until(self, condition: Any) -> None:
        """Return once a condition of this server is true; asked at every call."""
        while not condition(self):
            await self._changed.wait()

    # --- the wire's side

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TelegramServer]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.serve)
            yield self
            tasks.cancel_scope.cancel()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener:
            self.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            task_status.started()
            await listener.serve(self._converse)

    async def _converse(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._exchange(stream, connection):
                    connection.start_next_cycle()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, h11.ProtocolError):
                pass

    async def _exchange(self, stream: SocketStream, connection: h11.Connection) -> bool:
        request = await _next_event(stream, connection)
        if not isinstance(request, h11.Request):
            return False
        body = bytearray()
        while isinstance(data := await _next_event(stream, connection), h11.Data):
            body += data.data
        headers = {name.decode(): value.decode() for name, value in request.headers}
        answer = await self._answer(request.target.decode(), headers, bytes(body))
        if answer is None:
            return False
        fields = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
        fields += [("content-encoding", answer.encoding)] * bool(answer.encoding)
        await stream.send(connection.send(h11.Response(status_code=answer.status, headers=fields)) or b"")
        await stream.send(
            (connection.send(h11.Data(answer.body)) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        )
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _answer(self, target: str, headers: dict[str, str], body: bytes) -> Page | None:
        """What is answered; None: the connection is closed without a word."""
        path, _, query = target.partition("?")
        path = unquote(path)
        if path.startswith(f"/file/bot{self.token}/"):
            return self._file(path.removeprefix(f"/file/bot{self.token}/"))
        method = path.removeprefix(f"/bot{self.token}/")
        if not path.startswith("/bot"):
            return _json(Refused(404, "Not Found"))
        if method == path or self.revoked:
            return _json(Refused(401, "Unauthorized"))
        failure = self._failures[method].popleft() if self._failures[method] else None
        match failure:
            case Refused():
                return _json(failure)
            case Page():
                return failure
            case Fault("drop"):
                return None
            case Fault("hang"):
                await anyio.sleep_forever()
            case Slow(seconds):
                await anyio.sleep(seconds)
            case _:
                pass
        try:
            result = await self._act(method, parameters_of(headers, query, body))
        except BadRequest as error:
            self.refusals.append(f"{method}: {error}")
            result = Refused(400, f"Bad Request: {error}")
        return None if failure == Fault("drop after") else _json(result)

    def _file(self, path: str) -> Page:
        content = self.files.get(path)
        if content is None:
            return Page(b"", 404, "text/plain")
        return Page(content, 200, "application/octet-stream", self.file_encoding)

    async def _act(self, method: str, parameters: dict[str, Any]) -> Any:
        self.calls.append(Call(method, parameters, anyio.current_time()))
        self._changed.set()
        self._changed = anyio.Event()
        match method:
            case "getMe":
                return BOT
            case "getUpdates":
                return await self._get_updates(parameters)
            case "setWebhook":
                self.webhook = parameters
                return True
            case "getWebhookInfo":
                return self._webhook_info()
            case "deleteWebhook":
                self.webhook = {}
                return True
            case "sendChatAction" | "answerCallbackQuery":
                return True
            case "setMyCommands":
                check_commands(parameters)
                self.commands = parameters["commands"]
                return True
            case "getFile":
                return self._get_file(parameters)
            case _ if method.startswith(("send", "editMessage", "deleteMessage")):
                return self._send(method, parameters)
            case _:
                return Refused(404, "Not Found")

    async def _get_updates(self, parameters: dict[str, Any]) -> Any:
        if self.webhook:
            return Refused(409, "Conflict: can't use getUpdates method while webhook is active")
        offset, timeout = int(parameters.get("offset") or 0), int(parameters.get("timeout") or 0)
        if self._poll is not None:  # the older of two is turned away
            self._poll.set()
        if offset > 0:
            self.updates = [update for update in self.updates if update["update_id"] >= offset]
        mine = self._poll = anyio.Event()
        with anyio.move_on_after(timeout):
            while not self.updates and not mine.is_set():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_wait_then_cancel, mine, tasks)
                    await self._changed.wait()
                    tasks.cancel_scope.cancel()
        if mine.is_set():
            return Refused(
                409,
                "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running",
            )
        self._poll = None
        return self.updates[: min(int(parameters.get("limit") or 100), 100)]

    def _webhook_info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"url": self.webhook.get("url", ""), "has_custom_certificate": False}
        return info | {"pending_update_count": len(self.updates)} | self.webhook_failure

    def _get_file(self, parameters: dict[str, Any]) -> Any:
        file_id = parameters["file_id"]
        if file_id not in self.files:
            raise BadRequest("invalid file_id")
        if len(self.files[file_id]) > 20 * 1024 * 1024 and self.local_directory is None:
            raise BadRequest("file is too big")
        path = file_id
        if self.local_directory is not None:
            path = f"{self.local_directory}/{file_id}"
            Path(path).write_bytes(self.files[file_id])
        return {"file_id": file_id, "file_unique_id": file_id, "file_path": path}

    def _send(self, method: str, parameters: dict[str, Any]) -> Any:
        check_send(method, parameters)
        chat, now = int(parameters["chat_id"]), anyio.current_time()
        if int(parameters.get("message_thread_id") or 0) in self.closed_topics:
            raise BadRequest("message thread not found")
        if self.limits_chats and self.chats[chat].is_too_soon(now):
            self.violations.append(f"{method}: chat {chat} was written to again too soon")
            return Refused(429, "Too Many Requests: retry after 1", retry_after=1)
        self.chats[chat].written_at = now
        number = parameters.get("message_id")
        match method:
            case "editMessageText":
                self.chats[chat].edit(parameters["message_id"], parameters)
            case "editMessageReplyMarkup":
                self.chats[chat].edit_markup(parameters["message_id"], parameters)
            case "deleteMessage":
                self.chats[chat].delete(parameters["message_id"])
                return True
            case "sendMediaGroup":
                for each in parameters["media"]:
                    number = self.chats[chat].add(each, is_own=True)
            case _:
                number = self.chats[chat].add(parameters, is_own=True)
        return {
            "message_id": number,
            "date": 1_700_000_000,
            "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
            "from": BOT,
            "text": parameters.get("text"),
        }


async def _wait_then_cancel(event: anyio.Event, tasks: Any) -> None:
    await event.wait()
    tasks.cancel_scope.cancel()


def _json(result: Any) -> Page:
    if isinstance(result, Refused):
        return Page(json.dumps(result.body()).encode(), result.code, "application/json")
    return Page(json.dumps({"ok": True, "result": result}).encode(), 200, "application/json")


async def _next_event(stream: SocketStream, connection: h11.Connection) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        try:
            connection.receive_data(await stream.receive())
        except anyio.EndOfStream:
            connection.receive_data(b"")
    return event
