"""`TelegramInterface`: a Telegram bot in front of the agent."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, ClassVar

from pydantic import ValidationError

from definable.agent.interface.base import Accept, BaseInterface, WebhookHandler
from definable.agent.interface.config import InterfaceConfig
from definable.agent.interface.errors import InterfaceConnectionError, InterfaceMessageError
from definable.agent.interface.message import InterfaceMessage, InterfaceResponse
from definable.agent.trigger.base import TriggerEvent
from definable.agent.trigger.request import Reply
from definable.agent.trigger.webhook import Webhook
from definable.concurrency.logs import logger_named

from .attachments import with_attachments
from .client import BotAPI, TelegramRefusal, bot_api
from .config import TelegramConfig
from .poller import Poller
from .received import Bot
from .sender import Sender, place_in_chat
from .update import CallbackQuery, ChatMemberUpdated, Message, User, parsed, update_id_of
from .webhook import CHECK_INTERVAL, TelegramSecret, keep_webhook

logger: logging.Logger = logger_named(__name__)

MENU_COMMAND = re.compile(r"[a-z0-9_]{1,32}")
MAX_COMMANDS, MAX_DESCRIPTION = 100, 256
"""Of a bot's menu (https://core.telegram.org/bots/api#setmycommands, #botcommand)."""


class TelegramInterface(BaseInterface):
    """A Telegram bot: by long polling, or with updates sent to this service's own HTTP server.

    Text, captions, photos, voice, audio, video and documents come in; the model sees text and images, and a line for
    each of the rest. Text, formatted from Markdown, and the media of the response go out. In private chats a reply that
    takes the model long is shown while it is written.

    A message is acknowledged to Telegram once it has been answered, or once a durable event bus keeps it: over a
    graceful restart none is lost and none is answered twice. After a crash, those that were being answered come again.
    Without a durable bus Telegram gives out no more than 100 messages before the first of them is answered. A webhook's
    messages are acknowledged when they come in: without a durable bus a crash, or the end of a stop's grace, loses
    those that are not answered yet.

    It takes the arguments of a `BaseInterface`. The `config` is a `TelegramConfig`, whose fields may also be given by
    name: `TelegramInterface(bot_token=...)`.
    """

    config_type: ClassVar[type[InterfaceConfig]] = TelegramConfig
    config: TelegramConfig  # pyright: ignore[reportIncompatibleVariableOverride] - set once
    has_buttons: ClassVar[bool] = True

    username: str | None = None
    """The bot's own, known once the interface receives."""
    _bot: Bot | None = None
    _api: BotAPI | None = None
    _sender_now: Sender | None = None
    _accept: Accept | None = None
    """Takes messages in, while the interface receives."""
    _poller: Poller

    @cached_property
    def _secret(self) -> str:
        return self.config.webhook_secret or secrets.token_urlsafe(32)

    @property
    def has_allow_list(self) -> bool:
        return (self.config.allowed_user_ids, self.config.allowed_chat_ids) != (None, None)

    @property
    def max_silence(self) -> float | None:
        """Of a poller: a poll that takes as long as it may, and half as much again; of a webhook: a few checks."""
        if self.config.mode == "webhook":
            return 3 * CHECK_INTERVAL + self.config.request_timeout
        return 1.5 * (self.config.polling_timeout + self.config.request_timeout)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[None, None]:
        self._poller = Poller(self.config)
        async with bot_api(self.config) as self._api:
            self._sender_now = Sender(self._api, self.config)
            try:
                yield
            finally:
                if self.config.mode == "polling":
                    await self._poller.acknowledge(self._api)
                self._api = self._sender_now = None

    async def receive(self, accept: Accept) -> None:
        api = self._connected_api
        await self._introduce(api)
        self._accept = accept
        try:
            if self.config.mode == "webhook":
                await keep_webhook(api, self.config, self._secret, self.alive)
            await self._poller.poll(api, self._take, self.alive)
        finally:
            self._accept = None

    async def send(self, message: InterfaceMessage, response: InterfaceResponse) -> None:
        await self._sender.send(message, response)

    async def post(self, message: InterfaceMessage, text: str) -> str | None:
        return await self._sender.post(message, text)

    async def edit(self, message: InterfaceMessage, posted: str, text: str) -> None:
        await self._sender.edit(message, posted, text)

    async def delete(self, message: InterfaceMessage, posted: str) -> None:
        await self._sender.delete(message, posted)

    async def complete(self, message: InterfaceMessage) -> InterfaceMessage:
        return await with_attachments(message, self._connected_api)

    async def typing(self, message: InterfaceMessage) -> None:
        place = place_in_chat(message)
        place.pop("reply_parameters", None)
        parameters = {"chat_id": message.platform_chat_id, "action": "typing", **place}
        await self._connected_api.call("sendChatAction", parameters)

    async def acknowledge(self, message: InterfaceMessage) -> None:
        query = message.metadata.get("callback_query_id")
        if query is not None:
            try:
                await self._connected_api.call("answerCallbackQuery", {"callback_query_id": query})
            except TelegramRefusal as refusal:  # after a while a button no longer waits
                logger.debug("telegram: a button could not be acknowledged: %s", refusal)

    async def show_commands(self, commands: Mapping[str, str]) -> None:
        menu = [
            {"command": name, "description": description[:MAX_DESCRIPTION] or name}
            for name, description in commands.items()
            if MENU_COMMAND.fullmatch(name)
        ]
        await self._connected_api.call("setMyCommands", {"commands": menu[:MAX_COMMANDS]})

    def handled(self, message: InterfaceMessage) -> None:
        update_id = message.metadata.get("update_id")
        if update_id is not None:
            self._poller.ended(update_id)

    def webhooks(self) -> Iterable[tuple[Webhook, WebhookHandler]]:
        if self.config.mode == "webhook":
            yield Webhook(self.config.webhook_path, auth=TelegramSecret(self._secret)), self._on_webhook

    async def _on_webhook(self, event: TriggerEvent) -> Reply | None:
        if self._accept is None:
            return Reply({"status": "not receiving"}, status=503)  # Telegram sends it again
        self.alive()
        await self._take(event.body)
        return None

    async def _introduce(self, api: BotAPI) -> None:
        try:
            me = User.model_validate(await api.call("getMe"))
        except ValidationError:
            raise InterfaceConnectionError("getMe: Telegram answered with something else than a user") from None
        self._bot, self.username = Bot(me, self.config), me.username
        logger.info("telegram: this is @%s, %s", self.username, self.config.mode)
        if self.config.groups == "all" and me.can_read_all_group_messages is False:
            logger.info(
                "telegram: groups='all', but privacy mode is on: where @%s is no administrator, Telegram sends it what "
                "mentions it alone; @BotFather's /setprivacy turns that off",
                self.username,
            )

    async def _take(self, update: Any) -> None:
        """Hand an update's message on, unless it brings none for us."""
        update_id, is_accepted = update_id_of(update), False
        try:
            message = self._message_of(update, update_id)
        except InterfaceMessageError as error:
            logger.warning("telegram: %s", error)
            message = None
        if message is not None and self._accept is not None and self._is_allowed(message):
            is_accepted = await self._accept(message)
        if not is_accepted and update_id is not None:
            self._poller.ended(update_id)

    def _message_of(self, update: Any, update_id: int | None) -> InterfaceMessage | None:
        if self._bot is None:
            return None
        match parsed(update):
            case Message(migrate_to_chat_id=int(moved_to)) as message:
                self._moved(message.chat.id, moved_to)
                return None
            case Message() as message:
                return self._bot.message(update_id, message, update)
            case CallbackQuery() as query:
                return self._bot.button(update_id, query, update)
            case ChatMemberUpdated() as member if member.is_gone:
                logger.info("telegram: chat %s has let the bot go: it was blocked or removed", member.chat.id)
                return None
            case _:
                return None

    def _moved(self, chat_id: int, moved_to: int) -> None:
        self._connected_api.moved(str(chat_id), str(moved_to))
        allowed = self.config.allowed_chat_ids
        if allowed is not None and str(chat_id) in allowed and str(moved_to) not in allowed:
            logger.warning(
                "telegram: group %s has become supergroup %s, which is not answered: put it into allowed_chat_ids",
                chat_id,
                moved_to,
            )
        else:
            logger.info("telegram: group %s has become supergroup %s", chat_id, moved_to)

    def _is_allowed(self, message: InterfaceMessage) -> bool:
        users, chats = self.config.allowed_user_ids, self.config.allowed_chat_ids
        allowed = (users is None or message.platform_user_id in users) and (
            chats is None or message.platform_chat_id in chats
        )
        if not allowed:
            logger.debug(
                "telegram: user %s in chat %s is not allowed", message.platform_user_id, message.platform_chat_id
            )
        return allowed

    @property
    def _sender(self) -> Sender:
        if self._sender_now is None:
            raise InterfaceConnectionError("the interface is not being served")
        return self._sender_now

    @property
    def _connected_api(self) -> BotAPI:
        if self._api is None:
            raise InterfaceConnectionError("the interface is not being served")
        return self._api
