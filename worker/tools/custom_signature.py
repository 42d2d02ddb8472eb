"""What the model is told of a function: its signature as a pydantic model, and its docstring's words.

Fields of the model have names of our own (`a0`, `a1`, ...) and the parameters' names as aliases, since a parameter may be called
what pydantic keeps for itself (`schema`, `copy`, `_id`).
"""

import ast
import inspect
import json
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import PydanticJsonSchemaWarning

from worker.tools.custom import CallInfo
from worker.tools.schemas import inline

_CONFIG: Final = ConfigDict(hide_input_in_errors=True, validate_default=True)

MOST_WORDS: Final = 200
"""Of what a library says is wrong."""

_UNFIT: Final[Mapping[Any, str]] = {
    inspect.Parameter.VAR_POSITIONAL: "the model cannot fill in *{}: name each parameter",
    inspect.Parameter.VAR_KEYWORD: "the model cannot fill in **{}: name each parameter",
    inspect.Parameter.POSITIONAL_ONLY: "parameter {} is filled in by name: leave out the slash behind it",
}


class BadSignature(Exception):
    """A function cannot be described to a model. `parameter` names the one at fault, None for the function as a whole."""

    def __init__(self, why: str, parameter: str | None = None) -> None:
        super().__init__(why)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Described:
    """A function as the model sees it.

    Attributes:
        arguments: what the model may say.
        names: the field of each parameter that the model fills in.
        infos: the parameters that get the `CallInfo`.
    """

    description: str
    arguments: type[BaseModel]
    names: Mapping[str, str]
    infos: tuple[str, ...]


def describe(function: Callable[..., Any]) -> Described:
    """Read a function's signature and docstring.

    Raises:
        BadSignature: in words for whoever wrote it.
    """
    written = docstring(function)
    infos: list[str] = []
    names: dict[str, str] = {}
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = _annotation(function, parameter)
        if _is_info(annotation):
            infos.append(name)
            continue
        field = f"a{len(fields)}"
        names[name] = field
        fields[field] = (annotation, _field(parameter, annotation, written.arguments.get(name)))
        _check(name, fields[field])
    arguments: type[BaseModel] = create_model(function.__name__, __config__=_CONFIG, **fields)
    return Described(written.summary, arguments, names, tuple(infos))


@dataclass(frozen=True, slots=True)
class Docstring:
    """The words of a docstring: what the function does, and what each argument is."""

    summary: str
    arguments: Mapping[str, str]


def docstring(function: Callable[..., Any]) -> Docstring:
    """Read a docstring of Google's, NumPy's or Sphinx' form; only the first paragraph when it is of none.

    Raises:
        BadSignature: there is none, or it does not begin with what the function does.
    """
    text = inspect.getdoc(function) or ""
    summary, arguments = text.partition("\n\n")[0], {}
    try:
        parsed = docstring_parser.parse(f"\n{text}")  # a section on the first line is none to it
    except docstring_parser.ParseError:
        pass
    else:
        summary = parsed.short_description or ""
        if not parsed.blank_after_short_description and parsed.long_description:  # a sentence of two lines
            summary += " " + parsed.long_description.partition("\n\n")[0]
        arguments = {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}
    summary = " ".join(summary.split())
    if not summary:
        raise BadSignature("it needs a docstring that begins with what it does, for the model to read")
    return Docstring(summary, {name: words for name, words in arguments.items() if words})


def line_of(function: Callable[..., Any], source: str, parameter: str | None = None) -> int:
    """Find the line on which a function, or one of its parameters, stands in the file it comes from."""
    first = int(inspect.unwrap(function).__code__.co_firstlineno)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            begins = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if begins == first:
                every = [
                    *node.args.posonlyargs,
                    *node.args.args,
                    *node.args.kwonlyargs,
                    node.args.vararg,
                    node.args.kwarg,
                ]
                lines = [each.lineno for each in every if each is not None and each.arg == parameter]
                return lines[0] if lines else node.lineno
    return first


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Give what a parameter is annotated with, also where that is written as a text."""
    name = parameter.name
    if unfit := _UNFIT.get(parameter.kind):
        raise BadSignature(unfit.format(name), name)
    if parameter.annotation is inspect.Parameter.empty:
        raise BadSignature(f"parameter {name} has no annotation", name)
    holder = types.SimpleNamespace(__annotations__={name: parameter.annotation})
    try:
        hints = typing.get_type_hints(holder, inspect.unwrap(function).__globals__, include_extras=True)
    except Exception as error:  # noqa: BLE001 - an annotation is any expression
        raise BadSignature(f"parameter {name}: its annotation cannot be read: {error}", name) from None
    annotation = hints[name]
    return annotation | None if parameter.default is None and not _is_info(annotation) else annotation


def _is_info(annotation: Any) -> bool:
    return annotation is CallInfo or CallInfo in typing.get_args(annotation)


def _field(parameter: inspect.Parameter, annotation: Any, words: str | None) -> Any:
    """Give a field its outer name, its default and its words; words written in the annotation win."""
    options: dict[str, Any] = {"alias": parameter.name}
    if words and not _has_words(annotation):
        options["description"] = words
    if parameter.default is not inspect.Parameter.empty:
        options["default"] = parameter.default
    return Field(**options)


def _has_words(annotation: Any) -> bool:
    if typing.get_origin(annotation) is not Annotated:
        return False
    return any(getattr(each, "description", None) for each in annotation.__metadata__)


def _check(name: str, field: Any) -> None:
    """Make sure that the model can be told of a parameter, and that its default is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PydanticJsonSchemaWarning)
            model = create_model("One", __config__=_CONFIG, a0=field)
            schema = inline(model.model_json_schema())
            json.dumps(schema, allow_nan=False)
        if not schema.get("required"):
            model.model_validate({})
    except ValidationError as error:
        raise BadSignature(f"parameter {name}: its default is none: {error.errors()[0]['msg']}", name) from None
    except Exception as error:  # noqa: BLE001 - pydantic has a dozen ways to say so
        words = str(error).partition("\n")[0][:MOST_WORDS]
        raise BadSignature(f"parameter {name} cannot be described to a model: {words}", name) from None
    if "$defs" in schema:
        raise BadSignature(f"parameter {name} cannot be described to a model: its type refers to itself", name)
