"""The server's limits."""

import pytest

from definable.server import ServerLimits


@pytest.mark.parametrize("name", ["max_connections", "write_timeout", "max_header_bytes"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be more than 0, not {value}"):
        ServerLimits(**{name: value})


def test_the_defaults_are_the_documented_ones():
    assert ServerLimits() == ServerLimits(
        max_connections=10_000,
        max_header_bytes=65_536,
        header_timeout=30,
        keep_alive_timeout=75,
        write_timeout=30,
        max_streams=100,
        max_message_bytes=16_777_216,
    )
