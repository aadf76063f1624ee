"""One person on several platforms: the protocol of whatever knows that."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class IdentityResolver(Protocol):
    """Maps a platform's user to one canonical user.

    May be shared by interfaces: `initialize` and `close` are called in pairs, once for each.
    """

    async def initialize(self) -> None:
        """Prepare for use."""
        ...

    async def close(self) -> None:
        """Let go of what `initialize` took."""
        ...

    async def resolve(self, platform: str, platform_user_id: str) -> str | None:
        """The canonical user; None when the platform's user is not linked to one."""
        ...

    async def link(self, platform: str, platform_user_id: str, canonical_user_id: str) -> None:
        """Let the platform's user be this canonical user from now on."""
        ...

    async def unlink(self, platform: str, platform_user_id: str) -> bool:
        """Take back a link; False when there was none."""
        ...

    async def get_identities(self, canonical_user_id: str) -> list[tuple[str, str]]:
        """The (platform, platform user) pairs that are linked to a canonical user."""
        ...
