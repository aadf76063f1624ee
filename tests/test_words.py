"""Words that were given up stay given up: no name in the package is one of them.

Each had several meanings, or named a thing by an image where the field has a noun. What prose mentions by such a name,
`test_mentions.py` finds.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import definable

PACKAGE = Path(definable.__file__).parent

GIVEN_UP = {
    "all_told": "flushed",
    "bury": "dead_letter",
    "carry_out": "apply",
    "close_account": "finalize",
    "consult": "authenticate",
    "Conversations": "ChatSessions",
    "DeliveryTaker": "Consumer",
    "effort": "load",
    "Ending": "CloseResult",
    "EngineConnection": "HypercornConnection",
    "EngineExchange": "RequestCycle",
    "Exchange": "RequestCycle",
    "Farewell": "LingeringClose",
    "fire_held_back": "fire_pending",
    "flying": "in_flight",
    "gatekeeper": "auth",
    "goes_on": "will_retry",
    "guard": "auth_provider or lock",
    "Guarded": "Route",
    "hangups": "on_disconnect",
    "held_back": "pending",
    "in_service": "model_lifetime",
    "Intake": "Ingress",
    "InterfaceHost": "AgentHandle",
    "isolated": "contain_errors",
    "Isolation": "contain_errors",
    "Lane": "ConcurrencyLimit",
    "last_call": "close_deadline",
    "LastAccount": "ShutdownAccounting",
    "ledger": "tracker",
    "leftovers": "take_undone",
    "line_up": "enqueue",
    "Mailbox": "MessageQueue",
    "mailbox": "message_queue",
    "MemoryLine": "QueueSession",
    "Pace": "ReconnectPolicy",
    "PARKED": "QUEUED",
    "pump": "forwarder",
    "rare_collection": "gc_tuning",
    "Recovery": "ResumeAction",
    "RedisHands": "QueueSession",
    "RedisLine": "RedisStore",
    "RedisTaker": "RedisStore",
    "room": "capacity",
    "say_goodbye": "send_unavailable",
    "SendPace": "RateLimiter",
    "SessionGate": "SessionLocks",
    "settled": "settle_safely",
    "SQLiteLine": "QueueSession",
    "take_back": "requeue",
    "TakerHost": "a callback",
    "takers": "consumers",
    "Turn": "WriteBatch",
    "turned": "flushed",
    "untaken": "returned",
    "UntilHangup": "on_disconnect",
    "Watermark": "OffsetTracker",
    "welcome": "check_open",
    "wish": "notify",
    "with_companion": "run_with_background",
    "WorkLedger": "WorkTracker",
    "WriterHost": "a callback",
}
"""What is said instead."""


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that a module gives to something: classes, functions, arguments, attributes, variables."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case _:
                pass


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_is_a_word_that_was_given_up(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = [(line, name, GIVEN_UP[word]) for line, name in names(tree) if (word := name.strip("_")) in GIVEN_UP]
    assert found == [], "line, name, what to say instead"
    assert path.stem not in GIVEN_UP


def test_a_word_that_was_given_up_would_be_found() -> None:
    source = "class Lane:\n    def consult(self, ledger):\n        self._in_service = hangups = 0"
    assert [name for _, name in names(ast.parse(source)) if name.strip("_") in GIVEN_UP] == [
        *("Lane", "consult", "ledger", "_in_service", "hangups")
    ]
