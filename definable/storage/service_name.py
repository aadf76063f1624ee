"""Whose rows or keys are meant, where services share a server."""

from __future__ import annotations

from urllib.parse import quote

from definable.errors import ConfigurationError, StorageError

DEFAULT_NAME = "definable"
"""Followed by the agent's name where it has one."""


class ServerAway(StorageError):
    """A server cannot be reached, or does not answer: whether it did what it was asked to is not known."""


class ServiceName:
    """A name that keeps services apart which share a server; it follows the agent's name where none is given.

    Args:
        given: The user's choice; None to follow the agent's name.
        owner: What has the rows or keys, for errors.
        option: The argument in which the user gives it, for errors.

    Raises:
        ConfigurationError: The name is empty or cannot be printed.
    """

    def __init__(self, given: str | None, owner: str, option: str) -> None:
        if given is not None and not (given and given.isprintable()):
            raise ConfigurationError(f"{option}={given!r}: not empty, and of characters that can be printed")
        self._given = given
        self._owner, self._option = owner, option
        self._agents: set[str | None] = set()

    def __str__(self) -> str:
        return self._given or next((f"{DEFAULT_NAME}:{quote(name)}" for name in self._agents if name), DEFAULT_NAME)

    def follow(self, agent: str | None) -> None:
        """Follow an agent's name, None where it was given none.

        Raises:
            ConfigurationError: Agents of several names share it, and nobody said under which name.
        """
        if self._given is None and self._agents - {agent}:
            names = " and ".join(sorted(repr(name) if name else "no name" for name in {*self._agents, agent}))
            raise ConfigurationError(
                f"{self._owner} is shared by agents of several names ({names}): give it a {self._option}="
            )
        self._agents.add(agent)
