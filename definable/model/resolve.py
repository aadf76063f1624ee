"""Model strings: `"openai/gpt-4o"` or `"offline"` to a `Model`. `Agent` and the command line call it.

Another package's provider is found by its entry point in the group `definable.models`: its name stands before the
slash, and what it loads is called with the model's id.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..errors import ConfigurationError
from .anthropic.model import Claude
from .message import Model
from .offline import OfflineModel
from .openai.model import OpenAIChat
from .openai.profiles import PROVIDERS as COMPATIBLE

ENTRY_POINTS = "definable.models"

PROVIDERS: dict[str, Callable[[str], Model]] = {
    **{name: partial(OpenAIChat, profile=name) for name in COMPATIBLE},
    "anthropic": Claude,
    "openai": OpenAIChat,
}
"""Our own, in a table: they need no installed metadata, nor a look through all distributions."""

MEMBERS = ("id", "reply", "stream", "aclose")
"""What the `Model` protocol asks for."""


def resolve_model(model: Model | str) -> Model:
    """Return the model that a string names; a `Model` is returned as it is.

    Args:
        model: A `Model`, `"provider/id"` (the id may hold slashes itself), `"offline"`, or an id alone, which is one of
            OpenAI's.

    Raises:
        ConfigurationError: No such provider, an empty id, or something that is no model.
    """
    if isinstance(model, str):
        model = _from_string(model)
    # isinstance() with the protocol costs more than the rest of an agent's construction; and a class has all that the
    # protocol asks for, unbound: only an instance will do.
    if isinstance(model, type) or not all(hasattr(model, name) for name in MEMBERS):
        raise ConfigurationError(f"a model is a Model instance or one of {_known()}, not {model!r}")
    return model


def _from_string(name: str) -> Model:
    if name == OfflineModel.id:
        return OfflineModel()
    provider, slash, model_id = name.partition("/")
    if provider and model_id and (make := PROVIDERS.get(provider) or _installed(provider)):
        return make(model_id)
    if not slash and name.strip() and name.strip().lower() not in (*PROVIDERS, OfflineModel.id):
        return OpenAIChat(name)
    raise ConfigurationError(
        f"unknown model {name!r}: it is one of {_known()}; other providers are reached by their OpenAI-compatible API, "
        f"OpenAIChat(id, base_url=..., api_key=...), or by a package with an entry point in {ENTRY_POINTS!r}"
    )


def _installed(provider: str) -> Callable[[str], Model] | None:
    """Another package's provider; None where none is installed."""
    from importlib.metadata import entry_points  # takes longer to import than all of `definable.model`

    for entry in entry_points(group=ENTRY_POINTS, name=provider):
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"the model provider {provider!r} ({entry.value}) fails to load: {error}"
            ) from error
    return None


def _known() -> str:
    from importlib.metadata import entry_points  # see `_installed`

    names = sorted({*PROVIDERS, *entry_points(group=ENTRY_POINTS).names})
    return ", ".join([*(f'"{name}/<id>"' for name in names), '"offline"'])
