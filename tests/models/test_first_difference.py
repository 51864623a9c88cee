"""Where a model's turn first leaves the solver's."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from trm_agent.models.first_difference import first_difference
from trm_agent.models.nano_spec import NanoSpec
from trm_agent.models.tokenizer import render, train_tokenizer

SPEC = NanoSpec()
HORIZON = 2


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([SPEC.solver("train").solve(seed, HORIZON) for seed in range(20)], 700)


@dataclasses.dataclass
class Reciter:
    """A model that writes given texts one after another, and where one of them goes on, its next token."""

    texts: list[list[int]]
    num_tokens: int

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        ids = input_ids[0].tolist()
        logits = torch.zeros(1, len(ids), self.num_tokens)
        for place in range(len(ids)):
            text = next(
                (text for text in self.texts if text[: place + 1] == ids[: place + 1] and place + 1 < len(text)), None
            )
            if text is not None:
                logits[0, place, text[place + 1]] = 1.0
        return SimpleNamespace(logits=logits)


def solved(seed: int):
    return SPEC.solver("held_out").solve(seed, HORIZON)


def changed(trace, turn: int, text: str):
    """Return a trace with another text in one turn of the assistant, from 1."""
    place = [place for place, message in enumerate(trace.messages) if message["role"] == "assistant"][turn - 1]
    messages = [dict(message) for message in trace.messages]
    messages[place]["content"] = text
    return dataclasses.replace(trace, messages=messages)


def reciter(tokenizer, *traces) -> Reciter:
    texts = [tokenizer(render(tokenizer, trace), add_special_tokens=False)["input_ids"] for trace in traces]
    return Reciter(texts, len(tokenizer))


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_the_turn_that_differs_is_shown_beside_the_solvers(tokenizer, turn: int) -> None:
    right = solved(0)
    assistant = [message["content"] for message in right.messages if message["role"] == "assistant"]
    answered = [message["content"] for message in right.messages if message["role"] in ("user", "tool")]
    own = assistant[turn - 1].replace(assistant[turn - 1][-8], "7") + "!"
    # up to the difference both go on alike, and the wrong turn comes first
    found = first_difference(reciter(tokenizer, changed(right, turn, own), right), tokenizer, SPEC, HORIZON)
    assert found is not None
    assert (found.horizon, found.turn, found.told) == (HORIZON, turn, answered[turn - 1])
    assert (found.solver, found.model) == (assistant[turn - 1], own)
    assert found.lines()[1] == f"    the solver writes {' '.join(assistant[turn - 1].split())!r}"


def test_a_model_that_writes_what_the_solver_writes_has_no_difference(tokenizer) -> None:
    assert first_difference(reciter(tokenizer, *map(solved, range(8))), tokenizer, SPEC, HORIZON) is None


def test_the_first_task_with_a_difference_is_taken(tokenizer) -> None:
    found = first_difference(reciter(tokenizer, solved(0), solved(2)), tokenizer, SPEC, HORIZON)
    assert found is not None
    assert found.told == solved(1).messages[1]["content"]


def test_a_model_that_never_ends_its_turn_is_cut(tokenizer) -> None:
    found = first_difference(Reciter([], len(tokenizer)), tokenizer, SPEC, HORIZON)
    assert found is not None
    assert found.turn == 1
    assert len(found.lines()[2]) < 200
