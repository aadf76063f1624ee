"""Messaging interfaces: chat platforms in front of the agent."""

from .base import BaseInterface
from .config import InterfaceConfig
from .errors import (
    InterfaceAuthenticationError,
    InterfaceConnectionError,
    InterfaceError,
    InterfaceMessageError,
    InterfaceRateLimitError,
)
from .message import InterfaceMessage, InterfaceResponse

__all__ = [
    "BaseInterface",
    "InterfaceConfig",
    "InterfaceMessage",
    "InterfaceResponse",
    "InterfaceError",
    "InterfaceAuthenticationError",
    "InterfaceConnectionError",
    "InterfaceMessageError",
    "InterfaceRateLimitError",
]
