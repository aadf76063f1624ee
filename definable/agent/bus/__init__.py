"""Events accepted now and handled later: the `EventBus` protocol and its homes.

```
base.py      the protocol: a bus, its deliveries, its dead letters
emitter.py   where `agent.emit` enters, from any thread
memory.py    in this process
sqlite.py    in a file (loads sqlite3 when first used)
redis.py     in Redis, shared by replicas (loads coredis when first used)
```
"""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from definable.errors import EventBufferFull, EventBusClosed

    from .base import DeadLetter, Delivery, EventBus
    from .memory import MemoryBus
    from .redis import RedisBus
    from .sqlite import SQLiteBus

__all__ = [
    "EventBus",
    "Delivery",
    "DeadLetter",
    "MemoryBus",
    "SQLiteBus",
    "RedisBus",
    "EventBufferFull",
    "EventBusClosed",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "EventBus": ".base",
        "Delivery": ".base",
        "DeadLetter": ".base",
        "MemoryBus": ".memory",
        "SQLiteBus": ".sqlite",
        "RedisBus": ".redis",
        "EventBufferFull": "definable.errors",
        "EventBusClosed": "definable.errors",
    },
)
