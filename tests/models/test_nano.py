"""The nano model: tokenizer, template, loss mask, warm start, cache."""

import dataclasses
import json
import re
from pathlib import Path

import gymnasium
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import trm_envs
from trm_agent.models import nano, warm_start
from trm_agent.models.failure import WarmStartFailed
from trm_agent.models.imitation import Batch, halving
from trm_agent.models.nano import NanoSpec, ensure_nano_model, make_model, make_nano_model, make_tokenizer
from trm_agent.models.tokenizer import TAG_TOKENS, render
from trm_agent.models.traces import Solver

# Small enough to be made in seconds; any success ends its warm start.
TINY = NanoSpec(hidden_size=32, num_layers=1, num_heads=1, num_kv_heads=1, mlp_size=32, batch_tokens=200)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TINY)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every warm start at the first measurement."""
    monkeypatch.setattr(warm_start, "measure_success", lambda model, batch: 1.0)
    monkeypatch.setattr(warm_start, "HOPELESS_NATS", 1e9)
    monkeypatch.setattr(nano, "REPORTED_HORIZONS", (1, 2))
    monkeypatch.setattr(nano, "NUM_REPORTED_TASKS", 2)


def solved(seed: int = 0, horizon: int = 3):
    return Solver("trm/ChainMath-v0", "train").solve(seed, horizon)


class Counting(trm_envs.ToolEnv):
    """Doors in a row; the solver counts the turns for which it was asked."""

    system_prompt, answer_form = "Open the doors. Give the last one as {answer}.", "door"

    def make_task(self) -> str:
        self.doors = [int(door) for door in self.np_random.integers(100, 1000, self.options.horizon + 1)]
        self.num_asked = 0
        return f"Begin at {self.doors[0]}."

    @trm_envs.tool
    def open(self, door: int) -> str:
        """Open a door."""
        return str(self.doors[self.doors.index(door) + 1])

    def score(self, answer: str) -> float:
        return float(answer == str(self.doors[-1]))

    def solution(self) -> str:
        self.num_asked += 1
        if self.num_asked > self.options.horizon:
            return self.answer(str(self.doors[-1]))
        return self.call("open", door=self.doors[self.num_asked - 1])


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_a_solver_that_counts_its_turns_is_imitated_from_its_first_turn_on(horizon: int) -> None:
    gymnasium.register("mine/Counting-v0", Counting)
    try:
        messages = Solver("mine/Counting-v0", "train").solve(3, horizon).messages
    finally:
        del gymnasium.registry["mine/Counting-v0"]
    turns = [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(turns) == horizon + 1
    # what a turn writes was told before it: else nobody could learn it
    for told, turn in zip(messages[1::2], turns, strict=True):
        assert re.findall("[0-9]+", told["content"]) == re.findall("[0-9]+", turn)


@pytest.mark.parametrize(
    "text", ["", " a  b \n\t", "ä中🙂\x00", "assistant\n12+-3", '{"expression": "987*65"}', "x" * 500]
)
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_digits_are_single_tokens_and_the_same_everywhere(tokenizer) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer("Result: 1234567890. Now 55*66")["input_ids"]]
    assert [piece for piece in pieces if any(letter.isdigit() for letter in piece)] == list("12345678905566")


def test_tags_are_single_tokens_that_decoding_keeps(tokenizer) -> None:
    text = "".join(TAG_TOKENS)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(TAG_TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_model_has_exactly_the_tokenizers_tokens(tokenizer) -> None:
    model = make_model(TINY, tokenizer)
    assert model.config.vocab_size == len(tokenizer) == model.get_output_embeddings().weight.shape[0]
    assert set(tokenizer.get_vocab().values()) == set(range(len(tokenizer)))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_default_has_one_to_three_million_parameters_and_room_for_long_contexts(tokenizer) -> None:
    model = make_model(NanoSpec(), tokenizer)
    assert 1e6 <= model.num_parameters() <= 3e6
    assert model.config.max_position_embeddings >= 32768
    assert model.config.head_dim in (32, 64)
    assert model.dtype == torch.float32


def test_the_template_only_appends(tokenizer) -> None:
    trace = solved()
    messages = [*trace.messages, {"role": "user", "content": "Once more."}]
    full = tokenizer.apply_chat_template(messages, tools=trace.tools, tokenize=False)
    for count in range(2, len(messages) + 1):
        ask = count < len(messages) and messages[count]["role"] == "assistant"
        shorter = tokenizer.apply_chat_template(
            messages[:count], tools=trace.tools, tokenize=False, add_generation_prompt=ask
        )
        assert full.startswith(shorter)


def test_the_template_shows_tools_and_structured_calls_as_hermes(tokenizer) -> None:
    trace = solved(horizon=1)
    text = render(tokenizer, trace)
    assert f"<tools>\n{json.dumps(trace.tools[0])}\n</tools>" in text
    content = trace.messages[2]["content"]
    call = json.loads(content.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    structured = [*trace.messages[:2], {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}]
    assert text.startswith(tokenizer.apply_chat_template(structured, tools=trace.tools, tokenize=False))


def test_a_turn_costs_a_dozen_tokens_and_the_prompt_few(tokenizer) -> None:
    trace = solved(horizon=1)
    prompt = tokenizer.apply_chat_template(trace.messages[:2], tools=trace.tools, add_generation_prompt=True)
    assert len(prompt["input_ids"]) <= 40
    assert len(tokenizer(trace.messages[2]["content"])["input_ids"]) <= 12


def test_the_loss_falls_on_what_the_model_writes_and_nothing_else(tokenizer) -> None:
    traces = [solved(seed=1, horizon=2), solved(seed=2, horizon=4)]
    batch = warm_start.make_batch(tokenizer, traces)
    for ids, mask, trace in zip(batch.input_ids, batch.loss_mask, traces, strict=True):
        written = "".join(m["content"] + "<|im_end|>" for m in trace.messages if m["role"] == "assistant")
        assert tokenizer.decode(ids[mask]) == written


def test_training_tokens_are_those_of_the_generation_prompt_and_the_turn_apart(tokenizer) -> None:
    # A token across the border would never be sampled: the prompt ends where the model's turn begins.
    trace = solved(horizon=1)
    whole = tokenizer(render(tokenizer, trace))["input_ids"]
    for count, message in enumerate(trace.messages):
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                trace.messages[:count], tools=trace.tools, add_generation_prompt=True
            )
            turn = tokenizer(message["content"] + "<|im_end|>")["input_ids"]
            expected = [*prompt["input_ids"], *turn]
            assert whole[: len(expected)] == expected


def test_measured_success_is_the_mean_product_of_the_written_tokens_probabilities(tokenizer) -> None:
    model = make_model(TINY, tokenizer)
    batch = warm_start.make_batch(tokenizer, [solved(seed=1, horizon=1), solved(seed=2, horizon=2)])
    # Two and three tokens, so that the products stay in float32's range.
    few = torch.zeros_like(batch.loss_mask)
    few[0, [7, 9]] = few[1, [5, 8, 20]] = True
    with torch.no_grad():
        p = model(batch.input_ids).logits.double().softmax(-1)
    ids = batch.input_ids
    first = p[0, 6, ids[0, 7]] * p[0, 8, ids[0, 9]]
    second = p[1, 4, ids[1, 5]] * p[1, 7, ids[1, 8]] * p[1, 19, ids[1, 20]]
    measured = warm_start.measure_success(model, Batch(ids, few))
    assert measured == pytest.approx(float(first + second) / 2, rel=1e-4)


@pytest.mark.slow
def test_a_short_warm_start_runs_and_is_the_same_for_the_same_seed(tokenizer) -> None:
    def weights_after(seed: int) -> tuple[torch.Tensor, list[float]]:
        spec = dataclasses.replace(TINY, seed=seed, max_steps=3)
        model = make_model(spec, tokenizer)
        losses: list[float] = []
        with pytest.raises(WarmStartFailed, match=r"env\.nano\.max_steps=6"):
            warm_start.warm_start(model, tokenizer, spec, 60.0, lambda step, loss, success: losses.append(loss))
        return torch.cat([weight.detach().flatten() for weight in model.parameters()]), losses

    first, losses = weights_after(0)
    assert len(losses) == 3
    assert torch.equal(first, weights_after(0)[0])
    assert not torch.equal(first, weights_after(1)[0])


def test_a_warm_start_that_runs_out_of_time_says_so(tokenizer) -> None:
    with pytest.raises(WarmStartFailed, match="allow more than max_seconds=0"):
        warm_start.warm_start(make_model(TINY, tokenizer), tokenizer, TINY, 0.0)


@pytest.mark.slow
def test_without_a_target_the_warm_start_takes_all_its_steps_and_keeps_the_average(tokenizer) -> None:
    spec = dataclasses.replace(TINY, target_success=0.0, max_steps=3)
    model = make_model(spec, tokenizer)
    before = next(model.parameters()).detach().clone()
    assert warm_start.warm_start(model, tokenizer, spec, 60.0).num_steps == 3
    assert not torch.equal(next(model.parameters()), before)
    with pytest.raises(WarmStartFailed, match=r"1 steps and \d+ s; 3 steps were wanted\nallow more than max_seconds=0"):
        warm_start.warm_start(make_model(spec, tokenizer), tokenizer, spec, 0.0)


def test_halving_lands_on_the_target_between_two_averages() -> None:
    # Success is the share of the way here, so the target of 0.35 lies at 0.35, found to 1/64.
    assert halving(lambda share: share, 0.35, (0.0, 1.0)) == pytest.approx(0.35, abs=1 / 64)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"horizon": 5}, {"learning_rate": 1e-4}, {"warm_start_horizons": (1, 2)}, {"mlp_size": 64}]
)
def test_the_cache_key_changes_with_the_spec(change: dict) -> None:
    assert NanoSpec().cache_key() == NanoSpec().cache_key()
    assert dataclasses.replace(NanoSpec(), **change).cache_key() != NanoSpec().cache_key()


def test_the_cache_key_changes_with_the_environments_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = NanoSpec().cache_key()
    monkeypatch.setattr("trm_envs.tasks.chain_math.ASK", "Now answer.")
    assert NanoSpec().cache_key() != before


@pytest.mark.slow
@pytest.mark.usefixtures("instant")
def test_a_model_is_made_once_and_loads_as_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_nano_model(TINY, cache_dir=tmp_path, show_progress=False)
    monkeypatch.setattr(nano, "make_nano_model", None)
    assert ensure_nano_model(TINY, cache_dir=tmp_path) == folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size
    made = make_tokenizer(TINY)
    assert render(tokenizer, solved()) == render(made, solved())
    assert tokenizer(render(tokenizer, solved()))["input_ids"] == made(render(made, solved()))["input_ids"]
    facts = json.loads((folder / "nano.json").read_text())
    assert facts["spec"]["seed"] == 0
    assert set(facts["success"]) == {"1", "2"}
    assert facts["num_parameters"] == model.num_parameters()


@pytest.mark.slow
@pytest.mark.usefixtures("instant")
def test_the_environment_variable_moves_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_AGENT_CACHE", str(tmp_path))
    assert ensure_nano_model(TINY, show_progress=False).parent == tmp_path / "models"


def test_a_failed_warm_start_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(WarmStartFailed) as failure:
        make_nano_model(dataclasses.replace(TINY, max_steps=1), tmp_path / "model", show_progress=False)
    facts, *shown, remedy = str(failure.value).splitlines()
    assert "reached 0.00 success at horizon 4 in 1 steps" in facts
    assert "horizon 1, the shortest that it practises: 0.00 (of the last step's weights" in shown[1]
    assert shown[0] == "  success at horizon 4: not measured, as the loss is too high for any"
    assert ["solver writes" in shown[3], "model writes" in shown[4]] == [True, True]
    assert "env.nano.target_success=0" in remedy
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("mine")
    assert nano.main(["--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_success": 35}, "below 1"),
        ({"warm_start_horizons": ()}, "a whole number of 1 or more"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_a_bad_spec_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NanoSpec(**change)
