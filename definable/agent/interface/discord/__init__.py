"""Discord: the gateway brings messages, the HTTP API takes the answers.

```
config.py        DiscordConfig
interface.py     DiscordInterface: puts the parts below together
gateway.py       connections one after the other, and when to connect again
connection.py    one connection: the protocol on a socket and a clock
protocol.py      what is said over it, and what follows from it; pure
rest.py          the HTTP API, within rate_limit.py, which is pure
errors.py        what the API answers when it does not do what it is asked for
incoming.py      events as messages of the library, with places.py (threads), attachments.py and fields.py
interactions.py  slash commands and buttons
outgoing.py      responses as the messages that Discord takes
markdown.py      what a model wrote, in Discord's Markdown, with escaping.py; pure
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import DiscordConfig
    from .interface import DiscordInterface

__all__ = ["DiscordInterface", "DiscordConfig"]

__getattr__: GetAttribute = lazy_exports(__name__, {"DiscordInterface": ".interface", "DiscordConfig": ".config"})
