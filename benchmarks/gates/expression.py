"""Boolean expressions of Liberty: ``function``, ``next_state``, ``when`` and the like.

Operators, strongest first: ``!x`` and ``x'``; ``^``; ``*``, ``&`` or nothing; ``+`` or ``|``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tilescore.rtl.spec.errors import ConfigError

Expression = tuple
"""("name", n), ("constant", 0 or 1), ("not", x), ("and" | "or" | "xor", x, y)."""

_TOKEN = re.compile(r"\s*([A-Za-z_][\w\[\]]*|[01]|[!'^*&+|()])")
_VERILOG = {"and": "&", "or": "|", "xor": "^"}


def parse(text: str) -> Expression:
    """Raises `ConfigError` quoting the text."""
    tokens, position, text = [], 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigError(f"expression {text!r}: unexpected {text[position]!r}")
        tokens.append(match[1])
        position = match.end()
    parser = _Parser(tokens, text)
    result = parser.either()
    if parser.tokens:
        raise ConfigError(f"expression {text!r}: unexpected {parser.tokens[0]!r}")
    return result


class _Parser:
    def __init__(self, tokens: list[str], text: str) -> None:
        self.tokens, self._text = tokens, text

    def _next_is(self, symbols: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in symbols

    def either(self) -> Expression:
        left = self._both()
        while self._next_is("+|"):
            self.tokens.pop(0)
            left = ("or", left, self._both())
        return left

    def _both(self) -> Expression:
        left = self._different()
        while self.tokens and not self._next_is("+|)"):
            if self._next_is("*&"):
                self.tokens.pop(0)
            left = ("and", left, self._different())
        return left

    def _different(self) -> Expression:
        left = self._factor()
        while self._next_is("^"):
            self.tokens.pop(0)
            left = ("xor", left, self._factor())
        return left

    def _factor(self) -> Expression:
        if not self.tokens:
            raise ConfigError(f"expression {self._text!r}: ends too early")
        token = self.tokens.pop(0)
        if token == "!":
            return "not", self._factor()
        if token == "(":
            result = self.either()
            if not self._next_is(")"):
                raise ConfigError(f"expression {self._text!r}: ')' is missing")
            self.tokens.pop(0)
        elif token in "01":
            result = "constant", int(token)
        elif token[0].isalpha() or token[0] == "_":
            result = "name", token
        else:
            raise ConfigError(f"expression {self._text!r}: unexpected {token!r}")
        while self._next_is("'"):
            self.tokens.pop(0)
            result = "not", result
        return result


def evaluate(expression: Expression, values: Mapping[str, int]) -> int | None:
    """0 or 1; None if it depends on names that ``values`` does not have."""
    kind = expression[0]
    if kind == "name":
        return values.get(expression[1])
    if kind == "constant":
        return expression[1]
    parts = [evaluate(part, values) for part in expression[1:]]
    if kind == "not":
        return None if parts[0] is None else 1 - parts[0]
    dominant = {"and": 0, "or": 1}.get(kind)
    if dominant is not None and dominant in parts:
        return dominant
    if None in parts:
        return None
    return parts[0] ^ parts[1] if kind == "xor" else parts[0]


def verilog(expression: Expression) -> str:
    kind = expression[0]
    if kind == "name":
        return expression[1]
    if kind == "constant":
        return f"1'b{expression[1]}"
    if kind == "not":
        return f"(~{verilog(expression[1])})"
    return f"({verilog(expression[1])} {_VERILOG[kind]} {verilog(expression[2])})"


def names(expression: Expression) -> Iterable[str]:
    if expression[0] == "name":
        yield expression[1]
    elif expression[0] != "constant":
        for part in expression[1:]:
            yield from names(part)
