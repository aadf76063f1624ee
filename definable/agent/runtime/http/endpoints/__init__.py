"""The agent's own endpoints, one file a resource.

`app.py` routes and authenticates; an endpoint takes a `Request` and gives something to send, or raises what
`failure.py` turns into a problem.
"""

from .base import Endpoint, Sendable
from .handshake import HandshakeEndpoint, unsigned_answer
from .health import HealthEndpoint
from .run import RunEndpoint
from .runs import CancelRunEndpoint, RunEventsEndpoint, RunsEndpoint, ShowRunEndpoint
from .sessions import ForgetSessionEndpoint, ShowSessionEndpoint, VisibleSessions
from .webhook import WebhookEndpoint

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
