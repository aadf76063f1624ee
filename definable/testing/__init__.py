"""For tests of agents: a served agent, a chat, virtual time for both backends, and the model that needs no network."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from definable.model.offline import OfflineModel

    from .chat import FakeChat, ShownMessage
    from .service import Served, served
    from .virtual import VIRTUAL_BACKENDS, VirtualClock, run, virtual_clock, virtual_time

__all__ = [
    "OfflineModel",
    "FakeChat",
    "ShownMessage",
    "Served",
    "served",
    "VIRTUAL_BACKENDS",
    "VirtualClock",
    "run",
    "virtual_clock",
    "virtual_time",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "OfflineModel": "definable.model.offline",
        "FakeChat": ".chat",
        "ShownMessage": ".chat",
        "Served": ".service",
        "served": ".service",
        "VIRTUAL_BACKENDS": ".virtual",
        "VirtualClock": ".virtual",
        "run": ".virtual",
        "virtual_clock": ".virtual",
        "virtual_time": ".virtual",
    },
)
