"""A template's tree and a value become text.

A name that the outermost value lacks is an error, because it is most likely a mistake. A
name that an inner value lacks is nothing (`<no value>`), because the API leaves out what is
empty. A name of nothing is an error, as in Go.
"""

from __future__ import annotations

from cove.cli.template import functions
from cove.cli.template.lexer import TemplateError
from cove.cli.template.parser import (
    Branch,
    Chain,
    Command,
    Dot,
    Function,
    Literal,
    Output,
    Pipeline,
    Range,
    Text,
    Variable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cove.cli.template.parser import Node, Operand


def render(nodes: list[Node], value: Any) -> str:
    """The text that a template gives for a value; raises TemplateError."""
    found: list[str] = []
    _Run(value, found).all(nodes, value)
    return "".join(found)


class _Run:
    def __init__(self, root: Any, out: list[str]) -> None:
        self._root = root
        self._out = out
        self._variables: dict[str, Any] = {"$": root}

    def all(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self._out.append(node.text)
            elif isinstance(node, Output):
                value = self._pipeline(node.pipeline, dot)
                if not node.pipeline.names:
                    self._out.append(functions.text(value))
            elif isinstance(node, Branch):
                self._branch(node, dot)
            else:
                self._range(node, dot)

    def _branch(self, node: Branch, dot: Any) -> None:
        value = self._pipeline(node.pipeline, dot)
        if functions.true(value):
            self.all(node.body, value if node.keyword == "with" else dot)
        else:
            self.all(node.otherwise, dot)

    def _range(self, node: Range, dot: Any) -> None:
        pairs = list(_pairs(self._pipeline(node.pipeline, dot)))
        names = node.pipeline.names
        for key, value in pairs:
            if len(names) == 2:
                self._variables[names[0]] = key
            if names:
                self._variables[names[-1]] = value
            self.all(node.body, value)
        if not pairs:
            self.all(node.otherwise, dot)

    def _pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        value: Any = None
        for position, command in enumerate(pipeline.commands):
            value = self._command(command, dot, [value] if position else [])
        if len(pipeline.names) == 1:
            self._variables[pipeline.names[0]] = value
        return value

    def _command(self, command: Command, dot: Any, piped: list[Any]) -> Any:
        values = [self._value(argument, dot) for argument in command.arguments] + piped
        if isinstance(command.head, Function):
            return _call(functions.FUNCTIONS.get(command.head.name), command.head.name, values)
        head = self._value(command.head, dot, called=bool(values))
        if callable(head):
            return _call(head, "method", values)
        if values:
            raise TemplateError("the template gives arguments to something that is no function")
        return head

    def _value(self, operand: Operand, dot: Any, *, called: bool = False) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Variable):
            if operand.name not in self._variables:
                raise TemplateError(f"the template's variable {operand.name} has no value")
            return self._variables[operand.name]
        if isinstance(operand, Function):
            return _call(functions.FUNCTIONS.get(operand.name), operand.name, [])
        if isinstance(operand, Pipeline):
            return self._pipeline(operand, dot)
        assert isinstance(operand, Chain)
        value = self._value(operand.base, dot)
        for name in operand.fields:
            value = self._field(value, name)
        return value

    def _field(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            if value is self._root:
                raise TemplateError(f"the template's field .{name} does not exist{_hint(name, value)}")
            return None
        raise TemplateError(f"the template asks for .{name} of {functions.text(value)}, which has no fields")


def _hint(name: str, value: dict[str, Any]) -> str:
    from cove.cli.suggest import nearest

    lowered = {key.lower(): key for key in value}
    found = lowered.get(name.lower()) or nearest(name, value)
    return f"; did you mean .{found}?" if found else ""


def _call(function: Any, name: str, values: list[Any]) -> Any:
    if function is None:
        raise TemplateError(f"the template's function {name!r} does not exist")
    try:
        return function(*values)
    except (TypeError, AttributeError) as error:
        raise TemplateError(f"the template's function {name!r} does not fit its arguments: {error}") from None


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, int):
        return [(number, number) for number in range(value)]
    raise TemplateError(f"the template ranges over {functions.text(value)}, which is no list")
