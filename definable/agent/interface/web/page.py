"""The page's own files, the same for everybody: the page with its settings, its scripts and styles, the widget."""

from __future__ import annotations

import hashlib
from functools import cache
from html import escape
from pathlib import Path

from definable.agent.interface.message import IMAGE_TYPES
from definable.agent.trigger.request import RawRequest, Reply
from definable.json_text import json_bytes

from .config import WebConfig

ASSETS = {
    "app.js": "text/javascript; charset=utf-8",
    "connection.js": "text/javascript; charset=utf-8",
    "markdown.js": "text/javascript; charset=utf-8",
    "widget.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def static(request: RawRequest, content: bytes, content_type: str, headers: dict[str, str]) -> Reply:
    """A file that is the same for everybody; 304 where the browser has it."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    own = {"ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **headers}
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return Reply(None, 304, own) if etag in known else Reply(content, headers={"Content-Type": content_type, **own})


def policy(config: WebConfig) -> dict[str, str]:
    """What the page may do: load its own files, talk to this service, and stand in frames of the allowed origins."""
    ancestors = " ".join(("'self'", *config.allowed_origins))
    rules = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; "
        f"trusted-types 'none'; frame-ancestors {ancestors}"
    )
    return {"Content-Security-Policy": rules, "Referrer-Policy": "no-referrer"}


@cache
def asset_of(name: str) -> bytes:
    """One of the package's own files."""
    return (Path(__file__).with_name("assets") / name).read_bytes()


def page_of(config: WebConfig) -> bytes:
    """The page, with what it must know of its settings."""
    settings = {
        "title": config.title,
        "greeting": config.greeting,
        "labels": dict(config.labels),
        "origins": list(config.allowed_origins),
        "maxLength": config.max_input_length,
        "maxImages": config.max_images,
        "maxUpload": config.max_upload_bytes,
        "imageTypes": sorted(IMAGE_TYPES),
    }
    values = {
        "language": config.language,
        "title": config.title,
        "folder": config.path.rpartition("/")[2],
        "settings": json_bytes(settings).decode(),
    }
    text = asset_of("page.html").decode()
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", escape(value))
    return text.encode()
