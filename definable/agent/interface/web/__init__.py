"""A chat page and a widget for other sites, over the service's own HTTP server.

```
config.py      WebConfig
interface.py   WebInterface: puts the parts below together
endpoints.py   the requests of the page: who is asking, messages, events, files
page.py        the page's own files
chat.py        one user's chat: what its page shows, and the events that tell of every change
chats.py       the chats and files that are held in memory
visitor.py     the signed names of those who have no account
assets/        the page and the widget: plain modules, Markdown as DOM nodes
```

The page gets server-sent events with ids, resumes by `Last-Event-ID`, and posts messages as JSON.
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .config import WebConfig
    from .interface import WebInterface

__all__ = ["WebConfig", "WebInterface"]

__getattr__: GetAttribute = lazy_exports(__name__, {"WebConfig": ".config", "WebInterface": ".interface"})
