"""`trm envs prompt`: what a model reads, and what is refused."""

import copy
import re
from pathlib import Path

import pytest

from tests.episode.forms import FORMS
from tests.episode.test_fallback import TEMPLATES
from trm_agent.cli import main
from trm_agent.runs.first_prompt import first_prompt
from trm_agent.tasks import Task

ENV = "trm/ChainMath-v0"
EVERYTHING_MISSING = TEMPLATES["user and assistant alone"][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer, whose template shows users and assistants alone."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = copy.copy(FORMS["chatml_json"].tokenizer)
    tokenizer.chat_template = EVERYTHING_MISSING
    tokenizer.save_pretrained(path)
    return str(path)


def test_the_prompt_the_solvers_turn_and_the_answer_to_it_are_printed(capsys):
    assert main(["envs", "prompt", ENV, "--model", "nano", "--horizon", "2", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    prompt, turn, answer = (part.split(" ---\n", 1)[1] for part in shown.split("\n--- ")[1:])
    assert shown.startswith(f"protocol: hermes\ntokenizer: of the nano model of {ENV}\n--- prompt, ")
    assert "<|im_start|>user\nStart with" in prompt
    assert '"name": "calculator"' in prompt
    assert turn.startswith('<tool_call>\n{"name": "calculator"')
    assert "<tool_response>\nResult:" in answer
    assert answer.endswith("<|im_start|>assistant\n\n---\n")


def test_an_environment_of_ones_own_is_read_with_its_own_nano_model(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    assert main(["envs", "prompt", "mine/KeyChain-v0", "--module", "my_env", "--model", "nano"]) == 0
    shown = capsys.readouterr().out
    assert "tokenizer: of the nano model of mine/KeyChain-v0\n" in shown
    # its fixed texts are single tokens; another environment's tokenizer needs more than a hundred
    assert int(re.search(r"--- prompt, (\d+) tokens", shown)[1]) < 40


def test_without_a_solver_the_default_nano_model_reads_and_the_reason_is_told(monkeypatch, capsys):
    from trm_agent.runs import first_prompt as module

    def make(spec):
        if spec.env_kwargs.get("protocol") == "hermes":
            raise NotImplementedError("it has no scripted solver")
        return FORMS["chatml_json"].tokenizer

    monkeypatch.setattr(module, "make_tokenizer", make)
    assert main(["envs", "prompt", ENV, "--model", "nano", "--option", "protocol=hermes"]) == 0
    told = f"tokenizer: of the nano model of {ENV}, since it has no scripted solver"
    assert told in capsys.readouterr().out.splitlines()


def test_what_the_template_leaves_out_is_said_and_described(folder, capsys):
    assert main(["envs", "prompt", ENV, "--model", folder]) == 0
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()[:4]] == [
        "protocol",
        *(f"the chat template shows no {part}" for part in ("system message", "tools", "tool role")),
    ]
    assert "These tools can be called:" in shown
    assert "system\n" not in shown


def test_an_episode_of_one_turn_has_no_answer_and_a_turn_that_a_template_opens_a_thought_in_closes_it():
    run = {"env": {"kwargs": {"protocol": "auto"}}, "data": {}}
    lines = first_prompt("-", Task(ENV, 3, {"horizon": 1}), None, run, tokenizer=FORMS["qwen3_5"].tokenizer)
    assert lines[0] == "protocol: function_tags"
    turn = lines[lines.index("--- turn of the scripted solver ---") + 1]
    assert turn.startswith("\n</think>\n\n<tool_call>\n<function=calculator>")
    assert turn.endswith("<|im_end|>")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((ENV, "--model", "no/such/folder"), "--model=no/such/folder: .*tokenizer cannot be loaded"),
        (("trm/ChainMth-v0", "--model", "nano"), "trm/ChainMth-v0.*did you mean .*trm/ChainMath-v0"),
        ((ENV, "--model", "nano", "--option", "x"), "--option: got 'x'; allowed: NAME=VALUE"),
        ((ENV, "--model", "nano", "--option", "hor=1"), "hor"),
        ((ENV, "--model", "nano", "--template-kwargs", "y=1"), "data.apply_chat_template_kwargs.y: got 1"),
        ((ENV, "--model", "nano", "--roles", "assistant"), "env.chat.roles: got"),
    ],
)
def test_bad_input_is_named(arguments, told, capsys):
    assert main(["envs", "prompt", *arguments]) == 2
    assert re.search(told, capsys.readouterr().err)


def test_refuse_refuses(folder, capsys):
    assert main(["envs", "prompt", ENV, "--model", folder, "--option", "protocol=hermes", "--refuse"]) == 2
    assert "the chat template shows no system message, no tools, no tool role" in capsys.readouterr().err


def test_a_solver_that_fails_is_not_taken_for_none(monkeypatch):
    from trm_envs.tasks.chain_math import ChainMath

    run = {"env": {"kwargs": {"protocol": "hermes"}}, "data": {}}
    task, tokenizer = Task(ENV, 3, {"horizon": 1}), FORMS["chatml_json"].tokenizer
    monkeypatch.setattr(ChainMath, "solution", lambda self: self.no_such_field)
    with pytest.raises(AttributeError, match="no_such_field"):
        first_prompt("-", task, None, run, tokenizer=tokenizer)
    monkeypatch.delattr(ChainMath, "solution")
    assert not any("solver" in line for line in first_prompt("-", task, None, run, tokenizer=tokenizer))
