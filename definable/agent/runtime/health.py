"""What `/health` says: truthful about every child, silent about secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .supervisor import Supervisor


def health_of(
    name: str, draining: bool, supervisors: Iterable[Supervisor], *, has_cron: bool
) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and the document that says so.

    Args:
        name: The service's name.
        draining: Whether a stop has begun.
        supervisors: Of the interfaces.
        has_cron: Whether there are cron jobs.
    """
    children: dict[str, dict[str, Any]] = {"events": {"state": "draining" if draining else "running"}}
    if has_cron:
        children["cron"] = {"state": "stopped" if draining else "running"}
    well = True
    for supervisor in supervisors:
        well = well and supervisor.is_well
        children[supervisor.name] = {"state": supervisor.state.value}
    status = "draining" if draining else "ok" if well else "degraded"
    return status == "ok", {"status": status, "agent": name, "children": children}
