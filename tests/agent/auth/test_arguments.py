"""What a provider cannot be made of is refused where it is given, in one line that says what it takes."""

from collections.abc import Callable
from typing import Any

import pytest

from definable.agent.auth import (
    AllowlistAuth,
    APIKey,
    APIKeyAuth,
    CompositeAuth,
    GitHubSignature,
    JWTAuth,
    SlackSignature,
    StandardWebhookSignature,
    StripeSignature,
)
from definable.errors import ConfigurationError

WRONG: list[Any] = [None, 5, 1.5, b"bytes", [], {}, {5: "x"}, [5], [None], Ellipsis, "", [""], True, int]

S = "s" * 32
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

TAKES_TEXT: dict[str, Callable[[Any], object]] = {
    "APIKeyAuth(keys)": APIKeyAuth,
    "APIKeyAuth(header)": lambda value: APIKeyAuth("k", header=value),
    "APIKeyAuth({name: key})": lambda value: APIKeyAuth({"name": value}),
    "APIKeyAuth({name})": lambda value: APIKeyAuth({value if value.__hash__ else "": "k"}),
    "APIKey": APIKey,
    "APIKey(scopes)": lambda value: APIKey("k", scopes=value),
    "CompositeAuth": CompositeAuth,
    **{kind.__name__: kind for kind in (GitHubSignature, SlackSignature, StripeSignature, StandardWebhookSignature)},
}


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", TAKES_TEXT)
def test_what_is_no_text_is_refused(name: str, value: Any) -> None:
    if name == "APIKeyAuth({name})" and value is None:
        return  # a key without a name
    with pytest.raises(ConfigurationError, match=name.partition("(")[0]):
        TAKES_TEXT[name](value)


TIMED = [
    lambda **options: SlackSignature(S, **options),
    lambda **options: StripeSignature(S, **options),
    lambda **options: StandardWebhookSignature(WHSEC, **options),
]


@pytest.mark.parametrize("make", TIMED)
@pytest.mark.parametrize(
    "options",
    [
        *[{"tolerance": value} for value in ("300", None, 0, -1, float("nan"), True, [])],
        *[{"clock": value} for value in (None, 5, "now")],
    ],
    ids=repr,
)
def test_a_tolerance_is_seconds_and_a_clock_a_function(make: Callable[..., object], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        *[{"secret": value} for value in (None, 5, "", b"", [S, 5], [], "  ", True)],
        *[{"algorithm": value} for value in ("none", "HS1", [], ["HS256", None], 5, "")],
        *[{"audience": value} for value in (5, "", [], [5], [""])],
        *[{"issuer": value} for value in (5, "", [], [None], [""])],
    ],
    ids=repr,
)
def test_a_token_s_verifier_is_made_of_a_secret_and_names(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"JWTAuth\({next(iter(options))}="):
        JWTAuth(**{"secret": S, **options})


@pytest.mark.parametrize(
    "url", ["https://tenant.auth0.com/.well-known/jwks.json", " HTTP://idp/certs", b"https://idp/x"]
)
@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_the_url_of_a_key_set_is_no_secret(url: Any, algorithm: str) -> None:
    with pytest.raises(ConfigurationError, match=r"this is a URL.*jwks_url.*public key in PEM"):
        JWTAuth(url + (b"x" if isinstance(url, bytes) else "x") * 64, algorithm)


@pytest.mark.parametrize("argument", ["user_ids", "chat_ids", "platforms"])
@pytest.mark.parametrize("value", [5.5, Ellipsis, [5.5], [None], [""], True, int, b"7", {"7": "ann"}], ids=repr)
def test_a_list_is_made_of_ids(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"AllowlistAuth\({argument}="):
        AllowlistAuth(**{"user_ids": {"7"}, argument: value})
    with pytest.raises(ConfigurationError, match="user_ids"):
        AllowlistAuth(None)  # pyright: ignore[reportArgumentType]
