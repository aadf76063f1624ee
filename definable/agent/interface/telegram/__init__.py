"""Telegram, over the raw Bot API (https://core.telegram.org/bots/api).

```
config.py      TelegramConfig
interface.py   TelegramInterface: puts the parts below together
client.py      the Bot API: methods, what answers mean, how fast a bot may send
poller.py      long polling, and which updates may be acknowledged
webhook.py     updates that Telegram sends by itself
update.py      what an update holds, and what came with a message
sender.py      responses as messages: Markdown as text with entities (MessageEntity), media
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import TelegramConfig
    from .interface import TelegramInterface

__all__ = ["TelegramConfig", "TelegramInterface"]

__getattr__: GetAttribute = lazy_exports(__name__, {"TelegramConfig": ".config", "TelegramInterface": ".interface"})
