"""Model strings, and what `definable.model` exports."""

from __future__ import annotations

from typing import Any

import pytest

import definable.model
from definable.errors import ConfigurationError
from definable.model import OfflineModel, OpenAIChat, resolve_model


def test_strings_name_models() -> None:
    assert isinstance(resolve_model("offline"), OfflineModel)
    model = resolve_model("openai/gpt-4o")
    assert isinstance(model, OpenAIChat) and model.id == "gpt-4o"
    assert resolve_model("openai/meta-llama/llama-3").id == "meta-llama/llama-3"


def test_a_model_is_taken_as_it_is() -> None:
    model = OfflineModel()
    assert resolve_model(model) is model


def test_an_id_alone_is_one_of_openais() -> None:
    model = resolve_model("gpt-4o-mini")
    assert isinstance(model, OpenAIChat) and model.id == "gpt-4o-mini"


@pytest.mark.parametrize("name", ["acme/gpt", "openai", "openai/", "/gpt", "", " ", "offline/x", "Offline", "OpenAI"])
def test_other_strings_are_refused_with_what_exists(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r'"anthropic/<id>", .*"openai/<id>", .*"offline"'):
        resolve_model(name)


@pytest.mark.parametrize("model", [None, 7, OfflineModel, OpenAIChat, object()])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ConfigurationError, match="a model is"):
        resolve_model(model)


def test_all_names_what_is_there() -> None:
    assert len(set(definable.model.__all__)) == len(definable.model.__all__)
    for name in set(definable.model.__all__) - {"FinishReason", "OutputMode"}:  # types by other names
        assert getattr(definable.model, name).__module__.startswith("definable.model")
