"""Discord: the gateway brings messages, the HTTP API takes the answers.

```
interface.py         what the supervisor runs: admission and outgoing between gateway and rest
  gateway.py         connections one after the other       pace.py  protocol.py          pure
    connection.py    one connection                        protocol.py  protocol.py         pure
      websocket.py   ... over websockets, on either backend
  protocol.py what outlives a connection            pure
  rest.py            requests, tried again                 rate_limit.py  rest.py  pure
  attachment.py      images, fetched
  message_event.py       which messages are for the agent      message_event.py  outgoing.py   pure
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import DiscordConfig
    from .interface import DiscordInterface

__all__ = ["DiscordInterface", "DiscordConfig"]

__getattr__: GetAttribute = lazy_exports(__name__, {"DiscordInterface": ".interface", "DiscordConfig": ".config"})
