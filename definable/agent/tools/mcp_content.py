"""What an MCP server answers, in terms of this package: results of tools, resources, prompts. Pure but for its paging.

https://modelcontextprotocol.io/specification/2025-06-18/server
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from definable.model.message import Image

from .result import ToolResult, image_type

if TYPE_CHECKING:
    from mcp import Client

MAX_RESOURCES = 1_000
"""Of one server that are listed."""


def told(result: Any) -> ToolResult:
    """What a server's tool answered, for the model: its text, and images beside."""
    text, images = told_blocks(result.content)
    if not result.content and result.structured_content is not None:
        text = json.dumps(result.structured_content)
    if result.is_error:
        return ToolResult.failed(text or "the tool failed and says no more")
    return ToolResult(text or ("an image" if images else "done"), images, value=result.structured_content or text)


def told_blocks(blocks: Iterable[Any]) -> tuple[str, tuple[Image, ...]]:
    """The text of a content's blocks, and its images."""
    texts: list[str] = []
    images: list[Image] = []
    for block in blocks:
        match block.type:
            case "text":
                texts.append(block.text)
            case "image":
                images.append(Image(data=b64decode(block.data), media_type=block.mime_type))
            case "resource_link":
                texts.append(f"{block.name}: {block.uri}")
            case "resource":
                texts.append(getattr(block.resource, "text", None) or f"{block.resource.uri} (not text)")
            case kind:
                texts.append(f"({kind}, which cannot be shown)")
    return "\n".join(texts), tuple(images)


async def resources_of(client: Client) -> list[dict[str, str]]:
    """The resources that a server lists, of each the URI, the name and what it says of itself."""
    found: list[Any] = []
    page = await client.list_resources()
    found += page.resources
    while page.next_cursor and len(found) < MAX_RESOURCES:
        page = await client.list_resources(cursor=page.next_cursor)
        found += page.resources
    named = ("uri", "name", "title", "description", "mime_type")
    return [{name: str(getattr(each, name)) for name in named if getattr(each, name, None)} for each in found]


async def read_resource(client: Client, uri: str) -> str | bytes:
    """A resource's text; the bytes of one that has none."""
    contents: list[Any] = [*(await client.read_resource(uri)).contents]
    texts = [each.text for each in contents if hasattr(each, "text")]
    if texts or not contents:
        return "\n".join(texts)
    return b"".join([b64decode(each.blob) for each in contents if hasattr(each, "blob")])


def shown(content: str | bytes) -> str | bytes:
    """A resource for the model: its text, or the bytes of an image."""
    if isinstance(content, str) or image_type(content) is not None:
        return content
    return f"({len(content)} bytes that are neither text nor an image)"
