"""Parts of generated projects: functions with their usual bugs, and names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A function and the bugs that it can have. `{a}` is 2 to 12, `{b}` 23 to 40, `{c}` 2 to 4."""

    stem: str
    """The start of the function's name."""
    parameters: str
    """Arguments of the function: "value", "values", "text" or "left, right"."""
    doc: str
    """The function's docstring."""
    body: str
    """The function's code."""
    bugs: tuple[tuple[str, str], ...]
    """Three (right, wrong) fragments; the right one stands once in the code."""


PARTS = (
    Part(
        "clamp",
        "value",
        "Return the value, but at least {a} and at most {b}.",
        """
if value < {a}:
    return {a}
if value > {b}:
    return {b}
return value
""",
        (("value > {b}", "value > {a}"), ("return {b}", "return {a}"), ("value < {a}", "value < {b}")),
    ),
    Part(
        "sum_above",
        "values",
        "Return {a} plus the sum of the values that are greater than {b}.",
        """
total = {a}
for value in values:
    if value > {b}:
        total += value
return total
""",
        (("total = {a}", "total = 0"), ("value > {b}", "value > {a}"), ("total += value", "total -= value")),
    ),
    Part(
        "count_multiples",
        "values",
        "Return {b} times the number of values that {a} divides.",
        """
count = 0
for value in values:
    if value % {a} == 0:
        count += 1
return count * {b}
""",
        (("% {a} == 0", "% {a} == 1"), ("count * {b}", "count + {b}"), ("count = 0", "count = 1")),
    ),
    Part(
        "largest_gap",
        "values",
        "Return the largest distance of two neighboring values, or {a} if that is larger.",
        """
best = {a}
for left, right in zip(values, values[1:]):
    best = max(best, abs(right - left))
return best
""",
        (("values[1:]", "values[2:]"), ("abs(right - left)", "right - left"), ("max(best", "min(best")),
    ),
    Part(
        "peak",
        "values",
        "Return {a} plus the highest level, where the level starts at 0, moves by each value and never falls below 0.",
        """
level = 0
highest = 0
for value in values:
    level = max(level + value, 0)
    highest = max(highest, level)
return highest + {a}
""",
        (("max(level + value, 0)", "level + value"), ("highest + {a}", "level + {a}"), ("level = 0", "level = {a}")),
    ),
    Part(
        "shift",
        "text",
        "Move each letter by {a} places in the alphabet, from z on to a, and keep spaces.",
        """
letters = []
for letter in text:
    if letter != " ":
        letter = chr((ord(letter) - 97 + {a}) % 26 + 97)
    letters.append(letter)
return "".join(letters)
""",
        (("% 26", "% 25"), ("97 + {a})", "97 - {a})"), ('letter != " "', 'letter != ""')),
    ),
    Part(
        "vowel_score",
        "text",
        "Return the sum over all vowels of {a} plus their position, counted from 0.",
        """
score = 0
for position, letter in enumerate(text):
    if letter in "aeiou":
        score += position + {a}
return score
""",
        (("position + {a}", "position * {a}"), ("enumerate(text)", "enumerate(text, 1)"), ("aeiou", "aeo")),
    ),
    Part(
        "long_words",
        "text",
        "Return the words of more than {c} letters, last first, joined by hyphens.",
        """
words = text.split()
kept = [word for word in words if len(word) > {c}]
return "-".join(reversed(kept))
""",
        (("len(word) > {c}", "len(word) >= {c}"), ("reversed(kept)", "kept"), ('"-".join', '"+".join')),
    ),
    Part(
        "bill",
        "left, right",
        "Return left times right; if right is at least {a}, a {b}th part of that, rounded down, is taken off.",
        """
price = left * right
if right >= {a}:
    price -= price // {b}
return price
""",
        (("right >= {a}", "right >= {b}"), ("price // {b}", "price % {b}"), ("left * right", "left + right")),
    ),
    Part(
        "cells",
        "left, right",
        "Return twice the larger plus the smaller of |left| // {a} and |right| // {c}.",
        """
rows = abs(left) // {a}
columns = abs(right) // {c}
return 2 * max(rows, columns) + min(rows, columns)
""",
        (("2 * max(", "2 * min("), ("abs(left) // {a}", "abs(left) % {a}"), ("abs(right)", "right")),
    ),
    Part(
        "rebase",
        "value",
        "Read the decimal digits of |value| + {a} as a number in base {c}, whatever digits they are.",
        """
total = 0
for digit in str(abs(value) + {a}):
    total = total * {c} + int(digit)
return total
""",
        (("total * {c}", "total + {c}"), ("abs(value) + {a}", "abs(value)"), ("total = 0", "total = 1")),
    ),
    Part(
        "divisor_sum",
        "value",
        "Return the sum of the numbers from {c} to {b}, both included, that divide the value.",
        """
total = 0
for divisor in range({c}, {b} + 1):
    if value % divisor == 0:
        total += divisor
return total
""",
        (("total += divisor", "total += 1"), ("range({c}", "range(2 * {c}"), ("value % divisor", "divisor % {c}")),
    ),
    Part(
        "tidy",
        "values",
        "Return the different values that {c} does not divide, each plus {a}, in ascending order.",
        """
kept = sorted(set(values))
return [value + {a} for value in kept if value % {c} != 0]
""",
        (("sorted(set(values))", "sorted(values)"), ("value + {a} for", "value for"), ("% {c} != 0", "% {c} == 0")),
    ),
    Part(
        "best_window",
        "values",
        "Return the largest sum of at most {c} values in a row, or 0 if that is larger, minus {a}.",
        """
best = 0
for start in range(len(values)):
    total = 0
    for value in values[start : start + {c}]:
        total += value
        best = max(best, total)
return best - {a}
""",
        (("start + {c}]", "start + 2 * {c}]"), ("    total = 0", "    total = best"), ("best - {a}", "best + {a}")),
    ),
)
EXAMPLES = {
    "value": "sum(values)",
    "values": "values",
    "text": '"ab cde " * len(values)',
    "left, right": "sum(values), len(values)",
}
"""The call of a function on a list of values in a report, by the function's parameters."""

MODULE_NAMES = (
    "ledger", "orders", "prices", "routes", "stock", "invoices", "customers", "shipments", "payroll", "tickets",
    "rooms", "flights", "meters", "sensors", "recipes", "budget", "scores", "teams", "lessons", "grades",
    "books", "loans", "claims", "policies", "visits", "doctors", "parcels", "trucks", "harbors", "farms",
    "crops", "seeds", "parts", "machines", "repairs", "garages", "bikes", "trails", "charts", "taxes",
)  # fmt: skip
