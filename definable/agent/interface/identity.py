"""One person on several platforms: the protocol of whatever knows that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .sqlite_identity import SQLiteIdentityResolver

__all__ = ["PlatformIdentity", "IdentityResolver", "SQLiteIdentityResolver"]

__getattr__: GetAttribute = lazy_exports("definable.agent.interface", {"SQLiteIdentityResolver": ".sqlite_identity"})


class PlatformIdentity(tuple[str, str]):
    """A platform's user who is linked to a canonical user; as a tuple the platform and the platform's user.

    Args:
        platform: `"telegram"`.
        platform_user_id: As the platform knows the user.
        canonical_user_id: Whom the user is linked to.
        username: The user's name there, where it was given.
        linked_at: Unix seconds.
    """

    def __new__(
        cls,
        platform: str,
        platform_user_id: str,
        canonical_user_id: str = "",
        username: str | None = None,
        linked_at: float = 0.0,
    ) -> PlatformIdentity:
        identity = super().__new__(cls, (platform, platform_user_id))
        identity.canonical_user_id = canonical_user_id
        identity.username = username
        identity.linked_at = linked_at
        return identity

    canonical_user_id: str
    username: str | None
    linked_at: float

    @property
    def platform(self) -> str:
        """`"telegram"`."""
        return self[0]

    @property
    def platform_user_id(self) -> str:
        """As the platform knows the user."""
        return self[1]

    def __repr__(self) -> str:
        return f"PlatformIdentity({self[0]!r}, {self[1]!r}, {self.canonical_user_id!r})"


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

    async def link(
        self, platform: str, platform_user_id: str, canonical_user_id: str, username: str | None = None
    ) -> None:
        """Let the platform's user be this canonical user from now on; `username` is kept for whoever reads it."""
        ...

    async def unlink(self, platform: str, platform_user_id: str) -> bool:
        """Take back a link; False when there was none."""
        ...

    async def get_identities(self, canonical_user_id: str) -> Sequence[tuple[str, str]]:
        """The (platform, platform user) pairs that are linked to a canonical user, maybe as `PlatformIdentity`s."""
        ...
