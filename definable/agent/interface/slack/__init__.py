"""Slack: Socket Mode or the Events API brings messages, the Web API takes the answers (https://docs.slack.dev).

```
config.py        SlackConfig
interface.py     SlackInterface: puts the parts below together
sockets.py       Socket Mode: WebSockets one after the other, the next before the last is gone
client.py        the Web API: methods, what answers mean, how fast they may be called
events.py        what Slack sends, as messages; with content.py, their texts and quotations, pure
people.py        what users are called
threads.py       whether a thread began with the app, and what was said in it
files.py         what came with a message
sender.py        responses as messages and files
blocks.py        Markdown and buttons as Block Kit; pure
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import SlackConfig
    from .interface import SlackInterface

__all__ = ["SlackInterface", "SlackConfig"]

__getattr__: GetAttribute = lazy_exports(__name__, {"SlackInterface": ".interface", "SlackConfig": ".config"})
