"""What sets an agent to work without being asked in person: webhooks, cron jobs, emitted events."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import BaseTrigger, TriggerEvent
    from .challenge import MetaChallenge, ZoomChallenge
    from .cron import Cron
    from .event import EventTrigger
    from .interval import Interval, OneShot
    from .request import Headers, RawRequest, Reply
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
        "Reply": ".request",
        "RawRequest": ".request",
        "Headers": ".request",
        "MetaChallenge": ".challenge",
        "ZoomChallenge": ".challenge",
    },
)
