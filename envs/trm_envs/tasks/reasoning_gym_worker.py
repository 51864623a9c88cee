"""The program of one worker of `trm/ReasoningGym-v0`: JSON lines in, JSON lines out.

Run as a file: it imports reasoning-gym and nothing of `trm_envs`. Some sets hand the model's text to `eval`, others to
sympy's parser, which does. An audit hook therefore refuses, while an answer is scored, to run compiled text that names
anything but sympy's numbers and functions: no attribute, no import, no builtin; or that changes what outlives it, which
would decide over later answers.
"""

import copy
import dataclasses
import difflib
import dis
import functools
import json
import os
import random
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

MAX_MEMORY_BYTES = 3 * 2**30
GRACE_S = 1.0
# Options that the environment sets.
RESERVED = ("seed", "size")
# Names that a scored text may use, beside single letters: those that sympy's parser puts in for numbers and functions.
ALLOWED_NAMES = frozenset(
    (
        *("Integer", "Float", "Rational", "Symbol", "Function", "Add", "Mul", "Pow", "Abs", "sqrt", "exp", "log", "ln"),
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "pi", "sympy"),
    )
)
# of a comprehension or a lambda; a comprehension's can be an attribute or an element of something else, too
_OWN_VARIABLES = ("STORE_FAST", "STORE_DEREF", "DELETE_FAST")
_is_scoring = False


def main() -> None:
    """Answer requests until standard input closes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print cannot forge a reply
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import reasoning_gym  # noqa: F401

    sys.addaudithook(_refuse_code)
    _send(replies, {"ready": True})
    operations: dict[str, Callable[..., dict[str, Any]]] = {"check": check, "item": item, "score": score}
    for line in requests:
        request = json.loads(line)
        # processor time, as the pool counts it; SIGPROF kills: no handler is set
        signal.setitimer(signal.ITIMER_PROF, request.pop("deadline_s") + GRACE_S)
        try:
            reply = operations[request.pop("operation")](**request)
        except MemoryError:
            os._exit(1)  # the memory may stay occupied, so another worker has to try
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, reply)


def check(dataset: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return {} if the set exists and its options are allowed, else {"refused": reason}."""
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS or dataset == "composite":
        return {"refused": f"dataset = {dataset!r}: {_hint(dataset, set(DATASETS) - {'composite'})}"}
    config = DATASETS[dataset][1]
    names = {field.name for field in dataclasses.fields(config)}.difference(RESERVED)
    for name in options:
        if name not in names:
            return {"refused": f"dataset_options: {name!r} is not an option of {dataset}; {_hint(name, names)}"}
    try:
        made = config(**options)
        if hasattr(made, "validate"):
            made.validate()
    except Exception as error:
        return {"refused": f"dataset_options = {options!r}: {dataset} refuses them: {str(error)[:200]}"}
    return {}


def item(**place: Any) -> dict[str, Any]:
    """Return the question, and the set's own answer if it has one."""
    entry = _entry(json.dumps(place, sort_keys=True))
    answer = entry["answer"]
    return {"question": str(entry["question"]), "answer": None if answer is None else str(answer)}


def score(answer: str, **place: Any) -> dict[str, Any]:
    """Return the score that the set's scorer gives an answer."""
    global _is_scoring
    key = json.dumps(place, sort_keys=True)
    entry = _entry(key)
    scorer = _dataset(place["dataset"], json.dumps(place["options"]), place["seed"], place["size"])
    _is_scoring = True
    try:
        return {"score": float(scorer.score_answer(answer, copy.deepcopy(entry)))}  # a scorer may change its entry
    finally:
        _is_scoring = False


@functools.lru_cache(maxsize=32)
def _dataset(dataset: str, options: str, seed: int, size: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(dataset, **json.loads(options), seed=seed, size=size)


@functools.lru_cache(maxsize=1024)
def _entry(key: str) -> dict[str, Any]:
    place = json.loads(key)
    index = place.pop("index")
    made = _dataset(place["dataset"], json.dumps(place["options"]), place["seed"], place["size"])
    # A set that draws from the global state then draws the same in every worker.
    random.seed(place["seed"] + index)
    return made[index]


def _refuse_code(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_scoring and event == "exec" and isinstance(arguments[0], types.CodeType):
        code = arguments[0]
        # Code compiled from text; a module that is imported late has a file.
        if code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen"):
            _check_names(code)


def _check_names(code: types.CodeType) -> None:
    names = {*code.co_names, *code.co_varnames, *code.co_freevars}
    if refused := sorted(name for name in names - ALLOWED_NAMES if len(name) > 1):
        raise ValueError(f"the answer is code that names {refused[0]!r}")
    for each in dis.get_instructions(code):
        if each.opname.startswith(("STORE_", "DELETE_")) and not each.opname.startswith(_OWN_VARIABLES):
            raise ValueError(f"the answer is code that changes {each.argrepr or 'an element'!r}")
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _check_names(constant)


def _hint(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(known))}"


def _send(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    del sys.path[0]  # this folder: its file reasoning_gym.py is not the package
    main()
