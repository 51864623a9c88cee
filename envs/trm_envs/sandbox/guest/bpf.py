"""Classic BPF for a system-call filter, built by hand: single steps, tests of an argument, a tree over call numbers."""

import struct
from collections.abc import Iterable, Mapping

LOAD, JUMP, EQUAL, AT_LEAST, ABOVE, ANY_BIT, AND, RETURN = 0x20, 0x05, 0x15, 0x35, 0x25, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE = 0, 4
"""Where the filter's data holds a call's number, and that of the kind of machine it is made for."""
_FARTHEST = 255


def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction; of a test, how many of the next ones are left out in either case."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def argument(index: int, upper: bool = False) -> bytes:
    """Load the lower or upper half of a call's argument."""
    return step(LOAD, 16 + 8 * index + 4 * upper)


def if_equal(value: int, steps: "list[bytes]") -> "list[bytes]":
    """Go through steps that end in an answer if what is loaded has this value."""
    return [step(EQUAL, value, 0, len(steps)), *steps]


def if_any_bit(bits: int, steps: "list[bytes]") -> "list[bytes]":
    """Go through steps that end in an answer if one of these bits is set in what is loaded."""
    return [step(ANY_BIT, bits, 0, len(steps)), *steps]


def if_among(ranges: "Iterable[tuple[int, int]]", answer: bytes) -> "list[bytes]":
    """Answer if what is loaded lies in one of the ranges, ends included."""
    steps = []
    for first, last in ranges:
        if first == last:
            steps += if_equal(first, [answer])
        else:
            steps += [step(AT_LEAST, first, 0, 2), step(ABOVE, last, 1, 0), answer]
    return steps


def tree(answers: "Mapping[int, list[bytes]]", otherwise: "list[bytes]") -> "list[bytes]":
    """Return steps that go through those of the loaded number, found by bisection, each of which end in an answer.

    Args:
        answers: steps by number.
        otherwise: steps for all other numbers.
    """
    runs = [(0, otherwise)]
    for number in sorted(answers):
        for start, steps in ((number, answers[number]), (number + 1, otherwise)):
            if runs[-1][0] == start:
                runs.pop()
            if not runs or runs[-1][1] != steps:
                runs.append((start, steps))
    return _tree(runs)


def _tree(runs: "list[tuple[int, list[bytes]]]") -> "list[bytes]":
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    below, rest = _tree(runs[:middle]), _tree(runs[middle:])
    if len(below) <= _FARTHEST:
        test = [step(AT_LEAST, runs[middle][0], len(below), 0)]
    else:
        test = [step(AT_LEAST, runs[middle][0], 0, 1), step(JUMP, len(below))]
    return [*test, *below, *rest]
