"""Compare an answer's form with the truth's; the truth's form decides how. Questions of algebra go out in one batch."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

from trm_envs.scoring.exact import equal_quantities
from trm_envs.scoring.forms import Collection, Form, Interval, Leaf, Matrix, Named, Relation, Words
from trm_envs.scoring.functions import same_function
from trm_envs.scoring.units import same_measure

MAX_ROUNDS = 4
# An expression answer may use these only if the truth does: they are the question, not its answer.
_BINDERS = frozenset(["sum", "prod", "int", "lim", "tower", "comma", "relation", "pick"])
_CLOSED = frozenset(["root", "mul of roots", "mul of surds", "pi", "e", "i", "infty"])
_CHOICES = frozenset("ABCDE")
_NOT_PRODUCTS = frozenset("no on up go he we me is it in at or if so to us an as by do my of am be".split())  # noqa: SIM905

Pair = tuple[str, ...]
"""A question of algebra: ("equal", truth, answer, digits) or (sign, left, right, left, right, digits)."""
Ask = Callable[[Sequence[Pair]], Sequence[bool]]


class Undecided(Exception):
    """Algebra gave no verdict; the message says why."""


def same_form(
    truth: Form, answer: Form, ask: Ask, tolerance: Fraction | None = None, *, asks_always: bool = False
) -> bool:
    """Return True if the answer is the truth.

    Args:
        truth: the true answer.
        answer: the answer of a model.
        ask: says for each pair of a batch whether it is equal.
        tolerance: the largest distance of a numeric answer from a numeric truth.
        asks_always: True to ask about equal expressions too, which shows that they can be compared at all.

    Raises:
        Whatever `ask` raises.
    """
    judge = _Judge(tolerance, asks_always)
    for _ in range(MAX_ROUNDS):
        verdict = judge.same(truth, answer)
        if verdict or not judge.missing:
            return verdict
        pairs = list(dict.fromkeys(judge.missing))
        judge.known.update(zip(pairs, ask(pairs), strict=True))
        judge.missing.clear()
    return False


class _Judge:
    """One comparison. A pair that is not decided yet is noted, and counts as different."""

    def __init__(self, tolerance: Fraction | None, asks_always: bool) -> None:
        self.known: dict[Pair, bool] = {}
        self.missing: list[Pair] = []
        self.tolerance = tolerance
        self.asks_always = asks_always

    def look_up(self, pair: Pair) -> bool:
        if pair not in self.known:
            self.missing.append(pair)
        return self.known.get(pair, False)

    def same(self, truth: Form, answer: Form) -> bool:
        if isinstance(truth, Named):
            return self.same_named(truth, answer)
        if isinstance(truth, Relation) and isinstance(answer, Named):
            relation = _as_relation(answer) if not answer.middles else None
            return relation is not None and self.same_relation(truth, relation)
        if isinstance(answer, Named):
            middles = [self.same(truth, _without_census(side, truth)) for side in answer.middles]
            return _every([*middles, self.same(truth, answer.value)])
        if isinstance(truth, Words) or isinstance(answer, Words):
            return self.same_words(truth, answer)
        if (
            isinstance(answer, Collection)
            and answer.kind == "set"
            and len(answer.parts) == 1
            and isinstance(truth, Leaf)
        ):
            answer = answer.parts[0]
        if isinstance(truth, Leaf):
            return isinstance(answer, Leaf) and self.same_leaf(truth, answer)
        if isinstance(truth, Interval):
            return self.same_interval(truth, answer)
        if isinstance(truth, Collection):
            return self.same_collection(truth, answer)
        if isinstance(truth, Relation):
            return isinstance(answer, Relation) and self.same_relation(truth, answer)
        return isinstance(answer, Matrix) and self.same_matrix(truth, answer)

    def same_named(self, truth: Named, answer: Form) -> bool:
        if isinstance(answer, Named):
            if not _same_name(truth.name, answer.name):
                return False
            middles = [self.same(truth.value, _without_census(side, truth.value)) for side in answer.middles]
            return _every([*middles, self.same(truth.value, answer.value)])
        if isinstance(answer, Relation):
            if answer.sign == "=" and answer.right.latex.strip("{}") == truth.name:
                return self.same(truth.value, answer.left)
            relation = _as_relation(truth)
            return relation is not None and self.same_relation(relation, answer)
        return self.same(truth.value, answer)

    def same_words(self, truth: Form, answer: Form) -> bool:
        if isinstance(truth, Words) and isinstance(answer, Words):
            if truth.text == answer.text or (truth.text in _CHOICES and truth.text == answer.text.upper()):
                return True
            is_product = max(len(truth.text), len(answer.text)) <= 3 and not _NOT_PRODUCTS & {truth.text, answer.text}
            return bool(is_product and truth.leaf and answer.leaf and self.same_leaf(truth.leaf, answer.leaf))
        left = truth.leaf if isinstance(truth, Words) else truth
        if isinstance(truth, Words) and isinstance(left, Leaf) and left.quantity is not None:
            return False  # a bare 5 would be a.m. and p.m. at once
        right = answer.leaf if isinstance(answer, Words) else answer
        return isinstance(left, Leaf) and right is not None and self.same(left, right)

    def same_leaf(self, truth: Leaf, answer: Leaf) -> bool:
        if answer.suffix != truth.suffix and not (truth.suffix.startswith("base ") and not answer.suffix):
            return False
        if truth.suffix.startswith("base "):
            digits = answer.latex or (str(answer.value) if answer.value is not None else "")
            return digits == truth.latex
        if truth.quantity is not None and answer.quantity is not None and not self.tolerance:
            return equal_quantities(answer.quantity, truth.quantity)
        if truth.unit is not None and answer.unit is not None and not _same_unit(truth.unit, answer.unit):
            return False
        is_allowed = _is_allowed(truth, answer) or (self.tolerance and answer.kinds <= _CLOSED | truth.kinds)
        if (answer.has_variable and not truth.has_variable) or not is_allowed:
            return False
        if truth.value is not None and answer.value is not None:
            return self.is_close(truth, answer)
        if not self.tolerance and (is_equal := same_function(truth, answer)) is not None:
            return is_equal
        if truth.latex and truth.latex == answer.latex and not self.asks_always:
            return True
        digits = str(truth.digits + answer.digits)
        return self.look_up(("equal", _latex(truth), _latex(answer), digits, str(self.tolerance or "")))

    def is_close(self, truth: Leaf, answer: Leaf) -> bool:
        assert truth.value is not None
        assert answer.value is not None
        if not self.tolerance:
            return truth.value == answer.value
        left, right, factor = truth.quantity, answer.quantity, Fraction(1)
        if left is not None and right is not None and left.dimension and right.dimension:
            if left.dimension != right.dimension:
                return False
            factor = right.scale / left.scale
        return abs(answer.value * factor - truth.value) <= self.tolerance

    def same_interval(self, truth: Interval, answer: Form) -> bool:
        other = as_interval(answer)
        if other is None or (truth.is_low_open, truth.is_high_open) != (other.is_low_open, other.is_high_open):
            return False
        return _every([self.same_leaf(truth.low, other.low), self.same_leaf(truth.high, other.high)])

    def same_collection(self, truth: Collection, answer: Form) -> bool:
        if isinstance(answer, Interval):
            interval = as_interval(truth)
            return interval is not None and self.same_interval(interval, answer)
        if isinstance(answer, Leaf) and truth.kind == "set" and len(truth.parts) == 1:
            return self.same(truth.parts[0], answer)
        if not isinstance(answer, Collection):
            return False
        kinds = truth.kind, answer.kind
        if "union" in kinds:
            is_union = all(
                kind == "union" or _is_of_intervals(form) for kind, form in zip(kinds, (truth, answer), strict=True)
            )
            return is_union and self.same_members(_as_intervals(truth), _as_intervals(answer))
        if kinds == ("set", "set"):
            return self.same_set(truth.parts, answer.parts)
        if truth.kind in ("list", "set"):
            if truth.kind == "set" and answer.kind != "list":
                return False
            if _names(truth) and not _names(answer):
                return self.in_order(truth.parts, answer.parts)
            return self.same_members(truth.parts, answer.parts)
        return answer.kind in (truth.kind, "list") and self.in_order(truth.parts, answer.parts)

    def in_order(self, truths: Sequence[Form], answers: Sequence[Form]) -> bool:
        if len(truths) != len(answers):
            return False
        return _every([self.same(one, other) for one, other in zip(truths, answers, strict=True)])

    def same_members(self, truths: Sequence[Form], answers: Sequence[Form]) -> bool:
        """Return True if each member has a partner of its own. Equality is transitive, so any partner will do."""
        if len(truths) != len(answers):
            return False
        left = list(answers)
        is_matched = True
        for truth in truths:
            verdicts = [self.same(truth, answer) for answer in left]
            if any(verdicts):
                del left[verdicts.index(True)]
            else:
                is_matched = False
        return is_matched

    def same_set(self, truths: Sequence[Form], answers: Sequence[Form]) -> bool:
        table = [[self.same(truth, answer) for answer in answers] for truth in truths]
        return all(map(any, table)) and all(map(any, zip(*table, strict=True)))

    def same_relation(self, truth: Relation, answer: Relation) -> bool:
        if truth.sign != answer.sign or not all(
            _is_allowed(truth.left, leaf, truth.right) for leaf in (answer.left, answer.right)
        ):
            return False
        leaves = (truth.left, truth.right, answer.left, answer.right)
        digits = str(sum(leaf.digits for leaf in leaves))
        return self.look_up((truth.sign, *map(_latex, leaves), digits))

    def same_matrix(self, truth: Matrix, answer: Matrix) -> bool:
        if len(truth.rows) != len(answer.rows):
            return False
        return _every([self.in_order(one, other) for one, other in zip(truth.rows, answer.rows, strict=True)])


def as_interval(form: Form) -> Interval | None:
    """Return the interval that an inequality, `(a, b)` or `[a, b]` is; None for any other form."""
    if isinstance(form, Named):
        return as_interval(form.value) if not form.middles else None
    if isinstance(form, Interval):
        return form
    if isinstance(form, Collection) and form.kind in ("tuple", "brackets") and len(form.parts) == 2:
        low, high = form.parts
        if isinstance(low, Leaf) and isinstance(high, Leaf):
            return Interval(low, high, form.kind == "tuple", form.kind == "tuple")
    return None


def _is_allowed(truth: Leaf, answer: Leaf, *others: Leaf) -> bool:
    """Return True if the answer holds no operation between numerals that the truth does not have."""
    own = truth.kinds.union(*(other.kinds for other in others))
    more = answer.kinds - own
    if truth.has_variable or any(other.has_variable for other in others):
        names = {kind.rstrip("#") for kind in own}
        return not more & _BINDERS and all(kind[:-1] in names for kind in more if kind.endswith("#"))
    if truth.value is not None and not others:
        return more <= {"root"}
    return more <= _CLOSED


def _same_unit(one: tuple[str, Fraction], other: tuple[str, Fraction]) -> bool:
    return one[1] == other[1] and same_measure(one[0], other[0])


def _latex(leaf: Leaf) -> str:
    return leaf.latex if leaf.value is None else f"={leaf.value}"


def _every(verdicts: list[bool]) -> bool:
    """Return True if all are True; a list, so that one batch holds every question."""
    return all(verdicts)


def _as_relation(named: Named) -> Relation | None:
    """Return `y = 2x + 1` as an equation; None where the value is a number, so that nothing unsolved equals it."""
    is_symbol = len(named.name) == 1 and named.name.isalpha()
    if not is_symbol or not isinstance(named.value, Leaf) or not named.value.has_variable:
        return None
    return Relation("=", Leaf(latex=named.name, has_variable=True), named.value)


def _same_name(one: str, other: str) -> bool:
    words = [name for name in (one, other) if name.startswith("\\text") or (len(name) > 2 and name.isalpha())]
    return one == other or bool(words)


def _without_census(side: Form, truth: Form) -> Form:
    """Return a middle side of `x = 17\\cdot 23 = 391` with its operations allowed: the work, which must be equal."""
    if isinstance(side, Leaf) and isinstance(truth, Leaf):
        return dataclasses.replace(side, kinds=side.kinds & truth.kinds)
    return side


def _names(collection: Collection) -> list[str]:
    return [part.name for part in collection.parts if isinstance(part, Named)]


def _is_of_intervals(form: Collection) -> bool:
    """Return True for a union, and for a list of inequalities: x < 1 or x > 3."""
    return form.kind == "union" or (form.kind == "list" and all(as_interval(part) is not None for part in form.parts))


def _as_intervals(form: Collection) -> list[Form]:
    return [as_interval(part) or part for part in form.parts]
