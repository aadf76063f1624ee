"""API keys: text, secrets, or functions that return one. Each model of a provider has one source."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from definable.concurrency.call import call_user
from definable.errors import ConfigurationError, ModelAuthenticationError

if TYPE_CHECKING:
    from pydantic import SecretStr

APIKey: TypeAlias = "str | SecretStr | Callable[[], str | SecretStr | Awaitable[str | SecretStr]]"
"""A key, or a sync or async function that returns it: tokens that live for a while."""

NO_KEY = "none"
"""What is sent to a server that needs no key."""


class KeySource:
    """Where the key of one model comes from.

    Args:
        key: What the user gave; None: the environment variable, when it is needed.
        variable: The provider's environment variable.
        model: The model's id, for messages.
        class_name: What takes `api_key=`, for messages.
        is_needed: Whether the provider wants one.

    Raises:
        ConfigurationError: `key` is neither text nor a secret nor a function.
    """

    def __init__(
        self, key: APIKey | None, variable: str, model: str, class_name: str, *, is_needed: bool = True
    ) -> None:
        if not (key is None or callable(key) or _is_text(key)):
            kind = type(key).__name__
            raise ConfigurationError(f"api_key is text, a SecretStr or a function that returns one, not {kind}")
        self._key = key
        self._variable = variable
        self._model = model
        self._class_name = class_name
        self._is_needed = is_needed

    @property
    def is_there(self) -> bool:
        """Whether there is a key, or none is needed."""
        return callable(self._key) or bool(self._fixed())

    def check(self) -> None:
        """See whether a key that no function gives is there, and can be sent.

        Raises:
            ModelAuthenticationError: It is not.
        """
        if not callable(self._key):
            self._checked(self._fixed())

    async def read(self) -> str:
        """Return the key for the next request.

        Raises:
            ModelAuthenticationError: There is none, or none that can be sent.
        """
        return self._checked(await self._asked(self._key) if callable(self._key) else self._fixed())

    def _fixed(self) -> str:
        key = _revealed(self._key or os.environ.get(self._variable, ""))
        return key if key or self._is_needed else NO_KEY

    async def _asked(self, function: Callable[[], Any]) -> str:
        try:
            key = await call_user(function)
        except Exception as error:
            raise ModelAuthenticationError(
                f"the function that gives the API key for {self._model} failed: {type(error).__name__}: {error}"
            ) from error
        if not _is_text(key):
            kind = type(key).__name__
            raise ModelAuthenticationError(
                f"the function that gives the API key for {self._model} returned no text: {kind}"
            )
        return _revealed(key)

    def _checked(self, key: str) -> str:
        if not key:
            raise ModelAuthenticationError(
                f"no API key for {self._model}: set {self._variable}, or pass api_key= to {self._class_name} (a server "
                "that needs no key takes any text)"
            )
        if not (key.isascii() and key.isprintable()):
            raise ModelAuthenticationError(f"the API key for {self._model} holds a character that no header can carry")
        return key


def _is_text(key: object) -> bool:
    return isinstance(key, str) or hasattr(key, "get_secret_value")


def _revealed(key: Any) -> str:
    text: str = key if isinstance(key, str) else key.get_secret_value()
    return text.strip()  # what comes from a file may end in a line break
