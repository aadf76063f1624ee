"""Three replicas of one service that share its work through one Redis, started by one command.

    python examples/replicas.py

Every second a cron job fires, once over all of them, and puts an order on the bus; one replica handles it. Kill any of
the processes whose numbers it prints (`kill -9`): what that one had in hand is handled by another when its lease is
over, and a new one takes its place. Ctrl-C stops them all.

Uses the Redis that REDIS_URL names, or starts one for itself, and needs no key: `pip install 'definable[redis]'`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import anyio

from definable.agent import Agent
from definable.agent.bus import RedisBus
from definable.agent.trigger import Cron, EventTrigger, TriggerEvent

name = sys.argv[1] if len(sys.argv) > 1 else "the parent"
# The agent's name is that of the service, the same in each replica: it names the keys in Redis.
agent = Agent("offline", name="orders", bus=RedisBus(os.environ.get("REDIS_URL", "redis://localhost:6379"), lease=3))


@agent.on(Cron("* * * * * *"))
async def every_second(event: TriggerEvent) -> None:
    await agent.aemit("order", {"number": int(event.timestamp)})


@agent.on(EventTrigger("order"))
async def handle(event: TriggerEvent) -> None:
    await anyio.sleep(1.5)
    print(f"{name} handled order {event.body['number']} (attempt {event.attempt})", flush=True)


def start(name: str) -> subprocess.Popen[bytes]:
    # In a group of its own, so that Ctrl-C reaches the parent alone, which stops the replicas before their Redis.
    process = subprocess.Popen([sys.executable, __file__, name], process_group=0)
    print(f"{name} is process {process.pid}", flush=True)
    return process


def start_redis() -> subprocess.Popen[bytes]:
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        sys.exit("No Redis: name one by REDIS_URL, or install it (`apt install redis-server`, `brew install redis`).")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    options = ["--port", port, "--dir", tempfile.mkdtemp(), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL, process_group=0)
    os.environ["REDIS_URL"] = f"redis://127.0.0.1:{port}"
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port))).close()
            return process
        except OSError:
            time.sleep(0.05)


def main() -> None:
    redis = None if "REDIS_URL" in os.environ else start_redis()
    replicas = {name: start(name) for name in ("ann", "bob", "cleo")}
    try:
        while True:
            time.sleep(0.5)
            for name, process in replicas.items():
                if process.poll() is not None:
                    print(f"{name} is gone", flush=True)
                    replicas[name] = start(name)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in replicas.values():
            process.terminate()
        for process in replicas.values():
            process.wait()
        if redis is not None:
            redis.terminate()
            redis.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        agent.serve(enable_server=False)
    else:
        main()
