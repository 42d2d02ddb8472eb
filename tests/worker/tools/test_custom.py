"""Tools of somebody else's: what the model is told of them, how they run, and every way a file can be broken."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shared.agents import Agent
from shared.calls import CallSid, IncomingCall, TraceId
from shared.errors import SettingsError
from shared.settings import Settings
from worker.tools import custom_run, running
from worker.tools.builtin import BUILT_IN
from worker.tools.custom_check import before_start, check
from worker.tools.custom_files import load_file, open_folder
from worker.tools.custom_folder import Custom, load_custom
from worker.tools.custom_report import Broken, Trouble
from worker.tools.registry import Outcome, Tool, ToolCall

ROOT = Path(__file__).parents[3]
HEAD = "from worker.tools.custom import CallInfo, ToolError, tool\n"
CALL = IncomingCall(call_sid=CallSid("CA1"), caller="+5511", called="+5522", trace_id=TraceId("t"))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Leave the search path and the modules as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("offhook_tools") or name == "_shared":
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "one.py") -> Path:
    """Write a file of a tool."""
    path = folder / name
    path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    return path


def loaded(folder: Path, text: str) -> Tool:
    """Load a tool in this process."""
    path = written(folder, text)
    open_folder(folder)
    return load_file(path)[0]


def argument(folder: Path, annotation: str, default: str = "") -> dict[str, Any]:
    """Give the whole schema of a tool with one argument of this kind."""
    text = f"""
    from __future__ import annotations
    import dataclasses, datetime, enum
    from datetime import date
    from decimal import Decimal
    from typing import Annotated, Any, Literal, Optional
    from pydantic import BaseModel, Field

    class Size(enum.Enum):
        SMALL = "small"
        LARGE = "large"

    class Address(BaseModel):
        street: str
        size: Size = Size.SMALL

    @tool
    def one(value: {annotation}{default}):
        '''Do one thing.'''
    """
    path = folder / "one.py"
    head = "from __future__ import annotations\n" + HEAD
    path.write_text(head + textwrap.dedent(text).replace("from __future__ import annotations\n", ""), encoding="utf-8")
    open_folder(folder)
    schema = load_file(path)[0].schema()
    json.dumps(schema, allow_nan=False)
    return schema


def run(tool: Tool, agent: Agent | None = None, call: IncomingCall | None = CALL, **arguments: Any) -> Any:
    """Run a tool as the call does."""
    return running.run(tool, ToolCall("id", {}, agent or Agent(), call), arguments)


# --- what the model is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ("str", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("date", {"type": "string", "format": "date"}),
        ("datetime.datetime", {"type": "string", "format": "date-time"}),
        ("Literal['a', 'b']", {"type": "string", "enum": ["a", "b"]}),
        ("Size", {"type": "string", "enum": ["small", "large"]}),
        ("list[int]", {"type": "array", "items": {"type": "integer"}}),
        ("dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}),
        ("Annotated[int, Field(ge=1, le=9, description='How many.')]",
         {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."}),
        ("int | str", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("Any", {}),
    ],
)  # fmt: skip
def test_an_annotation_becomes_a_schema(tmp_path: Path, annotation: str, told: dict[str, Any]) -> None:
    schema = argument(tmp_path, annotation)
    assert schema["properties"]["value"] == told
    assert schema["required"] == ["value"]


@pytest.mark.parametrize(
    ("annotation", "default", "told"),
    [
        ("int", " = 3", {"type": "integer", "default": 3}),
        ("Optional[str]", " = None", {"type": "string"}),
        ("str | None", " = None", {"type": "string"}),
        ("date", " = None", {"type": "string", "format": "date"}),
        ("date", " = date(2026, 1, 2)", {"type": "string", "format": "date", "default": "2026-01-02"}),
        ("Size", " = Size.LARGE", {"type": "string", "enum": ["small", "large"], "default": "large"}),
        ("list[str]", " = []", {"type": "array", "items": {"type": "string"}, "default": []}),
    ],
)
def test_a_default_makes_an_argument_optional(
    tmp_path: Path, annotation: str, default: str, told: dict[str, Any]
) -> None:
    schema = argument(tmp_path, annotation, default)
    assert schema["properties"]["value"] == told
    assert "required" not in schema


def test_a_model_within_is_written_out_where_it_is_used(tmp_path: Path) -> None:
    schema = argument(tmp_path, "list[Address]")
    assert "$defs" not in schema
    item = schema["properties"]["value"]["items"]
    assert item["required"] == ["street"]
    assert item["properties"]["size"]["enum"] == ["small", "large"]


@pytest.mark.parametrize(
    "name", ["schema", "copy", "json", "model_config", "_hidden", "class_", "größe", "self", "cls"]
)
async def test_an_argument_may_be_called_what_pydantic_keeps_for_itself(tmp_path: Path, name: str) -> None:
    tool = loaded(tmp_path, f"@tool\ndef one({name}: int):\n    'Do.'\n    return {name} + 1\n")
    assert list(tool.schema()["properties"]) == [name]
    assert (await running.run(tool, ToolCall("id", {}), {name: "4"})).result == {"result": 5}
    assert (await run(tool)).result["error"].startswith(f"one was not run. {name}: is missing")


GOOGLE = """Tell where a parcel is.

    A longer story that the model is spared.

    Args:
        code: The code
            on the slip.
        fast: Whether it is urgent.
    """
NUMPY = """Tell where a parcel is.

    Parameters
    ----------
    code : str
        The code on the slip.
    fast : bool
        Whether it is urgent.
    """
SPHINX = """Tell where
    a parcel is.

    :param code: The code on the slip.
    :param fast: Whether it is urgent.
    """


@pytest.mark.parametrize("words", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_the_docstring_says_what_tool_and_arguments_are(tmp_path: Path, words: str) -> None:
    tool = loaded(tmp_path, f'@tool\ndef parcel(code: str, fast: bool = False):\n    """{words}"""\n')
    assert tool.description == "Tell where a parcel is."
    described = {name: each["description"] for name, each in tool.schema()["properties"].items()}
    assert described == {"code": "The code on the slip.", "fast": "Whether it is urgent."}


def test_words_in_the_annotation_win_over_those_of_the_docstring(tmp_path: Path) -> None:
    tool = loaded(
        tmp_path,
        """
        from typing import Annotated
        from pydantic import Field

        @tool
        def one(a: Annotated[int, Field(description="From here.")]):
            '''Do.

            :param a: From there.
            '''
        """,
    )
    assert tool.schema()["properties"]["a"]["description"] == "From here."


def test_the_decorator_says_how_a_tool_is_run(tmp_path: Path) -> None:
    plain = loaded(tmp_path, "@tool\ndef one():\n    'Do.'\n")
    assert (plain.name, plain.stage, plain.timeout_s, plain.writes, plain.repeatable) == (
        "one",
        "full",
        10.0,
        False,
        False,
    )
    assert plain.place == "worker"
    assert plain.schema()["properties"] == {}
    text = "@tool(stage='critical', timeout_s=3, writes=True, repeatable=True)\nasync def two():\n    'Do.'\n"
    told = loaded(tmp_path, text)
    assert (told.name, told.stage, told.timeout_s, told.writes, told.repeatable) == ("two", "critical", 3.0, True, True)


# --- how it runs --------------------------------------------------------------------------------------------------------


async def test_what_is_known_of_the_call_is_filled_in_and_not_shown(tmp_path: Path) -> None:
    tool = loaded(
        tmp_path,
        "@tool\nasync def one(info: CallInfo, a: int, more: CallInfo | None = None):\n    'Do.'\n    return info\n",
    )
    assert list(tool.schema()["properties"]) == ["a"]
    outcome = await run(tool, Agent(name="clinic", language="pt-BR", timezone="America/Sao_Paulo"), a=1)
    assert outcome.result == {
        "call_sid": "CA1", "caller": "+5511", "called": "+5522", "agent": "clinic", "language": "pt-BR",
        "timezone": "America/Sao_Paulo",
    }  # fmt: skip
    assert (await run(tool, call=None, a=1)).result["caller"] == ""


async def test_a_blocking_function_holds_up_nobody_and_costs_only_its_answer(tmp_path: Path) -> None:
    """The loop turns while it hangs, and its end is not waited for."""
    tool = loaded(
        tmp_path, "import threading\n@tool(timeout_s=0.2)\ndef one():\n    'Hang.'\n    threading.Event().wait()\n"
    )
    running_one = asyncio.ensure_future(run(tool))
    turns = 0
    while not running_one.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    assert running_one.result().result == running.TOO_LONG


async def test_a_blocking_function_takes_no_thread_from_others(tmp_path: Path) -> None:
    """The loop's own pool of threads is free, and so is another tool, while as many runs hang as are allowed."""
    hanging = loaded(
        tmp_path,
        "import threading\nGO = threading.Event()\n@tool\ndef one():\n    'Hang.'\n    GO.wait()\n    return 'late'\n",
    )
    go = sys.modules["offhook_tools.one"].GO
    runs = [asyncio.ensure_future(run(hanging)) for _ in range(custom_run.MOST_THREADS)]
    await asyncio.sleep(0)
    refused = await run(hanging)
    assert "not answering" in refused.result["error"]
    assert await asyncio.to_thread(lambda: "free") == "free"
    other = loaded(tmp_path, "@tool\ndef two():\n    'Answer.'\n    return 'here'\n")
    assert (await run(other)).result == {"result": "here"}
    go.set()
    assert [each.result for each in await asyncio.gather(*runs)] == [{"result": "late"}] * len(runs)
    assert (await run(hanging)).result == {"result": "late"}  # the threads are gone, and there is room again


async def test_an_async_function_that_does_not_let_itself_be_cancelled_is_left_alone(tmp_path: Path) -> None:
    tool = loaded(
        tmp_path,
        """
        import asyncio
        GO = asyncio.Event()

        @tool(timeout_s=0.05)
        async def one():
            'Hang.'
            while not GO.is_set():
                try:
                    await GO.wait()
                except asyncio.CancelledError:
                    pass
        """,
    )
    assert (await run(tool)).result == running.TOO_LONG
    sys.modules["offhook_tools.one"].GO.set()
    await asyncio.sleep(0)


async def test_a_cancelled_run_cancels_the_function(tmp_path: Path) -> None:
    text = """
    import asyncio
    STARTED, ENDED = asyncio.Event(), asyncio.Event()

    @tool
    async def one():
        'Wait.'
        STARTED.set()
        try:
            await asyncio.Event().wait()
        finally:
            ENDED.set()
    """
    tool = loaded(tmp_path, text)
    module = sys.modules["offhook_tools.one"]
    task = asyncio.ensure_future(run(tool))
    await module.STARTED.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await module.ENDED.wait()


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    "error",
    ["ValueError('x')", "SystemExit(3)", "KeyboardInterrupt()", "StopIteration()", "RecursionError()", "asyncio.CancelledError()",
     "GeneratorExit()", "BaseExceptionGroup('g', [SystemExit()])"],
)  # fmt: skip
async def test_whatever_a_function_raises_is_a_sentence(tmp_path: Path, kind: str, error: str) -> None:
    tool = loaded(tmp_path, f"import asyncio\n@tool\n{kind} one():\n    'Do.'\n    raise {error}\n")
    assert (await run(tool)).result == running.OUT_OF_ORDER


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_functions_own_sentence_is_told(tmp_path: Path, kind: str) -> None:
    tool = loaded(tmp_path, f"@tool\n{kind} one():\n    'Do.'\n    raise ToolError('We are full that day.')\n")
    assert (await run(tool)).result == {"error": "We are full that day."}


async def test_wrong_arguments_are_said_by_the_name_they_have_in_the_file(tmp_path: Path) -> None:
    tool = loaded(
        tmp_path,
        "from datetime import date\n@tool\ndef one(day: date, many: int = 1):\n    'Do.'\n    return type(day).__name__\n",
    )
    assert (await run(tool, day="2026-01-05")).result == {"result": "date"}
    error = (await run(tool, day="2026-02-31", many="x")).result["error"]
    assert "day: Input should be a valid date" in error
    assert "many: Input should be a valid integer" in error
    assert "2026" not in error


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("None", {"status": "done"}),
        ("'text'", {"result": "text"}),
        ("[1, 2]", {"result": [1, 2]}),
        ("{'a': date(2026, 1, 2), 2: Decimal('1.5')}", {"a": "2026-01-02", "2": "1.5"}),
        ("Point(1, 2)", {"x": 1, "y": 2}),
        ("Model(day=date(2026, 1, 2))", {"day": "2026-01-02"}),
        ("{1, 1}", {"result": [1]}),
        ("float('nan')", {"result": "NaN"}),
        ("(n for n in range(3))", {"result": [0, 1, 2]}),
        ("b'bytes'", {"result": "bytes"}),
        ("Colour.RED", {"result": "red"}),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_what_a_function_returns_is_told_as_json(tmp_path: Path, kind: str, given: str, told: Any) -> None:
    text = f"""
    import dataclasses, enum
    from datetime import date
    from decimal import Decimal
    from pydantic import BaseModel

    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: int
        y: int

    class Model(BaseModel):
        day: date

    @tool
    {kind} one():
        'Do.'
        return {given}
    """
    assert (await run(loaded(tmp_path, text))).result == told


@pytest.mark.parametrize(
    "given", ["b'\\xff'", "__import__('itertools').count()", "x", "object()", "'\\ud800'", "10**5000", "lambda: 1"]
)
async def test_what_is_no_json_is_told_all_the_same_and_shortened(tmp_path: Path, given: str) -> None:
    tool = loaded(tmp_path, f"x = []\nx.append(x)\n@tool\ndef one():\n    'Do.'\n    return {given}\n")
    outcome: Outcome = await run(tool)
    text = json.dumps(outcome.result, allow_nan=False)
    assert "error" not in outcome.result or outcome.result == running.OUT_OF_ORDER
    assert len(text) < 2 * running.MAX_RESULT_CHARS


async def test_a_wrapped_function_is_described_by_what_it_wraps(tmp_path: Path) -> None:
    tool = loaded(
        tmp_path,
        """
        import functools

        def noted(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)
            return wrapper

        @tool
        @noted
        async def one(a: int):
            'Do.'
            return a
        """,
    )
    assert (await run(tool, a=2)).result == {"result": 2}


def test_the_function_itself_stays_what_it_is(tmp_path: Path) -> None:
    loaded(tmp_path, "@tool\ndef one(a: int) -> int:\n    'Do.'\n    return a\n")
    assert sys.modules["offhook_tools.one"].one(3) == 3


# --- files --------------------------------------------------------------------------------------------------------------

FILES: dict[str, tuple[str, int, str]] = {
    "syntax": ("def (", 2, "SyntaxError"),
    "indentation": ("if True:\npass", 3, "IndentationError"),
    "import": ("\nimport nowhere_to_be_found", 3, "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "raises": ("def f():\n    raise ValueError('no\\nkey')\nf()", 3, "ValueError: no key"),
    "exits": ("import sys\nsys.exit(1)", 3, "SystemExit: 1"),
    "interrupts": ("raise KeyboardInterrupt", 2, "KeyboardInterrupt"),
    "none": ("def one():\n    'Do.'", 1, "no function in it is decorated with @tool"),
    "empty": ("", 1, "no function in it is decorated with @tool"),
    "two": ("@tool\ndef one():\n    'Do.'\n\n@tool\ndef two():\n    'Do.'", 7, "@tool stands on two, but on one already"),
    "twice": ("@tool\ndef one():\n    'Do.'\n\n@tool\ndef one():\n    'Do.'", 7, "one tool in each file"),
    "annotation": ("@tool\ndef one(\n    a: int,\n    b,\n):\n    'Do.'", 5, "parameter b has no annotation"),
    "args": ("@tool\ndef one(*a: int):\n    'Do.'", 3, "the model cannot fill in *a: name each parameter"),
    "kwargs": ("@tool\ndef one(**a: int):\n    'Do.'", 3, "the model cannot fill in **a: name each parameter"),
    "positional": ("@tool\ndef one(a: int, /):\n    'Do.'", 3, "leave out the slash"),
    "docstring": ("@tool\ndef one():\n    pass", 3, "it needs a docstring"),
    "blank": ("@tool\ndef one():\n    '''  '''", 3, "it needs a docstring"),
    "no summary": ("@tool\ndef one(a: int):\n    '''\n    Args:\n        a: It.\n    '''", 3, "it needs a docstring"),
    "default": ("@tool\ndef one(a: object = object()):\n    'Do.'", 3, "parameter a cannot be described to a model"),
    "nan": ("@tool\ndef one(a: float = float('nan')):\n    'Do.'", 3, "parameter a cannot be described to a model"),
    "wrong default": ("@tool\ndef one(\n    a: int = 'x',\n):\n    'Do.'", 4, "parameter a: its default is none: "),
    "class": ("class C: pass\n@tool\ndef one(a: C):\n    'Do.'", 4, "parameter a cannot be described to a model"),
    "callable": ("from typing import Callable\n@tool\ndef one(a: Callable[[], int]):\n    'Do.'", 4, "parameter a cannot"),
    "unknown name": ("@tool\ndef one(a: 'Nobody'):\n    'Do.'", 3, "its annotation cannot be read: name 'Nobody'"),
    "endless type": (
        "from pydantic import BaseModel\nclass T(BaseModel):\n    t: list['T']\n@tool\ndef one(a: T):\n    'Do.'",
        6, "its type refers to itself",
    ),
    "name": ("@tool\ndef grüße():\n    'Do.'", 3, "grüße is no name for a tool"),
    "long name": (f"@tool\ndef {'a' * 65}():\n    'Do.'", 3, "is no name for a tool"),
    "lambda": ("tool(lambda: 1)", 2, "<lambda> is no name for a tool"),
    "class decorated": ("@tool\nclass A: pass", 2, "TypeError: @tool decorates a function, not type"),
    "stage": ("@tool(stage='most')\ndef one():\n    'Do.'", 2, "@tool: stage must be one of critical, essential, full"),
    "timeout": ("@tool(timeout_s=0)\ndef one():\n    'Do.'", 2, "@tool: timeout_s must be a number of seconds up to 300"),
    "flag": ("@tool(writes='yes')\ndef one():\n    'Do.'", 2, "@tool: writes and repeatable must be True or False"),
    "option": ("@tool(quick=True)\ndef one():\n    'Do.'", 2, "TypeError: "),
    "built in": ("@tool\ndef end_call():\n    'Do.'", 3, "end_call is the name of a tool that is built in"),
    "thread": (
        "import threading\n\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n@tool\ndef one():\n    'Do.'",
        4, "it starts 1 thread(s) when it is loaded",
    ),
    "native thread": (
        ("import ctypes\nlibc = ctypes.CDLL(None)\nt = ctypes.c_ulong()\n"
        "libc.pthread_create(ctypes.byref(t), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)\n"
        "@tool\ndef one():\n    'Do.'"),
        1, "it starts 1 thread(s) when it is loaded",
    ),
    "leaves": ("import os\n\nos._exit(3)", 4, "SystemExit: os._exit(3)"),
    "killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 1, "it crashes the process (SIGKILL)"),
    "crashes": ("import ctypes\nctypes.string_at(0)", 3, "it crashes the process (SIGSEGV)"),
    "noisy": (("import os\nfor fd in range(3, 30):\n    try:\n        os.write(fd, b'x\\n')\n    except OSError: pass\n"
              "print('{}')"), 1, "no function in it is decorated with @tool"),
}  # fmt: skip


def test_every_broken_file_is_named_with_its_line_and_leaves_out_its_tool_only(tmp_path: Path) -> None:
    for name, (text, _, _) in FILES.items():
        (tmp_path / f"{name.replace(' ', '_')}.py").write_text(HEAD + text, encoding="utf-8")
    good = "@tool\ndef good():\n    'Do.'\n"
    written(tmp_path, good, "aa_first.py")
    written(tmp_path, good.replace("good", "also"), "zz_last.py")
    checked = check(tmp_path)
    assert [named.name for named in checked.good] == ["good", "also"]
    troubles = {trouble.file: trouble for trouble in checked.troubles}
    assert len(checked.troubles) == len(troubles) == len(FILES)
    for name, (_, line, why) in FILES.items():
        trouble = troubles[f"{name.replace(' ', '_')}.py"]
        assert (trouble.line, why in trouble.why) == (line, True), trouble
        assert "\n" not in str(trouble)


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"# one\n# two\n# three\nx = 'caf\xe9'\n", 4, "it is not UTF-8"),
        (b"x = 'caf\xe9'\n", 1, "its encoding cannot be read"),
        (b"# coding: klingon\n", 1, "its encoding cannot be read: unknown encoding: klingon"),
        (b"x = 1\ny = '\0'\n", 2, "it holds a zero byte"),
        (b"\xff\xfea\0", 1, "it holds a zero byte"),
        (b"(" * 500, 1, "SyntaxError"),
        (b"x = [1,\r\n\r\ny = 1\r\n", 1, "SyntaxError: '[' was never closed"),
    ],
)
def test_what_is_no_text_of_python_is_named_with_its_line(tmp_path: Path, content: bytes, line: int, why: str) -> None:
    path = tmp_path / "one.py"
    path.write_bytes(content)
    with pytest.raises(Broken) as broken:
        load_file(path)
    assert (broken.value.trouble.line, why in broken.value.trouble.why) == (line, True), broken.value.trouble


def test_a_file_in_another_encoding_says_so_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_bytes(b"# coding: latin-1\n" + HEAD.encode() + b"@tool\ndef one():\n    'Caf\xe9.'\n")
    assert load_file(path)[0].description == "Café."


def test_a_file_that_hangs_is_named_with_the_line_it_hangs_on(tmp_path: Path) -> None:
    written(tmp_path, "import threading\nthreading.Event().wait()\n", "hangs.py")
    written(tmp_path, "@tool\ndef good():\n    'Do.'\n", "later.py")
    checked = check(tmp_path, limit_s=2.0)
    assert checked.troubles == (Trouble("hangs.py", 3, "it was not loaded within 2 s"),)
    assert [named.file for named in checked.good] == ["later.py"]


def test_the_second_of_two_files_with_one_tool_is_left_out(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        written(tmp_path, "@tool\ndef one():\n    'Do.'\n", name)
    checked = check(tmp_path)
    assert [named.file for named in checked.good] == ["a.py"]
    assert checked.troubles == (Trouble("b.py", 3, "one is the name of the tool in a.py"),)


def test_names_that_begin_with_an_underscore_are_shared_and_no_tools(tmp_path: Path) -> None:
    (tmp_path / "_shared.py").write_text("WORD = 'hello'\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not Python", encoding="utf-8")
    (tmp_path / ".#one.py").write_text("not Python", encoding="utf-8")
    (tmp_path / "json.py").write_text(
        HEAD + "import json\nfrom _shared import WORD\nfrom ._shared import WORD as SAME\n"
        "@tool\ndef greet():\n    'Do.'\n    return json.dumps([WORD, SAME])\n",
        encoding="utf-8",
    )
    custom = load_custom(Settings(tools_dir=tmp_path))
    assert [tool.name for tool in custom.tools] == ["greet"]
    assert custom.troubles == ()


def test_a_broken_helper_is_blamed_on_the_line_that_imports_it(tmp_path: Path) -> None:
    (tmp_path / "_shared.py").write_text("x = (\n", encoding="utf-8")
    written(tmp_path, "\nimport _shared\n")
    (trouble,) = check(tmp_path).troubles
    assert (trouble.file, trouble.line) == ("one.py", 3)
    assert "_shared.py" in trouble.why


def test_without_a_folder_there_are_no_tools_and_nothing_is_started() -> None:
    assert load_custom(Settings(tools_dir=None)) == Custom()


def test_an_empty_folder_has_no_tools(tmp_path: Path) -> None:
    assert load_custom(Settings(tools_dir=tmp_path, tools_strict=True)) == Custom()


@pytest.mark.parametrize("strict", [False, True])
def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path, *, strict: bool) -> None:
    settings = Settings(tools_dir=tmp_path / "gone", tools_strict=strict)
    for step in (before_start, load_custom):
        with pytest.raises(SettingsError, match=r"^TOOLS_DIR: .*gone: No such file or directory$"):
            step(settings)


def test_a_broken_file_is_reported_and_only_strictness_stops_the_start(tmp_path: Path) -> None:
    written(tmp_path, "@tool\ndef good():\n    'Do.'\n", "good.py")
    written(tmp_path, "raise ValueError('one')\n", "a.py")
    written(tmp_path, "import nowhere_at_all\n", "b.py")
    custom = load_custom(Settings(tools_dir=tmp_path))
    assert [tool.name for tool in custom.tools] == ["good"]
    assert [problem.detail for problem in custom.problems] == [
        "a.py:2: ValueError: one",
        "b.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'",
    ]
    before_start(Settings(tools_dir=tmp_path))
    for step in (before_start, load_custom):
        with pytest.raises(SettingsError) as refused:
            step(Settings(tools_dir=tmp_path, tools_strict=True))
        assert str(refused.value).splitlines() == [
            f"TOOLS_DIR: {tmp_path}/a.py:2: ValueError: one",
            f"TOOLS_DIR: {tmp_path}/b.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ]


def test_of_a_hundred_broken_files_the_first_are_shown() -> None:
    custom = Custom((), tuple(Trouble(f"{number}.py", 1, "x" * 400) for number in range(100)))
    assert len(custom.problems) == 21
    assert custom.problems[-1].detail == "and 80 more, which are in the log"
    assert sum(len(problem.detail) for problem in custom.problems) < 32_000


def test_the_check_knows_no_secrets_of_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_abcdef")
    written(tmp_path, "import os\nraise ValueError(sorted(name for name in os.environ if 'SECRET' in name))\n")
    assert check(tmp_path).troubles == (Trouble("one.py", 3, "ValueError: []"),)


def test_what_a_file_starts_while_it_is_checked_ends_with_the_check(tmp_path: Path) -> None:
    written(
        tmp_path,
        f"""
        import pathlib, subprocess
        child = subprocess.Popen(["sleep", "3600"])
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))

        @tool
        def one():
            'Do.'
        """,
    )
    check(tmp_path)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    for _ in range(1000):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split()[2] != "Z":
                time.sleep(0.01)
                continue
        break
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("it still runs")


def test_loading_starts_no_thread_in_this_process(tmp_path: Path) -> None:
    """The zygote forks: what a file starts in spite of its check stops the load, by name."""
    before = threading.active_count()
    written(
        tmp_path,
        f"""
        import os, pathlib, threading
        GO = threading.Event()
        if os.getpid() == {os.getpid()}:
            threading.Thread(target=GO.wait, daemon=True).start()

        @tool
        def one():
            'Do.'
        """,
    )
    with pytest.raises(SettingsError, match=r"one\.py:1: it starts threads when it is loaded, though not always"):
        load_custom(Settings(tools_dir=tmp_path))
    sys.modules["offhook_tools.one"].GO.set()
    while threading.active_count() > before:
        time.sleep(0.001)


# --- the example that is shipped ----------------------------------------------------------------------------------------


async def test_the_shipped_example_loads_and_answers() -> None:
    custom = load_custom(Settings(tools_dir=ROOT / "deploy" / "tools.example", tools_strict=True))
    (tool,) = custom.tools
    assert tool.name not in BUILT_IN
    schema = tool.schema()
    assert set(schema["properties"]) == {"day", "cars"}
    assert all(each["description"] for each in schema["properties"].values())
    answer = await run(tool, Agent(timezone="America/Sao_Paulo"))
    assert answer.result["room"] is True
    assert "error" in (await run(tool, day="2020-01-01")).result
    assert (await run(tool, cars=100)).result["room"] is False


def test_a_pool_with_a_broken_file_and_strictness_does_not_start(tmp_path: Path) -> None:
    written(tmp_path, "import nowhere_at_all\n")
    env = {
        "PATH": os.environ["PATH"],
        "OPENAI_API_KEY": "k",
        "CARTESIA_API_KEY": "k",
        "CARTESIA_VOICE_ID": "v",
        "TOOLS_DIR": str(tmp_path),
        "TOOLS_STRICT": "true",
        "HANDOFF_DIR": str(tmp_path / "run"),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "worker"], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert (
        ended.stderr
        == f"offhook: TOOLS_DIR: {tmp_path}/one.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'\n"
    )
    assert not (tmp_path / "run").exists()
