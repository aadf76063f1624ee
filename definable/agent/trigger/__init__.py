"""What sets an agent to work without being asked in person: webhooks, cron jobs, emitted events."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import BaseTrigger, RawRequest, Reply, TriggerEvent
    from .challenge import MetaChallenge, ZoomChallenge
    from .cron import Cron
    from .event import EventTrigger
    from .headers import Headers
    from .interval import Interval, OneShot
    from .webhook import Webhook

__all__ = [
    "Webhook",
    "Cron",
    "Interval",
    "OneShot",
    "EventTrigger",
    "TriggerEvent",
    "BaseTrigger",
    "Reply",
    "RawRequest",
    "Headers",
    "MetaChallenge",
    "ZoomChallenge",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "Webhook": ".webhook",
        "Cron": ".cron",
        "Interval": ".interval",
        "OneShot": ".interval",
        "EventTrigger": ".event",
        "TriggerEvent": ".base",
        "BaseTrigger": ".base",
        "Reply": ".base",
        "RawRequest": ".base",
        "Headers": ".headers",
        "MetaChallenge": ".challenge",
        "ZoomChallenge": ".challenge",
    },
)
