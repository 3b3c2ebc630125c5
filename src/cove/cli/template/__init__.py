"""`--format '{{…}}'`: the part of Go's template language that people use with `docker`.

    text ──lexer──▶ tokens ──parser──▶ a tree ──evaluate──▶ text

Fields, methods, variables, pipes, `if else range with end`, comparisons, and the functions
of `functions`. `render(compiled, value)` gives the text; TemplateError says what is wrong.
"""

from __future__ import annotations

from cove.cli.template.evaluate import render
from cove.cli.template.lexer import TemplateError
from cove.cli.template.parser import parse

__all__ = ["TemplateError", "parse", "render"]
