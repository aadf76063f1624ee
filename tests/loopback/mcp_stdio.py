"""A server of the Model Context Protocol over standard input and output, with nothing but the standard library.

It speaks the handshake of older protocols. Its argument is a file: each tool that it names, one a line, is there; a
line that is added is announced. `die` ends the process in the middle of a call.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(sys.argv[1])


def write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            capabilities = {"tools": {"listChanged": True}}
            info = {"name": "stdio", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
        case "tools/list":
            schema = {"type": "object", "properties": {"text": {"type": "string"}}}
            names = TOOLS.read_text().split()
            return {"tools": [{"name": name, "description": f"Tool {name}.", "inputSchema": schema} for name in names]}
        case "tools/call" if params["name"] == "die":
            os._exit(3)
        case "tools/call" if params["name"] == "grow":
            TOOLS.write_text(TOOLS.read_text() + "\nmore")
            write({"method": "notifications/tools/list_changed"})
            return {"content": [{"type": "text", "text": "grown"}]}
        case "tools/call":
            text = f"{params['name']} {os.getpid()} {json.dumps(params.get('arguments'))}"
            return {"content": [{"type": "text", "text": text}]}
        case "ping":
            return {}
        case _:
            return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result = answer(message["method"], message.get("params", {}))
    if result is None:
        error = {"code": -32601, "message": f"Method not found: {message['method']}"}
        write({"id": message["id"], "error": error})
    else:
        write({"id": message["id"], "result": result})
