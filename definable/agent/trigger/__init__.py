"""What sets an agent to work without being asked in person: webhooks, cron jobs, emitted events."""

from .base import BaseTrigger, RawRequest, Reply, TriggerEvent
from .cron import Cron
from .event import EventTrigger
from .headers import Headers
from .webhook import Webhook

__all__ = ["Webhook", "Cron", "EventTrigger", "TriggerEvent", "BaseTrigger", "Reply", "RawRequest", "Headers"]
