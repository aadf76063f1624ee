"""Sorts the tests, as a pytest plugin that `conftest.py` names: each is `unit`, `service` or `slow`.

- `slow`: takes longer than a second on an idle machine, by the table below.
- `service`: its module, or one that its fixtures come from, uses servers, clients or processes.
- `unit`: the rest. One that listens, connects or starts a process nevertheless fails.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import sys
from collections.abc import Generator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import WorkStealingScheduling

ROOT = Path(__file__).parent

SLOW = {
    # whole files and folders
    "benchmarks/": "measures, in processes",
    "chaos/": "misbehaves at length",
    "bus/test_kill.py": "kills processes",
    "bus/test_replicas.py": "runs replicas for a while",
    "bus/test_replicas_example.py": "runs replicas for a while",
    "bus/test_shared_limits.py": "waits for leases in Redis",
    "discord/test_reference_client.py": "starts discord.py",
    "discord/test_soak.py": "soaks",
    "slack/test_reference_client.py::test_the_builtin_client_gets_along_too": "waits for threads to end",
    "slack/test_soak.py": "soaks",
    "slack/test_slack_example.py": "starts a program",
    "http/test_docs_in_browser.py": "starts a browser",
    "http/test_own_pages_in_browser.py::test_a_page_of_ones_own_follows_runs_and_opens_websockets": "starts a browser",
    "http/test_proxies.py": "starts nginx and Caddy",
    "http/test_other_origins_in_browser.py": "starts a browser",
    "http/test_raw_bytes.py": "sends any bytes",
    "http/test_schemathesis.py": "asks every endpoint everything",
    "http/test_servers.py": "starts ASGI servers of others",
    "interface/test_soak.py": "soaks",
    "interface/test_telegram_emulator.py": "starts Node",
    "model/test_openai_litellm.py": "starts the proxy of litellm",
    "runtime/test_dev_command.py": "starts programs",
    "runtime/test_dev_generations.py": "starts programs",
    "runtime/test_dev_process.py": "starts programs",
    "runtime/test_dev_reload.py": "starts programs, and saves them again and again",
    "runtime/test_forked.py": "forks",
    "runtime/test_serve_process.py": "starts programs",
    "runtime/test_systemd.py": "starts programs",
    "storage/test_redis_failover.py": "starts a cluster and Sentinels",
    "storage/test_redis_link.py": "waits for connections that are dead",
    "telegram/test_soak.py": "soaks",
    "web/test_in_browser.py": "starts a browser",
    "tests/test_docs.py": "runs every program of the guides",
    "tests/test_examples.py": "runs every example",
    "tests/test_readme.py": "runs every program of the README",
    "tests/test_soak.py": "soaks",
    "tests/test_source_document.py": "runs every program of the page",
    "tests/test_types.py": "starts pyright",
    # single tests
    "auth/test_identity.py::test_no_input_makes_a_provider_raise_or_accept": "tries many inputs",
    "bus/test_agent_on_durable_bus.py::test_a_repeated_delivery_of_an_accepted_webhook_is_a_duplicate_after_the_restart_too": "restarts",
    "bus/test_codec.py::test_json_comes_back_as_it_was": "tries many inputs",
    "bus/test_memory_retries.py::test_events_of_a_handler_that_keeps_failing_are_refused_once_the_buffer_is_full_and_none_is_lost": "fails thousands of times",
    "bus/test_postgres_bus.py": "starts a PostgreSQL, and waits for leases there",
    "bus/test_random_stop.py": "stops again and again",
    "bus/test_redis_bus.py::test_heartbeats_keep_the_lease_of_a_long_handler": "waits for leases in Redis",
    "bus/test_redis_bus.py::test_a_heartbeat_does_not_take_back_what_somebody_else_has": "waits for leases in Redis",
    "bus/test_redis_failures.py": "waits for a Redis that is away",
    "bus/test_suspects.py::test_others_try_what_waits_behind_a_suspect_that_takes_long": "waits for another replica",
    "discord/test_rest.py::test_nobody_there": "tries again until it gives up",
    "discord/test_rest.py::test_an_answer_that_cannot_be_decoded_is_tried_again_and_leaves_nothing_behind": "tries again",
    "fuzz/test_http1.py::test_whatever_resembles_http_is_the_same_to_every_parser": "tries many inputs",
    "fuzz/test_round_trips.py::test_streamed_text_is_what_a_client_reads": "tries many inputs",
    "http/test_linear_time.py::test_what_takes_quadratic_time_would_be_found": "takes quadratic time",
    "http/test_unix_socket.py::test_it_stays_over_the_restarts_of_development_mode": "starts programs",
    "http/test_stop.py::test_idle_stalled_and_half_sent_connections_hold_up_no_stop": "waits out a stop",
    "http/test_stop.py::test_past_the_grace_a_stream_ends_with_an_honest_event_and_is_counted": "waits out a stop",
    "http/test_stop.py::test_past_the_grace_everybody_gets_an_honest_503": "waits out a stop",
    "http/test_streamed_run.py::test_a_client_that_stops_reading_holds_up_nobody_else": "fills buffers",
    "http/test_webhook_acceptance.py::test_of_hundreds_of_repeats_at_once_exactly_one_runs": "sends hundreds of requests",
    "interface/test_chats_soak.py": "writes hundreds of messages",
    "runtime/test_cron_loop.py::test_ten_thousand_jobs_of_one_second_all_fire_on_time": "fires ten thousand jobs",
    "runtime/test_logs.py::test_a_program_with_logging_of_its_own_keeps_it": "starts a program",
    "runtime/test_logs.py::test_a_program_without_logging_of_its_own_shows_its_records_with_their_ids": "starts a program",
    "runtime/test_mistaken_process.py::test_a_service_whose_code_has_made_every_mistake_ends_with_0": "makes every mistake",
    "runtime/test_message_queue_prefetch.py": "has backlogs",
    "runtime/test_runtime.py::test_nothing_is_left_after_serving": "serves again and again",
    "runtime/test_signals.py::test_a_served_process_at_a_hangup": "starts programs",
    "runtime/test_supervisor.py::test_forty_nine_that_crash_for_ever_leave_the_fiftieth_alone": "crashes for ever",
    "runtime/test_workers.py::test_ten_thousand_emits_from_eight_threads_are_handled_each_once": "emits ten thousand events",
    "session/test_agent_sessions.py::test_processes_share_a_file": "starts processes",
    "session/test_codec.py::test_a_state_comes_back_as_it_was": "tries many inputs",
    "session/test_codec.py::test_what_a_newer_version_adds_is_ignored": "tries many inputs",
    "session/test_locks.py::test_ten_thousand_waiters_may_leave_at_once": "has ten thousand waiters",
    "session/test_redis.py::test_replicas_that_run_a_session_at_once_overwrite_nothing": "runs replicas",
    "session/test_sqlite.py::test_any_history_may_follow_any_other": "tries many inputs",
    "session/test_sqlite.py::test_what_was_saved_survives_kill_9": "kills processes",
    "storage/test_sqlite_file.py::test_processes_that_make_and_fill_a_file_at_once": "starts processes",
    "telegram/test_polling.py::test_it_is_said_once_that_a_chat_which_gets_no_answer_holds_up_all_others": "fills a backlog",
    "telegram/test_polling.py::test_more_updates_than_a_poll_returns_are_all_answered": "answers many messages",
    "telegram/test_sending.py::test_the_pace_of_groups_and_of_the_whole_bot_is_kept": "keeps a pace",
    "model/test_adapters.py::test_runs_that_are_cut_off_at_any_moment_leave_nothing": "cuts off runs of frameworks",
    "test_mcp.py::test_runs_go_on_while_servers_come_and_go": "stops servers again and again",
    "test_docstring.py::test_what_was_written_is_read_back": "tries many inputs",
    "test_telemetry.py::test_without_the_extra_agents_run_and_nothing_of_it_is_imported": "starts a program",
    "test_tools.py::test_no_arguments_break_a_call": "tries many inputs",
    "trigger/test_schedule.py::test_agrees_with_cronsim": "tries many inputs",
    "trigger/test_schedule.py::test_agrees_with_cronsim_on_fixed_times_in_odd_zones": "tries many inputs",
}
"""What is slow, by the end of a file's path, a folder, or the end of a test's id without parameters, and why."""

SIGNS = re.compile(
    r"^\s*(?:from|import) (?:loopback|httpx2|subprocess|socket|ssl|multiprocessing|command_line|watched_process)\b"
    r"|^from \.dev_p|\bgetfixturevalue\b|\bserved\b|\bserve_agent\b|\b(?:connect_tcp|create_tcp_listener)\b|\bport=0\b",
    re.MULTILINE,
)
"""In a module's source: that its tests are of the kind `service`."""

PLUGINS = ("kinds", "suite_accounting", "planted_secrets")
"""Their fixtures are in every test."""

SERVICE_EVENTS = ("subprocess.Popen", "os.fork", "os.posix_spawn")
"""Of the interpreter's audit events."""


def pytest_configure(config: pytest.Config) -> None:
    # Its import starts `file` (platform.architecture), which the unit test that comes first must not answer for.
    importlib.import_module("croniter")
    for kind, meaning in (
        ("unit", "no socket, no process"),
        ("service", "talks to servers on loopback, or to processes"),
        ("slow", "takes longer than a second"),
    ):
        config.addinivalue_line("markers", f"{kind}: {meaning}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not import what `-m` would leave out as a whole: collecting takes as long as many tests."""
    wanted = config.getoption("markexpr")
    if wanted not in ("unit", "not slow") or not fnmatch(collection_path.name, "test_*.py"):
        return None
    is_slow = slow_entry(collection_path.relative_to(ROOT.parent).as_posix()) is not None
    return True if is_slow or (wanted == "unit" and uses_services(str(collection_path))) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest selects by `-m`."""
    for item in items:
        item.add_marker(kind_of(item))
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = slow_first(items, workers)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n` each worker gets a part, and one that is done takes from the end of another's, where no slow test is."""
    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


def slow_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in as many parts of one size as there are workers, each with its share of the slow ones first."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = iter([item for item in items if not item.get_closest_marker("slow")])
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        share = slow[worker::workers]
        end = len(items) * (worker + 1) // workers
        ordered += [*share, *itertools.islice(rest, max(end - len(ordered) - len(share), 0))]
    return [*ordered, *rest]


def kind_of(item: pytest.Item) -> str:
    if slow_entry(item.nodeid) is not None or item.get_closest_marker("slow"):
        return "slow"
    return "service" if any(uses_services(path) for path in sources(item)) else "unit"


def slow_entry(nodeid: str) -> str | None:
    """The entry of the table that makes a test slow."""
    path, _, test = nodeid.partition("[")[0].partition("::")
    parts = Path(path).parts
    endings = ["/".join(parts[start:]) for start in range(len(parts))]
    names = [*endings, *(f"{ending}::{test}" for ending in endings), *(f"{part}/" for part in parts)]
    return next((name for name in names if name in SLOW), None)


def sources(item: pytest.Item) -> set[str]:
    """The module of a test, and those of its fixtures but for the suite's own."""
    fixtures = getattr(item, "_fixtureinfo", None)
    definitions = [found[-1] for found in fixtures.name2fixturedefs.values() if found] if fixtures else []
    files = {definition.func.__code__.co_filename for definition in definitions}
    return {str(item.path), *filter(is_of_a_room, files)}


@functools.cache
def is_of_a_room(path: str) -> bool:
    """Whether fixtures of the file belong to some tests, and not to all."""
    return ROOT in Path(path).parents and Path(path).stem not in PLUGINS


@functools.cache
def uses_services(path: str) -> bool:
    return SIGNS.search(Path(path).read_text()) is not None


class Watch:
    """What the running unit test does that makes it none."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.seen is None:
            return
        if event in SERVICE_EVENTS:
            self.seen.append(event)
        elif event in ("socket.bind", "socket.connect") and isinstance(arguments[1], tuple):
            self.seen.append(f"{event} {arguments[1]}")


watch = Watch()
sys.addaudithook(watch)


@pytest.fixture(autouse=True)
def no_services_in_unit_tests(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Fails a unit test that listens, connects or starts a process."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    watch.seen = seen = []
    yield
    watch.seen = None
    assert not seen, f"this is no unit test: {seen}"
