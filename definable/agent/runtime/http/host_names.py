"""By which host names the service may be called: pure.

A page whose name was made to lead to this machine (DNS rebinding) is of the same origin as the service, for a browser;
only the `Host` that it sends gives it away. So a service that is bound to a loopback address, which browsers of this
machine alone can reach, answers to names of this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache

from definable.errors import ConfigurationError

from .problem import Problem

MAX_KNOWN = 256
"""Names whose answer is remembered."""


class HostPolicy:
    """Knows the host names that a service answers to.

    Always among them: IP addresses, `localhost` and all below it (RFC 6761, 6.3), which no name server redirects, and
    names without a dot (a container's, one of `/etc/hosts`), which nobody can register.

    Args:
        allowed: Further names, without a port; `"*.app.example"` is every name below, `"*"` is every name.

    Raises:
        ConfigurationError: One is no host name.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        names = [checked_name(name) for name in allowed]
        self._any = "*" in names
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._endings = (".localhost", *(name[1:] for name in names if name.startswith("*.")))
        self.allows: Callable[[bytes], bool] = lru_cache(MAX_KNOWN)(self._allows)
        """Whether the service answers to the value of a `Host` header."""

    def _allows(self, host: bytes) -> bool:
        name = host_name(host.decode("latin-1"))
        if self._any or name in self._names or name.endswith(self._endings):
            return True
        return is_address(name) or (name != "" and "." not in name and ":" not in name)


def host_name(host: str) -> str:
    """The name or address in a `Host` header (RFC 9110, 7.2), in lower case."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an address can be reached from this machine alone; a Unix socket's path is none."""
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def checked_name(name: str) -> str:
    """A host name of `allowed_hosts`.

    Raises:
        ConfigurationError: It is none: it has a scheme, a port or a path, or is empty.
    """
    if not isinstance(name, str) or not name or set(name) & set("/:@ ") or "*" in name.removeprefix("*."):  # pyright: ignore[reportUnnecessaryIsInstance]
        if name != "*":
            raise ConfigurationError(
                f"allowed_hosts: {name!r} is no host name: without scheme and port, such as 'app.example'"
            )
    return name.lower().removesuffix(".")


def unknown_host(host: bytes) -> Problem:
    """The problem of a request for a name that the service does not answer to (RFC 9110, 15.5.20)."""
    name = host_name(host[:300].decode("latin-1"))
    return Problem(
        421,
        f"this service does not answer to the host {name!r}: its operator allows names with serve(allowed_hosts=[...])",
    )
