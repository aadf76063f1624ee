"""The agent's own endpoints, one file a resource.

`app.py` routes and authenticates; an endpoint takes a `Request` and gives something to send, or raises what
`failure.py` turns into a problem.
"""

from .base import Endpoint, HealthEndpoint, Sendable
from .run import RunEndpoint
from .runs import CancelRunEndpoint, RunEventsEndpoint, RunsEndpoint, ShowRunEndpoint
from .sessions import ForgetSessionEndpoint, ShowSessionEndpoint, VisibleSessions
from .webhook import HandshakeEndpoint, WebhookEndpoint, unsigned_answer

__all__ = [
    "Endpoint",
    "Sendable",
    "HealthEndpoint",
    "RunEndpoint",
    "RunsEndpoint",
    "ShowRunEndpoint",
    "RunEventsEndpoint",
    "CancelRunEndpoint",
    "ShowSessionEndpoint",
    "ForgetSessionEndpoint",
    "VisibleSessions",
    "WebhookEndpoint",
    "HandshakeEndpoint",
    "unsigned_answer",
]
