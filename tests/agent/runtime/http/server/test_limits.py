"""The server's limits."""

import pytest

from definable.agent.runtime.http.server import ServerLimits


@pytest.mark.parametrize("name", ["max_connections", "write_timeout", "max_header_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be more than 0, not {value}"):
        ServerLimits(**{name: value})


def test_the_defaults_are_the_documented_ones():
    limits = ServerLimits()
    assert (limits.max_connections, limits.max_header_bytes) == (10_000, 65_536)
