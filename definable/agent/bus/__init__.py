"""Events accepted now and handled later: the `EventBus` protocol and its forms."""

from definable.errors import EventBufferFull, EventBusClosed

from .base import DeadLetter, Delivery, EventBus
from .emitter import Emitter
from .memory import MemoryBus

__all__ = ["EventBus", "Delivery", "DeadLetter", "MemoryBus", "Emitter", "EventBufferFull", "EventBusClosed"]
