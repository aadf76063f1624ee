"""Names within the OpenAPI document: no two alike."""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import chain, count

from definable.agent.trigger.webhook import Webhook


def unused(stem: str, taken: Container[str]) -> str:
    """The stem, with a number when it is taken."""
    candidates = chain([stem], (f"{stem}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def operation_stem(webhook: Webhook) -> str:
    """What a webhook's operation is called: `post_github_repo` for `POST /github/{repo}`."""
    return "_".join([webhook.method.lower(), *re.findall("[A-Za-z0-9]+", webhook.path)])
