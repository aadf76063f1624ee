"""Model strings: `"openai/gpt-4o"` or `"offline"` to a `Model`. `Agent` and the command line call it."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError
from .message import Model
from .offline import OfflineModel
from .openai.model import OpenAIChat

PROVIDERS: dict[str, Callable[[str], Model]] = {"openai": OpenAIChat}
"""Provider name to a constructor that takes the model's id."""

MEMBERS = ("id", "reply", "stream", "aclose")
"""What the `Model` protocol asks for."""

_KNOWN = ", ".join([*(f'"{name}/<id>"' for name in PROVIDERS), '"offline"'])


def resolve_model(model: Model | str) -> Model:
    """Return the model that a string names; a `Model` is returned as it is.

    Args:
        model: A `Model`, `"provider/id"` (the id may hold slashes itself), `"offline"`, or an id alone, which is one of
            OpenAI's.

    Raises:
        ConfigurationError: No such provider, an empty id, or something that is no model.
    """
    if isinstance(model, str):
        return _from_string(model)
    # isinstance() with the protocol costs more than the rest of an agent's construction; and a class has all that the
    # protocol asks for, unbound: only an instance will do.
    if isinstance(model, type) or [name for name in MEMBERS if not hasattr(model, name)]:
        raise ConfigurationError(f"a model is a Model instance or one of {_KNOWN}, not {model!r}")
    return model


def _from_string(name: str) -> Model:
    if name == OfflineModel.id:
        return OfflineModel()
    provider, slash, model_id = name.partition("/")
    if provider in PROVIDERS and model_id:
        return PROVIDERS[provider](model_id)
    if not slash and name.strip() and name.strip().lower() not in (*PROVIDERS, OfflineModel.id):
        return OpenAIChat(name)
    raise ConfigurationError(
        f"unknown model {name!r}: it is one of {_KNOWN}; other providers are reached by their OpenAI-compatible API, "
        "OpenAIChat(id, base_url=..., api_key=...)"
    )
