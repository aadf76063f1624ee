"""Telegram, over the raw Bot API (https://core.telegram.org/bots/api).

```
config.py       TelegramConfig
interface.py    TelegramInterface: puts the parts below together
client.py       the Bot API: methods, what its answers mean, how fast a bot may send
poller.py       long polling, and which updates may be acknowledged
webhook.py      updates that Telegram sends by itself
update.py       what an update holds; pure
received.py     an update as a message: who writes, whether the bot is meant, what is replied to; pure
attachments.py  files that came with a message
sender.py       responses as messages, of formatting.py, media.py and buttons.py, which are pure
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import TelegramConfig
    from .interface import TelegramInterface

__all__ = ["TelegramConfig", "TelegramInterface"]

__getattr__: GetAttribute = lazy_exports(__name__, {"TelegramConfig": ".config", "TelegramInterface": ".interface"})
