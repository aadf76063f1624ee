"""File descriptors: how many connections they allow, with a reserve for what the service opens itself. Unix alone.

Where the system lets it, the soft limit (1,024 under systemd and in most shells, for the sake of programs that use
select(2)) is raised to what the connections need; the hard one is the administrator's.
"""

from __future__ import annotations

import sys

RESERVE = 64
"""Descriptors for listeners, the event loop, files, stores and connections that are being turned away."""

MOST_RESERVED = 1_536
"""Descriptors for models and stores at most: a model's client has 1,000 connections, a store's some dozens."""


def connections_within_descriptors(wanted: int) -> int:
    """How many connections may be open at once; raises the soft limit of descriptors if that is what is missing.

    Each may be a run that waits for a model, whose own connection needs a descriptor too, and a store's perhaps. So
    these get half of what there is, or as many as they ever need: a crowd of clients then costs no run its model.

    Args:
        wanted: Connections that the service is asked to take.

    Returns:
        As many, or fewer where the hard limit allows no more.
    """
    limit = _raised_limit(RESERVE + wanted + min(wanted, MOST_RESERVED))
    if limit is None:
        return wanted
    reserved = RESERVE + min((limit - RESERVE) // 2, MOST_RESERVED)
    return min(wanted, max(1, limit - reserved))


def _raised_limit(needed: int) -> int | None:
    """The limit of descriptors after it was raised towards what is needed; None where there is none."""
    if sys.platform == "win32":  # sockets are no descriptors there
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # macOS has a lower limit than the hard one says: OPEN_MAX
        return soft
    return raised
