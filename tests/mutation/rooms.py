"""What is mutated, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Room:
    """A package and its tests; paths are relative to the repository."""

    package: str
    tests: str
    mutated: tuple[str, ...] = ("*.py",)
    """Patterns of the package's files: rooms may share a package."""
    not_mutated: tuple[str, ...] = ()
    """Patterns of those among them that are left out."""
    run: tuple[str, ...] = ("test_*.py",)
    """Patterns of the test files."""
    not_run: tuple[str, ...] = ()
    """Patterns of test files that are run for nothing but what they are about: they start and kill processes, or whole
    services."""
    not_selected: str = ""
    """Parts of names of tests, as pytest's `-k` takes them: what takes seconds and says what others say, too."""
    of_module: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of modules, and the test files that know most about them where the name does not say so."""

    def modules(self, root: Path) -> list[str]:
        """The files to mutate."""
        files = (file.relative_to(root) for file in files_of(root / self.package, self.mutated))
        return [str(file) for file in files if not any(file.match(pattern) for pattern in self.not_mutated)]

    def test_files(self, root: Path, module: str) -> tuple[list[str], list[str]]:
        """The files to run for a module: those that are most likely to notice, and the others."""
        name = Path(module).stem
        named = dict(self.of_module).get(name, (f"test_{name}.py",))
        files = [file.relative_to(root) for file in files_of(root / self.tests, self.run)]
        kept = [file for file in files if file.name in named or not any(file.match(it) for it in self.not_run)]
        first = [str(file) for file in kept if file.name in named]
        return first, [file for file in map(str, kept) if file not in first]


def files_of(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in directory.glob(pattern)})


HTTP_NOT_RUN = ("test_docs_in_browser.py", "test_raw_bytes.py", "test_schemathesis.py")
HTTP_NOT_SELECTED = "asyncio and foreign or thousand_repeats or hold_up_no_stop"
"""uvicorn takes half a second to end."""

REDIS = ("test_redis_bus.py", "test_bus_contract.py", "test_redis_failures.py")

SQLITE = ("test_sqlite_bus.py", "test_sqlite_failures.py", "test_sqlite_grants.py", "test_bus_contract.py")

ROOMS = {
    "trigger": Room(
        "definable/agent/trigger",
        "tests/agent/trigger",
        of_module=(("cron_expression", ("test_cron_expression.py", "test_schedule.py")),),
    ),
    "bus": Room(
        "definable/agent/bus",
        "tests/agent/bus",
        not_mutated=("redis*.py",),
        not_run=("test_kill.py", "test_redis*.py", "test_replicas*.py", "test_agent_on_durable_bus.py"),
        not_selected="redis or eight_threads or agent_goes_on_through_a_full_disk",
        of_module=(
            ("base", ("test_bus_contract.py",)),
            ("memory", ("test_memory_bus.py", "test_memory_retries.py", "test_bus_contract.py")),
            ("sqlite", ("test_attempts.py", *SQLITE)),
            ("queue", ("test_memory_bus.py", "test_attempts.py", *SQLITE)),
        ),
    ),
    "runtime": Room(
        "definable/agent/runtime",
        "tests/agent/runtime",
        not_run=("test_dev_reload.py", "test_serve_process.py"),
        not_selected="forty_nine or ten_thousand or a_year_of or that_will_not_end or ends_with_the_context",
        of_module=(
            ("entry", ("test_entry.py", "test_runtime.py", "test_signals.py")),
            ("cron", ("test_cron_loop.py", "test_cron_source.py")),
            ("logging", ("test_show_logs.py", "test_logs.py")),
            ("message_queue", ("test_message_queue.py", "test_lost_lease.py")),
            ("runs", ("test_run_registry.py", "test_queued_runs.py")),
            ("signals", ("test_signals.py", "test_serve_process.py")),
            ("workers", ("test_workers.py", "test_lost_lease.py")),
        ),
    ),
    "http": Room(
        "definable/agent/runtime/http",
        "tests/agent/runtime/http",
        not_run=HTTP_NOT_RUN,
        not_selected=HTTP_NOT_SELECTED,
        of_module=(
            ("app", ("test_run.py", "test_webhooks.py", "test_asgi.py", "test_guard.py")),
            ("body", ("test_webhooks.py", "test_run.py")),
            ("auth", ("test_guard.py", "test_identity.py")),
            ("documents", ("test_runs.py", "test_openapi_answers.py")),
            ("openapi", ("test_openapi.py", "test_openapi_answers.py")),
            ("request", ("test_webhooks.py", "test_run.py")),
            ("response", ("test_run.py", "test_problem.py")),
            ("routes", ("test_webhooks.py", "test_run.py")),
            ("service", ("test_stop.py", "test_asgi.py")),
            ("sse", ("test_streamed_run.py",)),
        ),
    ),
    "http_endpoints": Room(
        "definable/agent/runtime/http/endpoints",
        "tests/agent/runtime/http",
        not_run=HTTP_NOT_RUN,
        not_selected=HTTP_NOT_SELECTED,
        of_module=(
            ("service", ("test_guard.py", "test_openapi_answers.py", "test_runs.py", "test_identity.py")),
            ("runs", ("test_run.py", "test_streamed_run.py", "test_runs.py")),
            ("webhook", ("test_webhooks.py", "test_webhook_answers.py", "test_webhook_acceptance.py")),
        ),
    ),
    "server": Room(
        "definable/server",
        "tests/server",
        of_module=(
            ("asyncio_stream", ("test_streams.py", "test_http_server.py")),
            ("connection", ("test_http_server.py", "test_tls.py")),
            ("http1_connection", ("test_extensions.py", "test_http_server.py", "test_hostile_input.py")),
            ("http1_parser", ("test_http1_request.py", "test_hostile_input.py")),
            ("http1_response", ("test_http1_response.py",)),
            ("limits", ("test_time_limits.py", "test_hostile_input.py", "test_http_server.py")),
            ("request_cycle", ("test_http_server.py", "test_drain.py", "test_hostile_input.py")),
            ("server", ("test_time_limits.py", "test_http_server.py")),
            ("transport", ("test_transport.py", "test_time_limits.py", "test_http_server.py", "test_drain.py")),
            ("trio_stream", ("test_streams.py", "test_http_server.py")),
        ),
    ),
    "hypercorn": Room(
        "definable/server/hypercorn",
        "tests/server",
        of_module=(
            ("adapter", ("test_hypercorn_adapter.py", "test_websocket.py", "test_tls.py")),
            ("connection", ("test_tls.py", "test_websocket.py")),
            ("h2", ("test_tls.py", "test_h2_frames.py")),
            ("request_cycle", ("test_receive_buffer.py", "test_tls.py", "test_websocket.py")),
            ("websocket", ("test_websocket.py",)),
        ),
    ),
    "dev": Room(
        "definable/agent/runtime/dev",
        "tests/agent/runtime",
        run=("test_dev_*.py",),
        of_module=(
            ("child", ("test_dev_process.py", "test_dev_generations.py")),
            ("reload", ("test_dev_command.py", "test_dev_generations.py")),
        ),
    ),
    "redis": Room(
        "definable/agent/bus",
        "tests/agent/bus",
        mutated=("redis*.py",),
        run=REDIS,
        not_selected="memory or sqlite or lost_lease_cancels",
        of_module=(("redis", REDIS[:2]),),
    ),
}
