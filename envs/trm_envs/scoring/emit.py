r"""Write a tree as the plain LaTeX that math-verify's grammar reads in one way only."""

from trm_envs.scoring.items import Item, Row, Unreadable
from trm_envs.scoring.rational import rational_value

# Letters that the grammar takes for something else: constants, functions, a differential, a transpose.
_TAKEN = frozenset("dfgEISNOQCT")
_GROUPS = {"|": ("|", "|"), "\\lfloor": (r"\lfloor ", r"\rfloor "), "\\lceil": (r"\lceil ", r"\rceil ")}
_ARGUMENTS = frozenset(
    ["number", "mixed", "variable", "constant", "fraction", "root", "power", "degree", "factorial", "binomial"]
)


def emit(row: Row) -> str:
    """Return the row in LaTeX, every product and every argument written out.

    Raises:
        Unreadable: if an operator or a function lacks its operand.
    """
    parts: list[str] = []
    place = 0
    is_after_slash = wants_operand = False
    if row[-1].kind in ("operator", "function", "big"):
        raise Unreadable("an operator has no operand")
    while place < len(row):
        item = row[place]
        if item.kind in ("operator", "comma", "relation"):
            if item.name == "+" and not parts:
                place += 1
                continue
            if item.name in ("*", "/") and (wants_operand or not parts):
                raise Unreadable("an operator has no operand")
            if is_after_slash:
                parts.append(")")
            is_after_slash = item.name == "/"
            parts.append({"*": r"\cdot ", "comma": ",", "to": r" \to "}.get(item.name or item.kind, item.name))
            if is_after_slash:
                parts.append("(")
            wants_operand, place = True, place + 1
            continue
        if item.kind not in ("power", "factorial", "degree") and not wants_operand and parts:
            parts.append(r"\cdot ")
        text, place = _operand(row, place)
        parts.append(text)
        wants_operand = False
    if is_after_slash:
        parts.append(")")
    return "".join(parts)


def _operand(row: Row, place: int) -> tuple[str, int]:
    """Return one operand in LaTeX, and the place where the next begins."""
    item = row[place]
    if item.kind == "function":
        return _call(row, place)
    if item.kind == "big":
        return _binder(row, place)
    return _simple(item), place + 1


def _simple(item: Item) -> str:
    if item.kind in ("number", "mixed"):
        return _number(item)
    if item.kind == "variable":
        # In braces: a letter with a power is read many times faster.
        return "{" + _variable(item.name) + "}"
    if item.kind == "constant":
        return {"pi": r"\pi ", "infty": r"\infty "}.get(item.name, item.name)
    if item.kind == "group":
        opening, closing = _GROUPS.get(item.name, ("(", ")"))
        return opening + emit(item.rows[0]) + closing
    if item.kind == "fraction":
        return rf"\frac{{{emit(item.rows[0])}}}{{{emit(item.rows[1])}}}"
    if item.kind == "root":
        index = f"[{emit(item.rows[0])}]" if item.rows[0] else ""
        value, degree = rational_value(item.rows[1]), rational_value(item.rows[0]) if item.rows[0] else None
        if value is not None and value < 0 and degree is not None and degree.denominator == 1 and degree % 2 == 1:
            # The real root of a negative number; the grammar would give a complex one.
            return rf"(-\sqrt{index}{{\frac{{{-value.numerator}}}{{{value.denominator}}}}})"
        return rf"\sqrt{index}{{{emit(item.rows[1])}}}"
    if item.kind == "binomial":
        return rf"\binom{{{emit(item.rows[0])}}}{{{emit(item.rows[1])}}}"
    if item.kind == "power":
        return f"^{{{emit(item.rows[0])}}}"
    return {"factorial": "!", "degree": r"\cdot \frac{\pi}{180}"}[item.kind]


def _number(item: Item) -> str:
    value = rational_value((item,))
    if value is None:
        raise Unreadable("a fraction has no value")
    return str(value) if value.denominator == 1 else rf"(\frac{{{value.numerator}}}{{{value.denominator}}})"


def _variable(name: str) -> str:
    """Return a name that the grammar takes for one variable; the same name always gives the same."""
    if len(name) == 1 and name not in _TAKEN:
        return name
    return "v_{1" + "".join(f"{ord(letter):03}" for letter in name) + "}"


def _call(row: Row, place: int) -> tuple[str, int]:
    r"""Return a function with its argument: the group after it, else everything up to the next operator."""
    item, place = row[place], place + 1
    power = ""
    if place < len(row) and row[place].kind == "power":
        power, place = _simple(row[place]), place + 1
    if place >= len(row):
        raise Unreadable(f"{item.name} has no argument")
    if row[place].kind == "group" and row[place].name in ("(", "{", "["):
        argument, place = emit(row[place].rows[0]), place + 1
    elif row[place].kind == "function":
        argument, place = _call(row, place)
    elif row[place].kind == "group":
        argument, place = _simple(row[place]), place + 1
    else:
        end = place
        while end < len(row) and row[end].kind in _ARGUMENTS:
            end += 1
        if end == place:
            raise Unreadable(f"{item.name} has no argument")
        argument, place = emit(row[place:end]), end
    if item.name == "lg":
        return rf"(\log_{{10}}{power}({argument}))", place
    base = f"_{{{emit(item.rows[0])}}}" if item.rows[0] else ""
    return rf"(\{item.name}{base}{power} ({argument}))", place


def _binder(row: Row, place: int) -> tuple[str, int]:
    """Return a sum, product, limit or integral; its body reaches to the end of the term."""
    item, start = row[place], place + 1
    end = start
    while end < len(row) and not (row[end].kind == "operator" and row[end].name in "+-" and end > start):
        end += 1
    lower, upper = (f"{mark}{{{emit(part)}}}" if part else "" for mark, part in zip("_^", item.rows, strict=True))
    body = row[start:end]
    if item.name == "int":
        if len(body) < 3 or body[-2] != Item("variable", "d") or body[-1].kind != "variable":
            raise Unreadable("an integral has no differential")
        return rf"(\int{lower}{upper} ({emit(body[:-2])}) d{_variable(body[-1].name)})", end
    return rf"(\{item.name}{lower}{upper} ({emit(body)}))", end
