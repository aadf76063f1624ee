"""Events accepted now and handled later: the `EventBus` protocol and its homes.

```
base.py      the protocol: a bus, its deliveries, its dead letters
emitter.py   where `agent.emit` enters, from any thread
memory.py    in this process
sqlite.py    in a file (loads sqlite3 when first used)
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from definable.errors import EventBufferFull, EventBusClosed

    from .base import DeadLetter, Delivery, EventBus
    from .memory import MemoryBus
    from .sqlite import SQLiteBus

__all__ = ["EventBus", "Delivery", "DeadLetter", "MemoryBus", "SQLiteBus", "EventBufferFull", "EventBusClosed"]

__getattr__ = lazy_exports(
    __name__,
    {
        "EventBus": ".base",
        "Delivery": ".base",
        "DeadLetter": ".base",
        "MemoryBus": ".memory",
        "SQLiteBus": ".sqlite",
        "EventBufferFull": "definable.errors",
        "EventBusClosed": "definable.errors",
    },
)
