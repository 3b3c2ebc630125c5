"""Tokens become a tree of small nodes.

Text · Output(pipeline) · Branch(if, with) · Range
a Pipeline is commands joined by `|`; a Command is a head and its arguments
"""

from __future__ import annotations

import ast

from cove.cli.template.lexer import TemplateError, Token, tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Node: TypeAlias = "Text | Output | Branch | Range"
    Operand: TypeAlias = "Literal | Variable | Dot | Function | Chain | Pipeline"


class Text:
    def __init__(self, text: str) -> None:
        self.text = text


class Literal:
    def __init__(self, value: object) -> None:
        self.value = value


class Dot:
    """`.`: the value at hand."""


class Variable:
    """`$name`; `$` alone is the value that the template began with."""

    def __init__(self, name: str) -> None:
        self.name = name


class Function:
    def __init__(self, name: str) -> None:
        self.name = name


class Chain:
    """`base.a.b`"""

    def __init__(self, base: Operand, fields: list[str]) -> None:
        self.base = base
        self.fields = fields


class Command:
    def __init__(self, head: Operand, arguments: list[Operand]) -> None:
        self.head = head
        self.arguments = arguments


class Pipeline:
    def __init__(self, names: list[str], commands: list[Command]) -> None:
        self.names = names
        """Variables that take the value: none, one, or two in a `range`."""
        self.commands = commands


class Output:
    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline


class Branch:
    """`if` and `with`; `with` also makes its value the one at hand."""

    def __init__(self, keyword: str, pipeline: Pipeline, body: list[Node], otherwise: list[Node]) -> None:
        self.keyword = keyword
        self.pipeline = pipeline
        self.body = body
        self.otherwise = otherwise


class Range:
    def __init__(self, pipeline: Pipeline, body: list[Node], otherwise: list[Node]) -> None:
        self.pipeline = pipeline
        self.body = body
        self.otherwise = otherwise


def parse(source: str) -> list[Node]:
    """The template's tree; raises TemplateError."""
    parser = _Parser(tokens(source))
    nodes, ended_by = parser.nodes()
    if ended_by:
        raise TemplateError(f"the template has {{{{{ended_by}}}}} where nothing is open")
    return nodes


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._at = 0

    def nodes(self) -> tuple[list[Node], str]:
        """Nodes up to `end`, `else` or the end of the template, and which of them it was."""
        found: list[Node] = []
        while self._at < len(self._tokens):
            token = self._next()
            if token.kind == "text":
                if token.text:
                    found.append(Text(token.text))
                continue
            word = self._peek()
            if word.kind == "name" and word.text in {"end", "else"}:
                self._next()
                return found, word.text
            if word.kind == "name" and word.text in {"if", "with", "range"}:
                self._next()
                found.append(self._block(word.text))
            else:
                found.append(Output(self._pipeline("close")))
        return found, ""

    def _block(self, keyword: str) -> Node:
        pipeline = self._pipeline("close")
        body, ended_by = self.nodes()
        otherwise: list[Node] = []
        if ended_by == "else":
            word = self._peek()
            if word.kind == "name" and word.text in {"if", "with"}:
                self._next()
                otherwise = [self._block(word.text)]  # `else if` shares the `end` of its `if`
                ended_by = "end"
            else:
                self._expect_close()
                otherwise, ended_by = self.nodes()
                if ended_by == "end":
                    self._expect_close()
        elif ended_by == "end":
            self._expect_close()
        if ended_by != "end":
            raise TemplateError(f"the template has a {{{{{keyword}}}}} without its {{{{end}}}}")
        if keyword == "range":
            return Range(pipeline, body, otherwise)
        return Branch(keyword, pipeline, body, otherwise)

    def _pipeline(self, until: str) -> Pipeline:
        names = self._declared()
        commands = [self._command()]
        while True:
            token = self._next()
            if token.text == "|":
                commands.append(self._command())
            elif token.kind == until or token.text == until:
                return Pipeline(names, commands)
            else:
                raise TemplateError(f"the template has {token.text!r} where it is not expected")

    def _declared(self) -> list[str]:
        names: list[str] = []
        at = self._at
        while self._tokens[at].kind == "variable":
            names.append(self._tokens[at].text)
            if self._tokens[at + 1].kind == "assign":
                self._at = at + 2
                return names
            at += 2 if self._tokens[at + 1].text == "," else 1
        return []

    def _command(self) -> Command:
        head = self._operand()
        arguments = []
        while self._peek().kind != "close" and self._peek().text not in {"|", ")"}:
            arguments.append(self._operand())
        return Command(head, arguments)

    def _operand(self) -> Operand:
        token = self._next()
        base: Operand
        fields: list[str] = []
        if token.kind in {"field", "chained"}:
            base, fields = Dot(), [token.text[1:]]
        elif token.kind == "dot":
            base = Dot()
        elif token.kind == "variable":
            base = Variable(token.text)
        elif token.kind == "name":
            constants: dict[str, object] = {"true": True, "false": False, "nil": None}
            base = Literal(constants[token.text]) if token.text in constants else Function(token.text)
        elif token.text == "(":
            base = self._pipeline(")")
        elif token.kind in {"string", "char", "number"}:
            base = Literal(ast.literal_eval(token.text))
        elif token.kind == "raw":
            base = Literal(token.text[1:-1])
        else:
            raise TemplateError(f"the template has {token.text or 'nothing'!r} where a value should be")
        while self._at < len(self._tokens) and self._peek().kind == "chained":
            fields.append(self._next().text[1:])
        return Chain(base, fields) if fields else base

    def _expect_close(self) -> None:
        if self._next().kind != "close":
            raise TemplateError("the template has something after end or else")

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token
