"""An update as an `InterfaceMessage`: who writes, whether the bot is meant, what is replied to (pure).

The rules of groups are Telegram's (https://core.telegram.org/bots/features#privacy-mode): a bot is meant by a mention,
a reply to one of its messages, or a command of its own; `/command@name` is the command of one bot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from definable.agent.interface.message import InterfaceMessage, Media, QuotedMessage

from .attachments import described
from .buttons import pressed
from .config import TelegramConfig
from .update import CallbackQuery, Chat, Content, Entity, Message, User

SERVICE_COMMANDS = frozenset({"start", "help", "new", "stop"})
"""What every bot understands."""


@dataclass(frozen=True, slots=True)
class Bot:
    """Who the bot is and what it is to answer."""

    user: User
    config: TelegramConfig

    def is_named(self, name: str) -> bool:
        """Whether this is the bot's username; their case does not matter."""
        return bool(self.user.username) and name.casefold() == str(self.user.username).casefold()

    def message(self, update_id: int | None, received: Message, raw: Any) -> InterfaceMessage | None:
        """The message of somebody; None when there is nothing in it, or nobody wants it answered."""
        author = received.author
        if author is None or not self._is_wanted(received):
            return None
        is_direct = received.chat.type == "private"
        text, notes, files = self._text_of(received), tuple(received.notes()), described(received)
        if text.is_for_another_bot and not is_direct:
            return None
        replied, context = self._context_of(received)
        words = text.words or None
        if received.forward_origin is not None:
            context.append(QuotedMessage("forward", received.forward_origin.author, text.shown or None))
            words = None
        if not (words or notes or any(files.values()) or received.forward_origin):
            if not text.is_addressed:
                return None  # a service message: somebody joined, a title was changed
            words = None if context else received.text or received.caption
        is_reply = replied is not None and replied.sender is not None and replied.sender.id == self.user.id
        is_mentioned = text.is_addressed and received.forward_origin is None
        return InterfaceMessage(
            platform_message_id=str(received.message_id),
            text=words,
            reply_to_message_id=None if replied is None else str(replied.message_id),
            is_direct=is_direct,
            is_addressed=is_direct or is_mentioned or is_reply,
            is_edit=received.edit_date is not None,
            group_id=received.media_group_id,
            context=tuple(context),
            notes=notes,
            created_at=received.edit_date or received.date,
            metadata=self._metadata(update_id, received, author, raw)
            | ({} if received.edit_date is None else {"edit": str(update_id)}),
            **self._place_of(received, author, received.sender),
            **files,
        )

    def button(self, update_id: int | None, query: CallbackQuery, raw: Any) -> InterfaceMessage | None:
        """A button as a message; None of one that is under no message of this bot's."""
        message = query.message
        if message is None or query.data is None:
            return None
        text, value = pressed(message, query.data)
        return InterfaceMessage(
            platform_message_id=f"callback-{query.id}",
            text=text,
            button=value,
            is_direct=message.chat.type == "private",
            metadata=self._metadata(update_id, message, query.sender, raw) | {"callback_query_id": query.id},
            **self._place_of(message, query.sender, query.sender),
        )

    def _is_wanted(self, message: Message) -> bool:
        """Not what the bot, other bots and linked channels write, nor that somebody goes on moving on a map."""
        if message.is_automatic_forward or (message.edit_date is not None and message.location is not None):
            return False
        if message.sender_chat is not None or message.sender is None:
            return True
        return message.sender.id != self.user.id and (not message.sender.is_bot or self.config.respond_to_bots)

    def _place_of(self, message: Message, author: User | Chat, user: User | None) -> dict[str, Any]:
        return {
            "platform": self.config.platform,
            "platform_user_id": str(author.id),
            "platform_chat_id": str(message.chat.id),
            "thread_id": str(message.message_thread_id) if message.is_topic_message else None,
            "username": author.username or author.display_name,
            "locale": None if user is None else user.language_code,
        }

    def _metadata(self, update_id: int | None, message: Message, author: User | Chat, raw: Any) -> dict[str, Any]:
        return {
            "update_id": update_id,
            "message_id": message.message_id,
            "chat_type": message.chat.type,
            "display_name": author.display_name,
            "raw": raw,
        }

    def _text_of(self, message: Message) -> Words:
        if message.text is not None:
            return self.words(message.text, message.entities)
        return self.words(message.caption or "", message.caption_entities)

    def _context_of(self, message: Message) -> tuple[Message | None, list[QuotedMessage]]:
        """What is replied to; the first message of a topic is replied to by all of its own."""
        found: list[QuotedMessage] = []
        replied, other = message.reply_to_message, message.external_reply
        if replied is not None and replied.forum_topic_created is not None:
            replied = None
        author = number = None
        if replied is not None:
            author, number = _name_of(replied.author), str(replied.message_id)
            text = _with_notes(self._text_of(replied).shown, replied.notes())
            found.append(QuotedMessage("reply", author, text, message_id=number, files=_files_of(replied)))
        elif other is not None:
            author = other.origin.author
            number = None if other.message_id is None else str(other.message_id)
            text = _with_notes("", other.notes())
            found.append(QuotedMessage("reply", author, text, message_id=number, files=_files_of(other)))
        if message.quote is not None:
            found.append(QuotedMessage("quote", author, message.quote.text, message_id=number))
        return replied, found

    def _found(self, text: str) -> Iterator[Entity]:
        """Mentions of the bot and commands in a text whose sender, say a server of one's own, has not marked them."""
        if command := re.match(r"/\w+(@\w+)?", text):
            yield Entity(type="bot_command", offset=0, length=command.end())
        elif self.user.username and text.startswith("@"):
            mention = re.match(rf"@{re.escape(self.user.username)}\b", text, re.IGNORECASE)
            if mention is not None:
                yield Entity(type="mention", offset=0, length=mention.end())

    def words(self, text: str, entities: Sequence[Entity]) -> Words:
        """A text with the addresses of its links, and without mentions of the bot.

        Args:
            text: Of a message, or a caption.
            entities: What Telegram found in it.
        """
        units, is_addressed, is_for_another_bot = text.encode("utf-16-le", "surrogatepass"), False, False
        cuts: list[tuple[int, int, str]] = []
        links: list[tuple[int, int, str]] = []
        for entity in entities or self._found(text):
            start, end = entity.offset, entity.offset + entity.length
            said = _decoded(units, start, end)
            match entity.type:
                case "mention" if self.is_named(said.removeprefix("@")):
                    cuts.append((start, end, ""))
                    is_addressed = True
                case "text_mention" if entity.user is not None and entity.user.id == self.user.id:
                    cuts.append((start, end, ""))
                    is_addressed = True
                case "bot_command" if start == 0:
                    name, _, target = said.removeprefix("/").partition("@")
                    is_for_another_bot = bool(target) and not self.is_named(target)
                    is_known = name in SERVICE_COMMANDS or name in self.config.commands
                    is_addressed |= self.is_named(target) if target else is_known
                    cuts.append((start, end, f"/{name}"))
                case "text_link" if entity.url and entity.url != said:
                    links.append((start, end, f"[{said}]({entity.url})"))
                case _:
                    pass
        shown = _changed(units, links)
        words = _changed(units, [*links, *cuts])
        if any(not put for _, _, put in cuts):
            words = _BEFORE_CUT.sub("", words).strip()
        return Words(words, shown, is_addressed, is_for_another_bot)


_BEFORE_CUT = re.compile(r"^[\s,:]+|(?<=\s)\s(?!\s)")
"""What a mention leaves behind: a comma at the beginning, a second space."""


@dataclass(frozen=True, slots=True)
class Words:
    """A text as it is read."""

    words: str
    """Without mentions of the bot."""
    shown: str
    """With them."""
    is_addressed: bool
    """Whether the bot is mentioned, or the text is a command of its own."""
    is_for_another_bot: bool
    """Whether it is the command of another one."""


def _changed(units: bytes, changes: Sequence[tuple[int, int, str]]) -> str:
    """A text with its stretches replaced; of two that overlap the first is."""
    pieces: list[str] = []
    at = 0
    for start, end, put in sorted(changes):
        if start >= at:
            pieces += [_decoded(units, at, start), put]
            at = end
    return "".join([*pieces, _decoded(units, at, len(units) // 2)])


def _decoded(units: bytes, start: int, end: int) -> str:
    return units[2 * start : 2 * end].decode("utf-16-le", "replace")


def _with_notes(text: str, notes: Iterator[str]) -> str | None:
    return "\n".join(filter(None, (text, *[f"[{note}]" for note in notes]))) or None


def _files_of(content: Content) -> tuple[Media, ...]:
    return tuple([each for kind in described(content).values() for each in kind])


def _name_of(author: User | Chat | None) -> str | None:
    return None if author is None else author.display_name or author.username
