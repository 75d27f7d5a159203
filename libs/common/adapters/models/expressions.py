"""Small expressions over answers and payloads (JMESPath), and templates with such expressions inside.

Both come from tenants, and the data from strangers: an expression sees only the value that it is given, and how much it
may do is limited, first by its form, then while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

LENGTH_LIMIT: Final = 1_000
STEPS_LIMIT: Final = 200_000
RESULT_BYTES: Final = 64 * 2**20

_NODES_LIMIT: Final = 200
#: How often the parts of a value may be repeated by [a, b] and {a: a}; each repetition may contain the one before.
_WIDTH_LIMIT: Final = 64
_SEPARATOR_LIMIT: Final = 16
#: Python reads and writes no integer of more than 4,300 digits, and a sum has some more than what it is of. Of a longer
#: text it makes a copy and a complaint, holding all threads.
_NUMBER_LIMIT: Final = 4_000
_FUNCTIONS: Final = frozenset(
    {
        "abs", "avg", "ceil", "contains", "ends_with", "floor", "join", "keys", "length", "map", "max", "max_by",
        "merge", "min", "min_by", "not_null", "reverse", "sort", "sort_by", "starts_with", "sum", "to_array",
        "to_number", "type", "values",
    }
)  # fmt: skip
_DEEPEST: Final = 32
#: A step takes about as long as copying so many elements, as reading so many of them, as searching so much text.
_PER_STEP: Final = 16
_READ_PER_STEP: Final = 4
_SEARCHED_PER_STEP: Final = 512
#: Finding anything at all takes as long as so many.
_FIND_STEPS: Final = 4
_MAKING: Final = frozenset({"flatten", "slice", "function_expression", "value_projection"})
_EACH_BYTES: Final = 64  #: what a value counts for at least: reading it takes time, too
_KNOWN: Final = Functions()
#: These look at their arguments, not through them.
_GLANCING: Final = frozenset({"ends_with", "length", "map", "not_null", "starts_with", "to_array", "type"})


class BadExpression(ValueError):
    """An expression or a template that cannot be used; the message says where and why."""


class Missing(LookupError):
    """A template needs a value that is not there."""


class TooLong(Exception):
    """Work that takes longer than others in the loop should have to wait."""


class _Steps:
    """How many steps are left, and what is raised behind the last one."""

    def __init__(self, left: int, over: type[Exception]) -> None:
        self._left = left
        self._over = over

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise self._over("too many steps")


_shared: ContextVar[_Steps | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(steps: int = STEPS_LIMIT, over: type[Exception] = ValueError) -> Iterator[None]:
    """All expressions inside have so many steps together, not each; behind the last one they find nothing, or raise
    what `over` is."""
    before = _shared.set(_Steps(steps, over))
    try:
        yield
    finally:
        _shared.reset(before)


class Expression:
    """A JMESPath expression. Raises BadExpression when it cannot be used."""

    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_LIMIT:
            raise BadExpression(f"the expression is longer than {LENGTH_LIMIT} characters")
        try:
            self._parsed = jmespath.compile(text).parsed
        except JMESPathError as error:
            raise BadExpression(f"{text!r} is no JMESPath expression: {_one_line(error)}") from None
        except RecursionError:
            raise BadExpression("the expression is nested too deeply") from None
        self.text = text.strip()
        _check_form(self._parsed)

    def find(self, value: Any) -> Any:
        """What the expression finds in `value`; None for nothing, and for what cannot be computed."""
        steps = _shared.get() or _Steps(STEPS_LIMIT, ValueError)
        try:
            steps.spend(_FIND_STEPS)
            found = _Interpreter(steps).visit(self._parsed, value)
            fitting, parts = _weighed(found, RESULT_BYTES)
            steps.spend(parts // _READ_PER_STEP)
            return found if fitting else None
        except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
            return None

    def names(self) -> set[str]:
        """Every name that it looks for, wherever."""
        return {node["value"] for node in _nodes(self._parsed) if node["type"] == "field"}

    def roots(self) -> set[str]:
        """The names that it looks for in the value that it is given."""
        return set(_roots(self._parsed))


class _Interpreter(TreeInterpreter):
    """Gives up when no steps are left. Whatever makes a list or a text takes as many more as it is long, and whatever
    reads one through."""

    def __init__(self, steps: _Steps) -> None:
        super().__init__()
        self._steps = steps

    def visit(self, node: Any, *arguments: Any, **named: Any) -> Any:
        self._steps.spend(1)
        made = super().visit(node, *arguments, **named)
        if node["type"] in _MAKING and isinstance(made, list | str):
            self._steps.spend(len(made) // _PER_STEP)
        return made

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        if node["value"] == "to_number" and any(map(_is_long, arguments)):
            return None
        if node["value"] not in _GLANCING:
            self._steps.spend(sum(map(_reading, arguments)))
        return _KNOWN.call_function(node["value"], arguments)


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > _NUMBER_LIMIT


def _reading(value: Any) -> int:
    """The steps that it takes to look through a value."""
    if isinstance(value, str):
        return len(value) // _SEARCHED_PER_STEP
    return len(value) // _READ_PER_STEP if isinstance(value, list | dict) else 0


@dataclass(frozen=True, slots=True)
class Template:
    """A string with `{{expressions}}` inside. Raises BadExpression when it cannot be used."""

    parts: tuple[str | Expression, ...]

    @classmethod
    def of(cls, text: str) -> Template:
        parts: list[str | Expression] = []
        done = 0
        # No pattern: each of many {{ that nothing closes would have it look through the rest of the text.
        while (start := text.find("{{", done)) >= 0 and (end := text.find("}}", start + 2)) >= 0:
            parts += [text[done:start], Expression(text[start + 2 : end])]
            done = end + 2
        parts.append(text[done:])
        return cls(tuple(part for part in parts if part != ""))

    def value(self, scope: Mapping[str, Any]) -> Any:
        """What it stands for: the value itself where it is one placeholder alone, else text."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0].find(scope)
        return self.text(scope)

    def text(self, scope: Mapping[str, Any], escape: Callable[[str], str] = str) -> str:
        """The text, what was put in escaped. Raises Missing for a placeholder that finds nothing."""
        return "".join(part if isinstance(part, str) else escape(_put_in(part, scope)) for part in self.parts)

    def expressions(self) -> Iterator[Expression]:
        return (part for part in self.parts if isinstance(part, Expression))


class Document:
    """A JSON value whose strings are templates. Members whose placeholder finds nothing are left out."""

    def __init__(self, value: Any) -> None:
        self._value = _compiled(value, 0)

    def value(self, scope: Mapping[str, Any]) -> Any:
        """The document, filled. Raises Missing for text that lacks a part."""
        return _filled(self._value, scope)

    def expressions(self) -> Iterator[Expression]:
        return _expressions(self._value)


def fits(value: Any, limit: int) -> bool:
    """Whether a value stays below this many bytes, roughly, once it is written down.

    What an expression repeats costs nothing until then: the same part may be in a value any number of times.
    """
    return _weighed(value, limit)[0]


def _weighed(value: Any, limit: int) -> tuple[bool, int]:
    """Whether it fits, and at how many parts of it that was seen."""
    waiting, left, parts = [value], limit, 0
    while waiting:
        part = waiting.pop()
        parts += 1
        left -= _EACH_BYTES + (len(part) if isinstance(part, str) else 0)
        if left < 0:
            return False, parts
        if isinstance(part, dict):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return True, parts


def as_text(value: Any) -> str | None:
    """A word or a number as text, None for what is neither."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    return None


def _put_in(expression: Expression, scope: Mapping[str, Any]) -> str:
    found = as_text(expression.find(scope))
    if found is None:
        raise Missing(f"{expression.text} is neither text nor a number here")
    return found


def _compiled(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise BadExpression("the document is nested too deeply")
    if isinstance(value, str):
        return Template.of(value)
    if isinstance(value, Mapping):
        return {name: _compiled(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_compiled(inner, depth + 1) for inner in value]
    return value


def _filled(value: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(value, Template):
        return value.value(scope)
    if isinstance(value, dict):
        filled = {name: _filled(inner, scope) for name, inner in value.items()}
        return {name: found for name, found in filled.items() if found is not None or value[name] is None}
    if isinstance(value, list):
        return [_filled(inner, scope) for inner in value]
    return value


def _expressions(value: Any) -> Iterator[Expression]:
    if isinstance(value, Template):
        yield from value.expressions()
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _check_form(parsed: Any) -> None:
    nodes, width = 0, 1
    for node in _nodes(parsed):
        nodes += 1
        if node["type"] in ("multi_select_list", "multi_select_dict"):
            width *= max(len(node["children"]), 1)
        if node["type"] == "function_expression":
            _check_function(node)
    if nodes > _NODES_LIMIT or width > _WIDTH_LIMIT:
        raise BadExpression("the expression does too much")


def _check_function(node: Any) -> None:
    name = node["value"]
    if name not in _FUNCTIONS:
        raise BadExpression(f"there is no function {name}() here")
    if name == "join":
        first = node["children"][0] if node["children"] else {}
        separator = first.get("value")
        if first.get("type") != "literal" or not isinstance(separator, str) or len(separator) > _SEPARATOR_LIMIT:
            raise BadExpression(
                f"join() takes a literal of at most {_SEPARATOR_LIMIT} characters as its first argument"
            )


def _nodes(parsed: Any) -> Iterator[Any]:
    waiting = [parsed]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "type" in node:
            yield node
            waiting.extend(node.get("children", ()))


#: Of these, only the first child sees the value that the whole expression is given.
_STEPS: Final = frozenset(
    {
        "subexpression", "pipe", "projection", "value_projection", "filter_projection", "index_expression", "flatten",
    }
)  # fmt: skip


def _roots(node: Any) -> Iterator[str]:
    if node["type"] == "field":
        yield node["value"]
    elif node["type"] != "expref":
        children = [child for child in node.get("children", ()) if isinstance(child, dict) and "type" in child]
        for child in children[:1] if node["type"] in _STEPS else children:
            yield from _roots(child)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
