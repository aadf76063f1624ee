"""Who is calling: authentication providers for HTTP and for messaging interfaces, signature verifiers for webhooks."""

from typing import TYPE_CHECKING

from definable.lazy_exports import GetAttribute, lazy_exports

if TYPE_CHECKING:
    from .base import AuthContext, AuthProvider, AuthRequest
    from .jwt import JWTAuth
    from .providers import AllowlistAuth, APIKey, APIKeyAuth, CompositeAuth
    from .signature import (
        GitHubSignature,
        MetaSignature,
        ShopifySignature,
        SlackSignature,
        StandardWebhookSignature,
        StripeSignature,
        TwilioSignature,
        ZoomSignature,
    )

__all__ = [
    "AuthProvider",
    "AuthContext",
    "AuthRequest",
    "APIKey",
    "APIKeyAuth",
    "JWTAuth",
    "AllowlistAuth",
    "CompositeAuth",
    "GitHubSignature",
    "StandardWebhookSignature",
    "SlackSignature",
    "StripeSignature",
    "MetaSignature",
    "ShopifySignature",
    "TwilioSignature",
    "ZoomSignature",
]

__getattr__: GetAttribute = lazy_exports(
    __name__,
    {
        "AuthProvider": ".base",
        "AuthContext": ".base",
        "AuthRequest": ".base",
        "APIKey": ".providers",
        "APIKeyAuth": ".providers",
        "JWTAuth": ".jwt",
        "AllowlistAuth": ".providers",
        "CompositeAuth": ".providers",
        "GitHubSignature": ".signature",
        "StandardWebhookSignature": ".signature",
        "SlackSignature": ".signature",
        "StripeSignature": ".signature",
        "MetaSignature": ".signature",
        "ShopifySignature": ".signature",
        "TwilioSignature": ".signature",
        "ZoomSignature": ".signature",
    },
)
