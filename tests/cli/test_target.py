"""`module:agent` and files: what is found, and what is said of what is not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from definable.cli.target import ProgramError, Target, TargetError, load_target

AGENT = 'from definable.agent import Agent\nagent = Agent("offline", name="found")\n'


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(path: str, text: str = AGENT) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


@pytest.mark.parametrize("target", ["one:agent", "one", "one.py:agent", "one.py", "./one.py", "one:holder.inner"])
def test_an_agent_is_found(target: str) -> None:
    write("one.py", f"{AGENT}class holder:\n    inner = agent\n")
    loaded = load_target(target)
    assert loaded.agent.name == "found"
    assert loaded == Target(loaded.agent, "one")


def test_a_file_elsewhere_finds_the_modules_beside_it(directory: Path) -> None:
    write("src/neighbour.py", AGENT)
    write("src/program.py", "from neighbour import agent\n")
    assert load_target(f"{directory}/src/program.py:agent").agent.name == "found"


@pytest.mark.parametrize("target", ["deep.pkg.program:agent", "deep/pkg/program.py:agent", "deep.pkg:agent"])
def test_a_program_in_a_package_keeps_its_package(target: str) -> None:
    write("deep/__init__.py", "")
    write("deep/pkg/__init__.py", "from .program import agent\n")
    write("deep/pkg/program.py", "from .agents import agent\n")
    write("deep/pkg/agents.py", AGENT)
    assert load_target(target).agent.name == "found"


def test_a_file_may_be_named_as_a_module_of_the_standard_library() -> None:
    write("json.py", AGENT)
    assert load_target("json.py").agent.name == "found"
    import json

    assert json.loads("1") == 1


def test_a_bare_serve_says_how_to_serve() -> None:
    write("bare.py", f"{AGENT}agent.serve(port=9, backend='trio', dev=True)\nraise SystemExit('never reached')\n")
    for target in ("bare", "bare.py:agent"):
        loaded = load_target(target)
        assert loaded.backend == "trio"
        assert loaded.options == {"port": 9, "dev": True}


IN_A_GROUP = "async with anyio.create_task_group() as group:\n        await group.start(agent.aserve)"
AS_A_CONTEXT = "async with agent.running() as runtime:\n        raise SystemExit('it serves')"


@pytest.mark.parametrize("call", ["await agent.aserve(port=9)", IN_A_GROUP, AS_A_CONTEXT])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_aserve_that_is_run_at_once_counts_too(call: str, backend: str) -> None:
    write("alone.py", f"import anyio\n{AGENT}async def main():\n    {call}\nanyio.run(main, backend={backend!r})\n")
    loaded = load_target("alone")
    assert (loaded.agent.name, loaded.backend) == ("found", backend)


def test_a_bare_serve_of_another_agent_says_nothing_of_this_one() -> None:
    write("two.py", f"{AGENT}other = Agent('offline', name='other')\nother.serve(port=9)\n")
    assert load_target("two:agent").options == {}
    assert load_target("two").agent.name == "other"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("progam:agent", "there is no module 'progam', did you mean program?; here is program.py"),
        ("nothing_like_it", "there is no module 'nothing_like_it'; here is program.py"),
        ("program.nested:agent", "there is no module 'program.nested'"),
        ("progam.py", "there is no file progam.py, did you mean program.py?"),
        ("nowhere/app.py", "there is no file nowhere/app.py"),
        ("./notes.txt", "./notes.txt is no Python file"),
        ("./empty", "is a directory: name the Python file in it (no Python file in "),
        ("./", "is a directory: name the Python file in it (program.py)"),
        ("program:agnet", "program has no 'agnet', did you mean agent?; its agents are agent, second"),
        ("program:text", "program:text is no Agent but a str"),
        ("program:os", "program:os is no Agent but the module os"),
        ("program:Agent", "program:Agent is no Agent but the class Agent: make one, `agent = Agent(...)`"),
        ("program:make", "the function make: call it in the module, `agent = make()`"),
        ("program", "program has 2 agents: name one of program:agent, program:second"),
        ("program:", "name a module or a file and the agent in it"),
        (":agent", "name a module or a file and the agent in it"),
        ("..relative", "is no module"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(target: str, said: str) -> None:
    write("program.py", f"import os\n{AGENT}second = Agent('offline')\ntext = 'x'\ndef make(): ...\n")
    write("notes.txt", "remember the milk\n")
    write("empty/notes.txt", "remember the milk\n")
    with pytest.raises(TargetError) as caught:
        load_target(target)
    assert said in caught.value.message
    assert caught.value.exit_code == 2


def test_a_module_without_an_agent() -> None:
    write("empty.py", "x = 1\n")
    with pytest.raises(TargetError, match="empty has no agent"):
        load_target("empty")
    with pytest.raises(TargetError, match="empty has no 'agent'; it has no agent"):
        load_target("empty:agent")


def test_a_nested_import_error_is_the_programs_own_and_shown_without_our_frames(directory: Path) -> None:
    write("inner.py", "import not_installed_anywhere\n")
    write("outer.py", "import inner\n")
    with pytest.raises(ProgramError) as caught:
        load_target("outer:agent")
    said = caught.value.message
    assert f'File "{directory}/outer.py", line 1' in said
    assert f'File "{directory}/inner.py", line 1' in said
    assert "ModuleNotFoundError: No module named 'not_installed_anywhere'" in said
    assert "importlib" not in said
    assert "definable/cli" not in said
    assert "outer cannot be loaded" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('no') from e\n", "direct cause"),
        ("from definable.agent import Agent\nAgent('nobody/x')\n", "ConfigurationError"),
        ("raise ExceptionGroup('two at once', [ValueError('no'), KeyError('x')])\n", "ValueError: no"),
    ],
)
def test_a_program_that_fails_says_so_itself(text: str, said: str) -> None:
    write("broken.py", text)
    with pytest.raises(ProgramError) as caught:
        load_target("broken.py:agent")
    assert said in caught.value.message
    assert "target.py" not in caught.value.message


def test_a_package_that_fails_is_shown_too() -> None:
    write("package/__init__.py", "1 / 0\n")
    write("package/program.py")
    with pytest.raises(ProgramError, match="ZeroDivisionError"):
        load_target("package.program:agent")


def test_a_package_that_lacks_another_is_shown_too() -> None:
    write("package/__init__.py", "import not_installed_anywhere\n")
    write("package/program.py")
    with pytest.raises(ProgramError, match="No module named 'not_installed_anywhere'"):
        load_target("package.program:agent")


def test_a_program_that_exits_while_it_is_loaded() -> None:
    write("leaves.py", "import sys\nsys.exit(3)\n")
    with pytest.raises(TargetError, match=r"leaves ended itself while it was loaded: sys.exit\(3\)"):
        load_target("leaves")


def test_a_context_says_how_to_serve_and_leaves_signals_to_the_command() -> None:
    body = "async def main():\n    async with agent.running(port=9):\n        pass\n"
    write("context.py", f"import anyio\n{AGENT}{body}anyio.run(main, backend='trio')\n")
    loaded = load_target("context")
    assert (loaded.agent.name, loaded.backend, loaded.options) == ("found", "trio", {"port": 9})


def test_a_context_that_is_made_while_a_program_is_loaded_may_be_entered_later() -> None:
    write("later.py", f"{AGENT}context = agent.running(enable_server=False)\n")
    assert load_target("later").agent.name == "found"

    async def enter() -> str:
        async with sys.modules["later"].context as runtime:
            return runtime.name

    assert anyio.run(enter) == "found"
