"""A server as a service of systemd: sockets that it passes on, and what it is notified of.

See sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3). Without systemd all of it does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import anyio

from .listener import inherited

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


def activated_sockets() -> list[socket.socket]:
    """Takes over the listening sockets that systemd has passed to this process: once, and none where there are none.

    Raises:
        ConfigurationError: One is no listening stream socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are not for child processes
        os.environ.pop(name, None)
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + (int(count) if count.isdecimal() else 0))
    return [inherited(each, f"descriptor {each}, which systemd has passed (LISTEN_FDS),") for each in descriptors]


def notify(state: str) -> None:
    """Tells the service manager of a state, such as `READY=1`; that it cannot be told is no failure."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that the service manager asks for, half of its patience; None for no such."""
    process, patience = os.environ.get("WATCHDOG_PID", str(os.getpid())), os.environ.get("WATCHDOG_USEC", "")
    if process != str(os.getpid()) or not patience.isdecimal() or int(patience) <= 0:
        return None
    return int(patience) / 2_000_000


async def send_signs_of_life() -> None:
    """Have the service manager know that the event loop goes on, until cancelled; returns where it does not ask."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await anyio.sleep(interval)
