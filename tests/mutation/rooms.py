"""What is mutated, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Room:
    """A package and its tests; paths are relative to the repository."""

    package: str
    tests: str
    not_mutated: tuple[str, ...] = ()
    """Patterns of the package's files."""
    not_run: tuple[str, ...] = ()
    """Patterns of test files that are run for nothing but what they are about: they start and kill processes, or whole
    services."""
    not_selected: str = ""
    """Parts of names of tests, as pytest's `-k` takes them: what takes seconds and says what others say, too."""
    of_module: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of modules, and the test files that know most about them where the name does not say so."""

    def modules(self, root: Path) -> list[str]:
        """The files to mutate."""
        files = (file.relative_to(root) for file in sorted((root / self.package).glob("*.py")))
        return [str(file) for file in files if not any(file.match(pattern) for pattern in self.not_mutated)]

    def test_files(self, root: Path, module: str) -> tuple[list[str], list[str]]:
        """The files to run for a module: those that are most likely to notice, and the others."""
        name = Path(module).stem
        named = dict(self.of_module).get(name, (f"test_{name}.py",))
        files = [file.relative_to(root) for file in sorted((root / self.tests).glob("test_*.py"))]
        kept = [file for file in files if file.name in named or not any(file.match(it) for it in self.not_run)]
        first = [str(file) for file in kept if file.name in named]
        return first, [file for file in map(str, kept) if file not in first]


SQLITE = ("test_sqlite_bus.py", "test_sqlite_failures.py", "test_bus_contract.py")

ROOMS = {
    "trigger": Room(
        "definable/agent/trigger",
        "tests/agent/trigger",
        of_module=(("cron_expression", ("test_schedule.py",)),),
    ),
    "bus": Room(
        "definable/agent/bus",
        "tests/agent/bus",
        not_mutated=("redis*.py",),
        not_run=("test_kill.py", "test_redis*.py", "test_replicas*.py", "test_agent_on_durable_bus.py"),
        not_selected="redis or eight_threads or agent_goes_on_through_a_full_disk",
        of_module=(
            ("base", ("test_bus_contract.py",)),
            ("memory", ("test_memory_bus.py", "test_bus_contract.py")),
            ("memory_line", ("test_memory_bus.py", "test_bus_contract.py")),
            *(
                (f"sqlite{part}", (f"test_sqlite{part}.py", *SQLITE))
                for part in ("", "_batch", "_delivery", "_keys", "_line", "_owner", "_tables", "_writer")
            ),
        ),
    ),
    "runtime": Room(
        "definable/agent/runtime",
        "tests/agent/runtime",
        not_mutated=("dev_*.py",),
        not_run=("test_dev_reload.py", "test_serve_process.py"),
        not_selected="forty_nine or ten_thousand or a_year_of or that_will_not_end or ends_with_the_context",
        of_module=(
            ("entry", ("test_entry.py", "test_runtime.py", "test_signals.py")),
            ("fired_times", ("test_cron_loop.py",)),
            ("isolation", ("test_dispatch.py", "test_workers.py")),
            ("log_context", ("test_logs.py",)),
            ("log_json", ("test_logs.py",)),
            ("log_text", ("test_logs.py",)),
            ("logs", ("test_show_logs.py", "test_logs.py")),
            ("mailbox", ("test_mailbox.py", "test_lost_lease.py")),
            ("run_registry", ("test_run_registry.py", "test_queued_runs.py")),
            ("signals", ("test_signals.py", "test_serve_process.py")),
            ("workers", ("test_workers.py", "test_lost_lease.py")),
        ),
    ),
}
