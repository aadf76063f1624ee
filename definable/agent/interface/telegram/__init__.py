"""Telegram, over the raw Bot API (https://core.telegram.org/bots/api).

```
config.py          TelegramConfig
interface.py       TelegramInterface: puts the parts below together
client.py          one HTTP client: call a method, fetch a file; client.py keeps the token out of sight
failure.py         what an answer of the Bot API means: pure
poller.py          long polling; poller.py: which updates may be acknowledged, pure
webhook.py         updates that Telegram sends by itself
update.py          what an update holds: pure
attachment.py      what came with a message: described, then fetched
sender.py          text and media out, at the pace of pace.py; delivery.py: what is tried again
sender.py      Markdown as text with entities
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import TelegramConfig
    from .interface import TelegramInterface

__all__ = ["TelegramConfig", "TelegramInterface"]

__getattr__: GetAttribute = lazy_exports(__name__, {"TelegramConfig": ".config", "TelegramInterface": ".interface"})
