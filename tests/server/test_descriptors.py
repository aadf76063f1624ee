"""How many connections the system's limit of descriptors allows, and that it is raised as far as it may be."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets are no descriptors there")

PROGRAM = """
import resource, sys
from definable.server import connections_within_descriptors
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(connections_within_descriptors(wanted), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""

LIMITS = {
    "systemd's": (1024, 4096, 1000, 1000, 2064),
    "the hard one is too low": (256, 1024, 10_000, 480, 1024),
    "more than half": (1024, 20_000, 10_000, 10_000, 11_600),
    "enough": (4096, 4096, 100, 100, 4096),
    "next to nothing": (60, 60, 10_000, 1, 60),
}
"""The soft and the hard limit, connections that are wanted, and those that there may be, with the limit then."""


@pytest.mark.parametrize(("soft", "hard", "wanted", "allowed", "raised"), LIMITS.values(), ids=LIMITS)
def test_connections_leave_descriptors_to_the_service(soft, hard, wanted, allowed, raised):
    """In a process of its own: a hard limit that was lowered stays."""
    command = [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, wanted))]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert answer.stdout.split() == [str(allowed), str(raised)]
