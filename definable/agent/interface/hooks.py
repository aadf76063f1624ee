"""The hooks that come along, under the module's name in the original library."""

from .allowlist_hook import AllowlistHook
from .hook import InterfaceHook
from .logging_hook import LoggingHook

__all__ = ["InterfaceHook", "LoggingHook", "AllowlistHook"]
