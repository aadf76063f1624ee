"""What is in a message of Slack's: its text as people read it, and what it forwards or answers; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from definable.agent.interface.message import InterfaceMessage, QuotedMessage

from .files import file_in, object_of, objects_of, text_of
from .people import Person

MAX_CONTEXT = 10
"""Messages of a thread that come before the first one which means the app."""

_TOKEN = re.compile(r"<([^<>\n]+)>")
"""What stands in angle brackets (https://docs.slack.dev/messaging/formatting-message-text); brackets that somebody
typed are `&lt;`."""

_USER = re.compile(r"<@([A-Z0-9]+)(?:\|[^<>]*)?>")


@dataclass(frozen=True, slots=True)
class Me:
    """The app, as `auth.test` says."""

    user_id: str
    bot_id: str | None


def users_in(text: str | None) -> list[str]:
    """The users whom a text mentions."""
    return [found[1] for found in _USER.finditer(text or "")]


def people_in(message: InterfaceMessage) -> list[str]:
    """The users whose names a message needs: its author first."""
    texts = [message.text, *(quoted.text for quoted in message.context)]
    authors = [quoted.author for quoted in message.context if quoted.author]
    authors = [each for each in (message.platform_user_id, *authors) if re.fullmatch(r"[UW][A-Z0-9]+", each)]
    return [*authors, *(user for text in texts for user in users_in(text))]


def readable(message: InterfaceMessage, people: Mapping[str, Person], me: Me) -> InterfaceMessage:
    """A message as people read it: with names in place of ids, links, and without the mention of the app."""
    author = people.get(message.platform_user_id, Person())
    text = readable_text(message.text, people, me.user_id) if message.text else None
    context = tuple(
        replace(
            quoted,
            author=_name(quoted.author, people) if quoted.author else None,
            text=readable_text(quoted.text, people, None) if quoted.text else None,
        )
        for quoted in message.context
    )
    return replace(
        message,
        text=text or None,
        username=author.name or message.username,
        locale=author.locale,
        timezone=author.timezone,
        context=context,
    )


def readable_text(text: str, people: Mapping[str, Person], own: str | None) -> str:
    """Slack's text as plain text (https://docs.slack.dev/messaging/formatting-message-text, Retrieving messages).

    Args:
        text: As Slack has it.
        people: Those who are known.
        own: The user id of the app, whose mention is cut; None: it is left.
    """
    if own is not None:
        mention = rf"<@{re.escape(own)}(?:\|[^<>]*)?>"
        text = re.sub(rf"\A\s*(?:{mention}[:,]?\s*)+", "", text)
        text = re.sub(rf"[ \t]*{mention}", "", text)
    text = _TOKEN.sub(lambda found: _readable_token(found[1], people), text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def _readable_token(token: str, people: Mapping[str, Person]) -> str:
    body, _, label = token.partition("|")
    if body.startswith("@"):
        return f"@{label or _name(body[1:], people)}"
    if body.startswith("#"):
        return f"#{label or body[1:]}"
    if body.startswith("!"):  # <!here>, <!subteam^S1|@team>, <!date^1^{date}|fallback>
        return label or f"@{body[1:].partition('^')[0]}"
    address = body.removeprefix("mailto:").removeprefix("tel:")
    if not label or address.rstrip("/").endswith(label.rstrip("/")):
        return address
    return f"[{label}]({address})"


def _name(id: str, people: Mapping[str, Person]) -> str:
    return people.get(id, Person()).name or id


def shared_in(event: Mapping[str, Any]) -> Iterator[QuotedMessage]:
    """Messages that somebody forwards, or links to."""
    for each in objects_of(event.get("attachments")):
        if each.get("is_share") or each.get("is_msg_unfurl"):
            author = text_of(each.get("author_id")) or text_of(each.get("author_name"))
            text = text_of(each.get("text")) or text_of(each.get("fallback"))
            kind = "forward" if each.get("is_share") else "quote"
            files = tuple(file_in(file).described() for file in objects_of(each.get("files")))
            yield QuotedMessage(kind, author, text, files=files, message_id=text_of(each.get("ts")))


def thread_context(messages: Iterable[object], before: str, me: Me) -> list[QuotedMessage] | None:
    """What was said in a thread before a message; None where the app has spoken in it: it knows what was said.

    Args:
        messages: Of `conversations.replies`, the thread's first message first.
        before: The message's `ts`.
        me: Who the app is.
    """
    said = [each for each in map(object_of, messages) if float(text_of(each.get("ts")) or "inf") < float(before)]
    if any(each.get("user") == me.user_id or each.get("bot_id") == me.bot_id is not None for each in said):
        return None
    quoted = [
        QuotedMessage(
            "reply",
            text_of(each.get("user")) or text_of(each.get("username")),
            text_of(each.get("text")),
            files=tuple(file_in(file).described() for file in objects_of(each.get("files"))),
            message_id=text_of(each.get("ts")),
        )
        for each in said
    ]
    return quoted[:1] + quoted[1:][-MAX_CONTEXT:]


def means_app(root: object, me: Me) -> bool:
    """Whether a thread began with a message of the app, or with one that mentions it."""
    first = object_of(root)
    return first.get("user") == me.user_id or me.user_id in users_in(text_of(first.get("text")))
