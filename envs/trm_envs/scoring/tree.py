r"""The gate in front of math-verify's grammar: tokens of an allow-list, nested by their braces.

Nothing is evaluated here, and nothing that is not named here goes on: text, unknown commands, unbalanced groups and
deep nesting are `Unreadable`.
"""

import re

from trm_envs.scoring.greek import VARIABLES
from trm_envs.scoring.items import FAMILIES, Item, Row, Unreadable

MAX_TOKENS = 600
MAX_DEPTH = 24
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|\s+|.", re.DOTALL)
_SYNONYMS = {"tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan", "asin": "arcsin", "acos": "arccos"}
_BIG = {"sum": "sum", "prod": "prod", "int": "int", "lim": "lim"}
_SAME_MARKS = {"overrightarrow": "vec", "widehat": "hat", "overline": "bar", "widetilde": "tilde"}
_STYLES = frozenset(["mathbf", "mathit", "boldsymbol", "bm", "mathsf", "mathcal", "mathnormal", "underline"])
_MARKS = frozenset(["hat", "vec", "bar", "tilde", "dot", "overline", "overrightarrow", "widehat", "widetilde"])
_LETTERS = frozenset(["mathrm", "text", "textrm", "operatorname", "mbox", "textit"])
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_OPERATORS = {"+": "+", "-": "-", "*": "*", "/": "/", "\\cdot": "*", "\\times": "*", "\\div": "/"}


def read_tree(text: str) -> Row:
    """Return the parts of an expression.

    Raises:
        Unreadable: if anything in it is not allowed.
    """
    tokens = [token for token in _TOKEN.findall(text) if not token.isspace()]
    if len(tokens) > MAX_TOKENS:
        raise Unreadable(f"it has {len(tokens)} tokens, more than {MAX_TOKENS}")
    reader = _Reader(tokens)
    row = reader.row("", 0)
    if not row:
        raise Unreadable("it is empty")
    return row


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def row(self, closing: str, depth: int) -> Row:
        if depth > MAX_DEPTH:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        items: list[Item] = []
        while (token := self.peek()) != closing or (token == "|" and _wants_operand(items)):
            if not token:
                raise Unreadable(f"a group is not closed by {closing}")
            self.place += 1
            self.item(token, items, depth)
        self.take()
        return tuple(items)

    def item(self, token: str, items: list[Item], depth: int) -> None:
        """Append the item that begins with the token."""
        name = token[1:] if token[0] == "\\" and token[1:].isalpha() else ""
        name = _SYNONYMS.get(name, name)
        if token[0].isdigit() or token[0] == ".":
            self.number(token, items)
        elif token in _OPERATORS:
            items.append(Item("operator", _OPERATORS[token]))
        elif token in _CLOSING or token == "|":
            if token == "(" and items and items[-1].kind == "variable" and items[-1].name in ("f", "g", "F", "G"):
                raise Unreadable(f"{items[-1].name}( is a function without a rule")
            inside = self.row(_CLOSING.get(token, token), depth + 1)
            if not inside:
                raise Unreadable("a group is empty")
            items.append(Item("group", token, (inside,)))
        elif token == "^":
            self.power(items, depth)
        elif token == "_":
            self.subscript(items)
        elif token == "!":
            items.append(Item("factorial"))
        elif token == "'" and items and items[-1].kind == "variable":
            items[-1] = Item("variable", items[-1].name + "'")
        elif token == ",":
            items.append(Item("comma"))
        elif token == "=" or name == "to":
            items.append(Item("relation", "=" if token == "=" else "to"))
        elif token == "e":
            items.append(Item("constant", "e"))
        elif token == "i":
            items.append(Item("constant", "i"))
        elif token.isascii() and token.isalpha():
            items.append(Item("variable", token))
        elif not name:
            raise Unreadable(f"{token!r} is not allowed")
        else:
            self.command(name, items, depth)

    def command(self, name: str, items: list[Item], depth: int) -> None:
        if name in ("pi", "infty"):
            items.append(Item("constant", name))
        elif name in VARIABLES:
            items.append(Item("variable", name))
        elif name == "frac":
            self.fraction(items, depth)
        elif name in ("binom", "dbinom", "tbinom"):
            items.append(Item("binomial", "", (self.argument(depth), self.argument(depth))))
        elif name == "sqrt":
            index: Row | None = None
            if self.peek() == "[":
                self.take()
                index = self.row("]", depth + 1)
            if self.peek() == "(":
                self.take()
                items.append(Item("root", "", (index, self.row(")", depth + 1))))
            else:
                items.append(Item("root", "", (index, self.argument(depth))))
        elif name in FAMILIES:
            self.function(name, items, depth)
        elif name in _BIG:
            self.binder(name, items, depth)
        elif name in _STYLES:
            items.extend(self.argument(depth))
        elif name in _MARKS:
            self.marked(name, items)
        elif name in _LETTERS:
            self.letters(items, depth)
        else:
            raise Unreadable(f"\\{name} is not allowed")

    def number(self, token: str, items: list[Item]) -> None:
        if items and items[-1].kind in ("number", "mixed"):
            raise Unreadable("two numbers stand side by side")
        items.append(Item("number", token))

    def fraction(self, items: list[Item], depth: int) -> None:
        upper, lower = self.argument(depth), self.argument(depth)
        fraction = Item("fraction", "", (upper, lower))
        digits = [row[0].name if len(row) == 1 and row[0].kind == "number" else "" for row in (upper, lower)]
        if items and items[-1].kind == "number" and all(part.isdigit() for part in digits):
            whole = items[-1].name
            if not whole.isdigit() or int(digits[0]) >= int(digits[1]):
                raise Unreadable("a number before a fraction may be a sum or a product")
            items[-1] = Item("mixed", whole, (upper, lower))
            return
        items.append(fraction)

    def argument(self, depth: int) -> Row:
        """Return the group, or the one character, that a command takes."""
        token = self.take()
        if token == "{":
            inside = self.row("}", depth + 1)
            if not inside:
                raise Unreadable("a group is empty")
            return inside
        if token.isdigit() and len(token) > 1:
            self.place -= 1
            self.tokens[self.place] = token[1:]
            token = token[0]
        if not token or token in ("}", ")", "]", "^", "_", ",", "|") or token in _OPERATORS or depth > MAX_DEPTH:
            raise Unreadable("a command has no argument")
        items: list[Item] = []
        self.item(token, items, depth + 1)
        return tuple(items)

    def power(self, items: list[Item], depth: int) -> None:
        if not items or items[-1].kind in ("operator", "power", "comma", "relation"):
            raise Unreadable("a power has no base")
        if "".join(self.tokens[self.place : self.place + 3]) == "{\\circ}":
            self.place += 3
            items.append(Item("degree"))
            return
        if self.peek() == "-" and self.place + 1 < len(self.tokens):
            self.take()
            items.append(Item("power", "", ((Item("operator", "-"), *self.argument(depth)),)))
            return
        items.append(Item("power", "", (self.argument(depth),)))

    def subscript(self, items: list[Item]) -> None:
        if not items or items[-1].kind != "variable":
            raise Unreadable("a base mark or a subscript stands at what is no variable")
        items[-1] = Item("variable", f"{items[-1].name}_{self.plain_text()}")

    def plain_text(self) -> str:
        """Return the letters and digits of a group, or one of them."""
        token = self.take()
        if token != "{":
            if not token.isalnum():
                raise Unreadable("a subscript is no letter or number")
            return token
        parts: list[str] = []
        while (token := self.take()) != "}":
            if token in ("\\text", "\\mathrm"):
                parts.append(self.plain_text())
            elif token.isalnum() or token in (",", "+", "-"):
                parts.append(token)
            else:
                raise Unreadable("a subscript is no letter or number")
        return "".join(parts)

    def marked(self, mark: str, items: list[Item]) -> None:
        if items and items[-1].kind == "number" and mark == "overline":
            raise Unreadable("a repeating decimal stands inside an expression")
        items.append(Item("variable", f"{_SAME_MARKS.get(mark, mark)}_{self.plain_text()}"))

    def letters(self, items: list[Item], depth: int) -> None:
        r"""Read \mathrm{i}, \operatorname{sin} and their like; any other text is refused."""
        name = self.plain_text()
        name = _SYNONYMS.get(name, name)
        if name in FAMILIES:
            self.function(name, items, depth)
        elif len(name) == 1 and name.isalpha():
            self.item(name, items, depth)
        else:
            raise Unreadable(f"the text {name!r} stands inside an expression")

    def function(self, name: str, items: list[Item], depth: int) -> None:
        base: Row | None = None
        if self.peek() == "_" and name == "log":
            self.take()
            base = self.argument(depth)
        items.append(Item("function", name, (base,)))

    def binder(self, name: str, items: list[Item], depth: int) -> None:
        marks: dict[str, Row | None] = {"_": None, "^": None}
        while self.peek() in marks:
            mark = self.take()
            marks[mark] = self.argument(depth)
        items.append(Item("big", name, (marks["_"], marks["^"])))


def _wants_operand(items: list[Item]) -> bool:
    """Return True if a bar here opens a group, since nothing stands before it."""
    return not items or items[-1].kind in ("operator", "function", "relation", "comma", "big")
