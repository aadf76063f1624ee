"""`/docs`: Swagger UI from the package's own dependencies, in dev mode alone."""

from __future__ import annotations

import re
import subprocess
import sys

import anyio
import httpx2
import pytest

from definable.agent import Agent
from definable.agent.auth import APIKeyAuth
from definable.agent.runtime.http.endpoints import service as docs
from definable.errors import ConfigurationError
from definable.testing import served

PATHS = [
    ("/docs", "text/html; charset=utf-8", "<title>"),
    ("/docs/start.js", "text/javascript; charset=utf-8", "SwaggerUIBundle({"),
    ("/docs/swagger-ui.css", "text/css; charset=utf-8", ".swagger-ui"),
    ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8", "SwaggerUIBundle"),
    ("/docs/favicon-32x32.png", "image/png", "PNG"),
]

TRICKS = [
    "/docs/",
    "/docs/..",
    "/docs/../docs.py",
    "/docs/..%2f__init__.py",
    "/docs/..%2F..%2F..%2Fetc%2Fpasswd",
    "/docs/%2e%2e/__init__.py",
    "/docs/%2e%2e%2f%5f_init__.py",
    "/docs/..%5c__init__.py",
    "/docs/..%252f__init__.py",
    "/docs/%2fetc%2fpasswd",
    "/docs//etc/passwd",
    "/docs/swagger-ui.css%00.png",
    "/docs/swagger-ui.css/",
    "/docs/./swagger-ui.css",
    "/docs/swagger-ui.css/../../__init__.py",
    "/docs/SWAGGER-UI.CSS",
    "/docs/index.css",
    "/docs/dist/swagger-ui.css",
]


async def get(url: str, target: str) -> bytes:
    """The response to a request target that is sent as it is written: a client would tidy it up."""
    host = httpx2.URL(url)
    async with await anyio.connect_tcp("127.0.0.1", host.port or 0) as stream:
        await stream.send(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        return b"".join([chunk async for chunk in stream])


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "content_type", "content"), PATHS)
async def test_the_page_and_what_it_loads(path: str, content_type: str, content: str) -> None:
    async with served(Agent("offline"), dev=True) as service:
        response = await service.client.get(path)
        head = await service.client.head(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert content in response.content.decode("latin-1")
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**response.headers, "date": ""}


@pytest.mark.anyio
async def test_the_page_loads_only_what_is_served_here() -> None:
    async with served(Agent("offline"), dev=True) as service:
        page = await service.client.get("/docs")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        answers = [
            await service.client.get(str(httpx2.URL(f"{service.runtime.url}/docs").join(each))) for each in loaded
        ]
    assert len(loaded) == len(PATHS) - 1
    assert not [each for each in loaded if each.startswith("/") or ":" in each]  # it may be mounted anywhere
    assert {answer.status_code for answer in answers} == {200}
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.anyio
async def test_the_name_cannot_break_out_of_the_page() -> None:
    async with served(Agent("offline", name="</title><script>alert(1)</script>"), dev=True) as service:
        page = await service.client.get("/docs")
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


@pytest.mark.anyio
async def test_what_a_client_has_is_not_sent_again() -> None:
    async with served(Agent("offline"), dev=True) as service:
        etag = (await service.client.get("/docs/swagger-ui.css")).headers["etag"]
        for known in (etag, f'"other", W/{etag}'):
            again = await service.client.get("/docs/swagger-ui.css", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
            assert "content-length" not in again.headers
        other = await service.client.get("/docs/swagger-ui.css", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("target", TRICKS)
async def test_no_path_leads_to_another_file(target: str) -> None:
    async with served(Agent("offline"), dev=True) as service:
        assert service.runtime.url is not None
        head, _, body = (await get(service.runtime.url, target)).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), head
    assert b"content-type: application/problem+json" in head
    assert b"import" not in body and b"root:" not in body


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/swagger-ui.css"])
async def test_the_docs_are_there_in_dev_mode_alone(path: str) -> None:
    async with served(Agent("offline")) as service:
        response = await service.client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/docs/swagger-ui.css"])
async def test_a_guarded_agent_shows_its_docs_without_credentials(path: str) -> None:
    async with served(Agent("offline", auth=APIKeyAuth("secret")), dev=True) as service:
        assert (await service.client.get(path)).status_code == 200
        assert (await service.client.get("/runs")).status_code == 401


@pytest.mark.anyio
async def test_the_docs_are_only_read() -> None:
    async with served(Agent("offline"), dev=True) as service:
        for path in ("/docs", "/docs/start.js", "/openapi.json"):
            response = await service.client.post(path)
            assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_missing_files_are_said_when_serving_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigurationError, match="flask-swagger-ui"):
        list(docs.docs_files())


def test_the_package_that_carries_the_files_is_not_imported() -> None:
    code = (
        "import sys; from definable.agent.runtime.http.endpoints.service import docs_files; "
        "print(len(list(docs_files())), 'flask_swagger_ui' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == [str(len(PATHS) - 1), "False"]
