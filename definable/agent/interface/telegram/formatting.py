"""Markdown as Telegram shows it: text, with entities that say what is bold (Bot API, MessageEntity).

Entities rather than `parse_mode`: nothing needs to be escaped, so no text of a model's can break the message.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from definable.agent.interface.splitting import utf16_length

if TYPE_CHECKING:
    from telegramify_markdown.config import RenderConfig

logger: logging.Logger = logging.getLogger(__name__)


class Entity(Protocol):
    """What the converter gives; its own type does not say what its parts are."""

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Formatted:
    """A text and how it looks."""

    text: str
    entities: tuple[dict[str, Any], ...] = ()

    @property
    def plain(self) -> Formatted:
        """The same without its looks."""
        return Formatted(self.text)


def formatted(markdown: str, limit: int) -> Formatted:
    """Markdown as text with entities; as it stands when it cannot be converted, or would become too long.

    Args:
        markdown: What a model wrote.
        limit: UTF-16 code units that the result may have.
    """
    config = _render_config()
    if config is None:
        return Formatted(markdown)
    try:
        from telegramify_markdown import convert  # the extra `telegram`

        text, entities = convert(markdown, config=config)
    except Exception:
        logger.warning("a reply could not be formatted, it is sent as it is", exc_info=True)
        return Formatted(markdown)
    if not text.strip() or utf16_length(text) > limit:
        return Formatted(markdown)
    return Formatted(text, tuple(cast("Entity", entity).to_dict() for entity in entities))


@cache
def _render_config() -> RenderConfig | None:
    """Without the pictures that the library puts before headings; None when it is not installed."""
    try:
        from telegramify_markdown.config import RenderConfig  # the extra `telegram`
    except ImportError:
        logger.warning("telegram: replies are sent unformatted: pip install 'definable[telegram]'")
        return None
    config = RenderConfig.isolated()
    symbols = config.markdown_symbol
    symbols.heading_level_1 = symbols.heading_level_2 = symbols.heading_level_3 = symbols.heading_level_4 = ""
    symbols.unordered_list_item = "•"
    return config
