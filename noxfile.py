"""What a contributor runs: `nox` (lint, types, fast), `nox -s full` before a pull request, `nox -s lint` and so on.

`.ci/run` is the gate: the same on a fresh machine, with a browser, Redis, nginx and Caddy installed.
"""

import nox

nox.options.sessions = ["lint", "types", "fast"]
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True


def installed(session: nox.Session) -> None:
    session.install("--quiet", "-e", ".[test]")
    session.install("--quiet", "--no-deps", "openai-agents>=0.24")  # as `.ci/run` does, and says why


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint; `nox -s lint -- --fix` mends what it can."""
    installed(session)
    fix = "--fix" in session.posargs
    session.run("ruff", "format", *(() if fix else ("--check",)), ".")
    session.run("ruff", "check", *(("--fix",) if fix else ()), ".")


@nox.session
def types(session: nox.Session) -> None:
    """pyright, strict."""
    installed(session)
    session.run("pyright", "--project", "pyproject.toml", "--pythonpath", f"{session.bin}/python")


@nox.session
def fast(session: nox.Session) -> None:
    """All tests but the slow ones; further arguments are pytest's: `nox -s fast -- tests/model -k stream`."""
    installed(session)
    session.run("pytest", "-n", "4", "-m", "not slow", *session.posargs)


@nox.session
def full(session: nox.Session) -> None:
    """Every test."""
    installed(session)
    session.run("pytest", "-n", "4", *session.posargs)
