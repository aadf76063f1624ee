"""A handler that forks: the child ends with the call, and never serves on."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

SCRIPT = """
import os, sys
from definable.agent import Agent
from definable.agent.trigger import Webhook

agent = Agent("offline")

def fork(how):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ValueError("in the child")

@agent.on(Webhook("/async/{how}"))
async def in_loop(event):
    return [fork(event.raw.path_params["how"])]

@agent.on(Webhook("/sync/{how}"))
def in_thread(event):
    return [fork(event.raw.path_params["how"])]

agent.serve(host="127.0.0.1", port=0, backend=sys.argv[1])
print("the program goes on", flush=True)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_child_that_a_handler_forks_ends_with_the_call(backend: str, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.split()[:1] == ["http"])
            for kind in ("async", "sync"):
                for how, status in (("exit", 7), ("raise", 1), ("return", 0)):
                    assert httpx2.post(f"{url}/{kind}/{how}", timeout=20).json() == [status]
            process.terminate()
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert output.count("the program goes on") == output.count("stopped cleanly") == 1
