"""The OpenAPI document: valid, complete, and honest about who may call what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from definable.agent import Agent
from definable.agent.auth import (
    AllowlistAuth,
    APIKeyAuth,
    AuthContext,
    AuthProvider,
    AuthRequest,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
    SlackSignature,
    StandardWebhookSignature,
    StripeSignature,
)
from definable.agent.runtime.http.openapi import openapi_document
from definable.agent.runtime.http.routes import OPERATIONS
from definable.agent.trigger import TriggerEvent, Webhook
from definable.agent.trigger.registry import BUILT_IN_PATHS
from definable.testing import served

KEY, SECRET = "a-long-random-key", "s" * 32
SIGNING = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class HouseRules:
    """A provider of somebody's own."""

    def __repr__(self) -> str:
        return "HouseRules()"

    def authenticate(self, request: AuthRequest) -> AuthContext | None:
        return None


def webhook(path: str, handler: Any = str, **options: Any) -> Webhook:
    made = Webhook(path, **options)
    made.handler = handler
    return made


def order(event: TriggerEvent) -> str:
    """Take an order.

    It is made the same day.
    """
    return "order"


WEBHOOKS = [
    webhook("/orders/{shop}", order),
    webhook("/orders/{number}", method="GET"),
    webhook("/orders-{shop}", method="PUT", respond="accept", dedupe="X-Delivery"),
    webhook("/orders/shop", lambda event: None, method="PATCH", dedupe=lambda event: "1", auth=False),
    webhook("/signed", auth=GitHubSignature("secret")),
    webhook("/own", method="DELETE", auth=HouseRules()),
]

PROVIDERS: list[AuthProvider | None] = [
    None,
    APIKeyAuth(KEY),
    JWTAuth(SECRET),
    CompositeAuth(APIKeyAuth(KEY, header="X-Key"), APIKeyAuth(KEY), CompositeAuth(JWTAuth(SECRET), HouseRules())),
    AllowlistAuth({"7"}),
    GitHubSignature("secret"),
]


# --- the document alone


@pytest.mark.parametrize("provider", PROVIDERS, ids=repr)
@pytest.mark.parametrize("webhooks", [[], WEBHOOKS], ids=["no webhooks", "webhooks"])
def test_it_is_valid(provider: AuthProvider | None, webhooks: list[Webhook]) -> None:
    document = openapi_document("agent", webhooks, provider, root_path="/mounted")
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    for name, schema in document["components"]["schemas"].items():
        OAS31Validator.check_schema(schema)
        assert schema.get("description"), name


def test_it_names_the_service_and_where_it_is_mounted() -> None:
    assert openapi_document("Weather Desk")["info"]["title"] == "Weather Desk"
    assert openapi_document("agent")["servers"] == [{"url": "/"}]
    assert openapi_document("agent", root_path="/the weather/")["servers"] == [{"url": "/the%20weather"}]


def test_every_built_in_path_is_in_it() -> None:
    assert set(openapi_document("agent")["paths"]) == set(BUILT_IN_PATHS) - {"/docs", "/openapi.json"}
    assert {operation.path for operation in OPERATIONS} == set(BUILT_IN_PATHS)


def test_the_guide_lists_the_endpoints() -> None:
    guide = Path(__file__).parents[4].joinpath("docs", "http.md").read_text()
    for operation in OPERATIONS:
        summary = f"{operation.summary} (`dev=True`)" if operation.is_for_development else operation.summary
        need = "read" if operation.method == "GET" else "run"
        who = "everybody" if operation.is_public else f"whoever `agent.auth` lets {need}"
        assert f"\n| {operation.method} | `{operation.path}` | {summary} | {who} |\n" in guide
    assert guide.count("\n| GET | `") + guide.count("\n| POST | `") + guide.count("\n| DELETE | `") == len(OPERATIONS)


def test_webhooks_on_one_path_are_one_item_whatever_their_parameters_are_called() -> None:
    paths = openapi_document("agent", WEBHOOKS)["paths"]
    assert set(paths["/orders/{shop}"]) == {"post", "get"}
    assert "/orders/{number}" not in paths
    assert [each["name"] for each in paths["/orders/{shop}"]["get"]["parameters"]] == ["shop"]
    assert [each["name"] for each in paths["/orders-{shop}"]["put"]["parameters"]] == ["shop", "X-Delivery"]


def test_operations_have_names_of_their_own() -> None:
    paths = openapi_document("agent", [*WEBHOOKS, webhook("/orders_{shop}", method="PUT")])["paths"]
    names = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(names) == len(set(names))
    assert {"run", "health", "post_orders_shop", "put_orders_shop", "put_orders_shop_2"} <= set(names)


def test_a_handler_speaks_for_its_webhook() -> None:
    paths = openapi_document("agent", WEBHOOKS)["paths"]
    operation = paths["/orders/{shop}"]["post"]
    assert (operation["summary"], operation["description"]) == ("Take an order.", "It is made the same day.")
    assert paths["/orders/shop"]["patch"]["summary"] == "<lambda>"


def test_only_what_can_have_a_body_has_one() -> None:
    paths = openapi_document("agent", WEBHOOKS)["paths"]
    assert "requestBody" in paths["/orders/{shop}"]["post"]
    assert "requestBody" not in paths["/orders/{shop}"]["get"]
    assert "requestBody" not in paths["/own"]["delete"]


EVERYWHERE = {"403", "421", "500", "503"}

STATUSES = {
    "run": "200 202 400 404 408 409 413 415 422 502 504",
    "list_runs": "200 422",
    "show_run": "200 404",
    "cancel_run": "202 404 409",
    "follow_run": "200 204 400 404 413",
    "show_session": "200 404 409",
    "forget_session": "204 404 409",
    "post_orders_shop": "200 400 404 408 409 413 415 502 504 default",
    "put_orders_shop": "200 202 400 408 413 415",
    "post_later": "202 400 408 413 415",
}


def test_an_operation_says_what_it_may_be_answered() -> None:
    webhooks = [*WEBHOOKS, webhook("/later", respond="accept")]
    for provider in (None, APIKeyAuth(KEY)):
        document = openapi_document("agent", webhooks, provider)
        operations = {each["operationId"]: each for item in document["paths"].values() for each in item.values()}
        found = {name: set(operations[name]["responses"]) for name in STATUSES}
        known = set[str]() if provider is None else {"401"}
        for name, statuses in STATUSES.items():
            assert found[name] == {*statuses.split(), *EVERYWHERE, *known}, name
        assert set(operations["health"]["responses"]) == {"200", "503"}


def test_a_guard_that_judges_the_body_may_refuse_it() -> None:
    document = openapi_document("agent", auth=GitHubSignature("secret"))
    assert {"401", "408", "413"} <= set(document["paths"]["/runs"]["get"]["responses"])


def test_an_error_is_a_problem_with_the_headers_that_help() -> None:
    responses = openapi_document("agent")["components"]["responses"]
    assert {name: set(each.get("headers", ())) for name, each in responses.items() if "headers" in each} == {
        "Problem401": {"WWW-Authenticate"},
        "Problem503": {"Retry-After"},
    }
    for each in responses.values():
        assert each["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


# --- who may call what


def test_an_open_agent_asks_for_nothing() -> None:
    document = openapi_document("agent")
    assert document["components"]["securitySchemes"] == {}
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["security"] == []
            assert "401" not in operation["responses"]


@pytest.mark.parametrize(
    ("provider", "schemes"),
    [
        (APIKeyAuth(KEY, header="X-Key"), {"api_key": ("apiKey", "X-Key")}),
        (JWTAuth(SECRET), {"jwt": ("http", None)}),
        (GitHubSignature("x"), {"github_signature": ("apiKey", "X-Hub-Signature-256")}),
        (SlackSignature("x"), {"slack_signature": ("apiKey", "X-Slack-Signature")}),
        (StripeSignature("x"), {"stripe_signature": ("apiKey", "Stripe-Signature")}),
        (StandardWebhookSignature(SIGNING), {"standard_webhooks_signature": ("apiKey", "webhook-signature")}),
        (HouseRules(), {"authorization": ("apiKey", "Authorization")}),
        (CompositeAuth(AllowlistAuth({"7"}), JWTAuth(SECRET)), {"jwt": ("http", None)}),
        (CompositeAuth(CompositeAuth(AllowlistAuth({"7"})), JWTAuth(SECRET)), {"jwt": ("http", None)}),
        (CompositeAuth(AllowlistAuth({"7"}), AllowlistAuth({"8"})), {"authorization": ("apiKey", "Authorization")}),
        (
            CompositeAuth(APIKeyAuth(KEY), APIKeyAuth(KEY, "X-Key")),
            {"api_key": ("apiKey", "X-API-Key"), "api_key_2": ("apiKey", "X-Key")},
        ),
    ],
    ids=repr,
)
def test_a_provider_is_a_security_scheme(provider: AuthProvider, schemes: dict[str, tuple[str, str | None]]) -> None:
    document = openapi_document("agent", auth=provider)
    found = document["components"]["securitySchemes"]
    assert {name: (scheme["type"], scheme.get("name")) for name, scheme in found.items()} == schemes
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["security"] == ([] if path == "/health" else [{name: []} for name in schemes])
            assert ("401" in operation["responses"]) == (path != "/health")


def test_a_webhook_has_its_own_guard() -> None:
    document = openapi_document("agent", WEBHOOKS, APIKeyAuth(KEY))
    paths = document["paths"]
    assert paths["/orders/{shop}"]["post"]["security"] == [{"api_key": []}]
    assert paths["/orders/shop"]["patch"]["security"] == []
    assert "401" not in paths["/orders/shop"]["patch"]["responses"]
    assert paths["/signed"]["post"]["security"] == [{"github_signature": []}]
    assert paths["/own"]["delete"]["security"] == [{"authorization": []}]


@pytest.mark.anyio
async def test_auth_that_is_set_late_is_shown() -> None:
    agent = Agent("offline", name="desk")
    async with served(agent, dev=True, name="Weather Desk") as service:
        assert (await service.client.get("/openapi.json")).json()["components"]["securitySchemes"] == {}
        agent.auth = APIKeyAuth(KEY)
        document = (await service.client.get("/openapi.json")).json()
    assert set(document["components"]["securitySchemes"]) == {"api_key"}
    assert document["info"]["title"] == "Weather Desk"
