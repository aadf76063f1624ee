"""What this service is and how it is: `/health`, `/openapi.json` for programs, `/docs` for people.

`/docs` is Swagger UI, from the files that the package flask-swagger-ui carries. Each file that the page needs has an
address of its own: no path that a client sends ever leads to the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.util import find_spec
from pathlib import Path

from definable.agent.runtime.http.request import EndpointContext, Request
from definable.agent.runtime.http.response import Response, json_response
from definable.errors import ConfigurationError

NOT_STORED = (b"cache-control", b"no-store")


async def health(context: EndpointContext, request: Request) -> Response:
    """200 while all is well, 503 while draining or when a child is down."""
    is_well, document = context.health()
    return json_response(document, 200 if is_well else 503, [NOT_STORED])


async def show_openapi(context: EndpointContext, request: Request) -> Response:
    """The OpenAPI document, made anew for every request: `agent.auth` may be set late."""
    return json_response(context.openapi(request.scope.get("root_path", "")), headers=[NOT_STORED])


async def show_docs(context: EndpointContext, request: Request) -> Response:
    """Swagger UI's page."""
    page = PAGE.format(name=escape(context.name)).encode()
    return await StaticFile(b"text/html; charset=utf-8", page)(request)


PACKAGE = "flask_swagger_ui"

FILES = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
"""Swagger UI's files that the page loads, with their content types."""

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
"""All addresses are relative: the service may be mounted anywhere."""

START = b"""\
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  validatorUrl: null,
  deepLinking: true,
  displayRequestDuration: true,
});
"""

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and talks to this service alone (Content Security Policy Level 3)."""


@dataclass(frozen=True)
class StaticFile:
    """A file that does not change while the service runs."""

    content_type: bytes
    body: bytes

    @cached_property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Also those of a response without the body (RFC 9110, 15.4.5)."""
        return [
            (b"etag", b'"%b"' % hashlib.sha256(self.body).hexdigest()[:32].encode()),
            (b"cache-control", b"no-cache"),
            (b"content-security-policy", POLICY),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, request: Request) -> Response:
        etag = self.headers[0][1].decode()
        known = request.headers.get("if-none-match", "").split(",")
        if any(each.strip().removeprefix("W/") == etag for each in known):
            return Response(b"", 304, headers=self.headers)
        return Response(self.body, content_type=self.content_type, headers=self.headers)


def docs_files() -> Iterator[tuple[str, StaticFile]]:
    """What the page loads, by path, but for the OpenAPI document.

    Raises:
        ConfigurationError: Swagger UI's files are not installed.
    """
    folder = installed_folder()
    yield "/docs/start.js", StaticFile(b"text/javascript; charset=utf-8", START)
    for file, content_type in FILES.items():
        yield f"/docs/{file}", StaticFile(content_type, (folder / file).read_bytes())


def installed_folder() -> Path:
    """Where Swagger UI's files are. Their package is found, not imported: it would bring Flask along.

    Raises:
        ConfigurationError: They are not installed.
    """
    package = find_spec(PACKAGE)
    folder = None if package is None or package.origin is None else Path(package.origin).with_name("dist")
    if folder is None or not all((folder / file).is_file() for file in FILES):
        raise ConfigurationError("the files of /docs are missing: pip install --force-reinstall flask-swagger-ui")
    return folder
