"""`trm numerics` from the command line: what it refuses before anything starts, and what it prints and writes."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from trm_agent.cli import main
from trm_agent.numerics import measuring, source
from trm_agent.numerics import told as telling
from trm_agent.numerics.forcing import Played
from trm_agent.numerics.measuring import Measured, compared
from trm_agent.numerics.source import find_source
from trm_agent.numerics.spec import SECOND_ENGINE, Formats


def refused(capsys, *words: str) -> str:
    assert main(["numerics", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--episodes", "0"), ("--tokens", "100"), ("--turn-tokens", "-1"), ("--horizon", "0"), ("--seed", "-1")],
)
def test_a_number_that_is_not_allowed_is_refused_with_the_allowed_ones(flag, value, capsys):
    told = refused(capsys, "nano", flag, value)
    assert f"{flag}: got {value}; allowed: " in told


@pytest.mark.parametrize("flag", ["--engine", "--trainer", "--second-engine"])
def test_a_number_format_that_does_not_exist_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["numerics", "nano", flag, "int4"])
    assert stop.value.code == 2
    assert "float32" in capsys.readouterr().err


def test_a_source_that_does_not_exist_is_refused_with_the_kinds_of_sources(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "no-such-folder")
    assert "no-such-folder does not exist" in told
    assert "a hub id, nano or smollm2" in told


def test_an_endpoint_is_refused(capsys):
    assert "an endpoint, which has no trainer" in refused(capsys, "http://localhost:8000/v1")


def test_a_folder_for_the_figures_has_to_exist(tmp_path, capsys):
    assert "make the folder, or give another" in refused(capsys, "nano", "--json", str(tmp_path / "no" / "file.json"))


def test_a_run_of_another_kind_of_machine_is_refused():
    with pytest.raises(
        ValueError, match=r"got 'runs/mine', a run of hardware.kind=gpu; allowed: a run of hardware.kind=cpu"
    ):
        source._check_kind("runs/mine", {"hardware": {"kind": "gpu"}}, "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source without a model behind it: its configuration is composed, its weights are not there."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    config = source._of_model(folder, "cpu")
    from trm_agent.evaluate.environments import named

    return source.Source("mine", folder, config, named("chain_math"), None, None)


def test_a_model_is_configured_as_this_machines_default_on_one_rank(made):
    part = made.config.actor_rollout_ref
    assert (made.engine_format, made.trainer_format) == ("float32", "float32")
    assert part.model.path == str(made.folder)
    assert part.actor.strategy == "fsdp2"
    assert (part.actor.use_dynamic_bsz, part.rollout.log_prob_use_dynamic_bsz) == (False, False)
    from trm_agent.numerics.rollout import engine_settings

    settings = engine_settings(made, "bfloat16", 1024, 3)
    assert settings["block_size"] == part.rollout.engine_kwargs.vllm.block_size
    assert (settings["dtype"], settings["max_model_len"], settings["max_num_seqs"]) == ("bfloat16", 1024, 3)
    assert settings.keys().isdisjoint({"worker_extension_cls", "enable_chunked_prefill", "kv_cache_memory_bytes"})


def test_the_engine_has_the_threads_of_a_runs_and_room_for_all_episodes(made, monkeypatch, tmp_path):
    from omegaconf import OmegaConf

    from trm_agent.evaluate.engines.on_cpu import arguments, cache_of
    from trm_agent.models.smollm2 import SHAPE
    from trm_agent.numerics.rollout import engine_settings, engine_threads

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))

    def of(**changed):
        overrides = [f"{name.replace('__', '.')}={value}" for name, value in changed.items()]
        config = OmegaConf.merge(made.config, OmegaConf.from_dotlist(overrides))
        return replace(made, folder=tmp_path, config=config)

    assert engine_threads(of()) == 3
    assert engine_threads(of(run__deterministic="true")) == 1
    assert engine_threads(of(hardware__engine_threads=2)) == 2
    assert engine_threads(of(hardware__kind="gpu")) is None
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr("trm_agent.runs.fit_cpu_engine.free_bytes", lambda: 100 << 30)
    # that of the run is for its own episodes
    cache = "kv_cache_memory_bytes"
    run = of()
    OmegaConf.update(run.config, f"actor_rollout_ref.rollout.engine_kwargs.vllm.{cache}", 1 << 20, force_add=True)
    # 46,080 bytes a token in float32; 1,000 tokens are 32 blocks of 32, with 4,096 to spare
    for number_format, token_bytes in (("float32", 46_080), ("bfloat16", 23_040)):
        settings = engine_settings(run, number_format, 1000, 3)
        assert {**arguments(settings, cache_of(tmp_path, settings)), **settings}[cache] == 7168 * token_bytes
    # on vLLM's command line an option may be written with dashes, and stands behind the other
    OmegaConf.update(run.config, "actor_rollout_ref.rollout.engine_kwargs.vllm.block-size", 64, force_add=True)
    assert engine_settings(run, "float32", 1000, 3)["block_size"] == 64
    # on a GPU nothing else makes room
    run.config.hardware.kind = "gpu"
    assert engine_settings(run, "float32", 1000, 3)[cache] == 1 << 20


def test_a_run_brings_its_formats_its_environment_its_lengths_and_its_template(made, monkeypatch, tmp_path):
    from omegaconf import OmegaConf

    from trm_agent.runs.compose import compose_tree

    actor = "actor_rollout_ref.actor"
    overrides = (
        *("env=long_execution", "env.kwargs.protocol=hermes", "env.chat.roles=[user]", "model=hub"),
        *(f"actor_rollout_ref.model.path={made.folder}", "actor_rollout_ref.rollout.dtype=bfloat16"),
        *(f"{actor}.ulysses_sequence_parallel_size=2", f"{actor}.use_dynamic_bsz=true"),
        *("data.max_prompt_length=100", "data.max_response_length=900", "actor_rollout_ref.rollout.max_model_len=950"),
        *("actor_rollout_ref.rollout.temperature=0.8", "run.dir=somewhere"),
        *("actor_rollout_ref.rollout.top_k=64", "actor_rollout_ref.rollout.top_p=0.9"),
    )
    config = compose_tree(overrides)
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    monkeypatch.setattr("trm_agent.evaluate.checkpoints.source._check_model", lambda *_: None)
    said: list[str] = []
    found = find_source(f"start:{tmp_path}", None, ["num_words=7"], "cpu", said.append)
    assert "the run draws from a part of the vocabulary (top_k=64, top_p=0.9); here tokens" in said[-1]
    assert (found.engine_format, found.trainer_format) == ("bfloat16", "float32")
    assert (found.environment.name, found.environment.kwargs["num_words"]) == ("long_execution", 7)
    assert found.chat is not None
    assert found.chat.roles == ("user",)
    assert found.longest == 950
    assert found.config.actor_rollout_ref.rollout.temperature == 0.8
    assert (found.config.actor_rollout_ref.actor.use_dynamic_bsz, found.folder) == (False, made.folder)
    assert found.config.actor_rollout_ref.actor.ulysses_sequence_parallel_size == 1


def test_on_a_gpu_the_layers_of_both_sides_compute_in_bfloat16(made):
    on_gpu = source.Source("mine", made.folder, source._of_model(made.folder, "gpu"), made.environment, None, None)
    assert (on_gpu.engine_format, on_gpu.trainer_format) == ("bfloat16", "bfloat16")


def test_episodes_are_as_long_as_the_models_context_unless_told(made):
    from trm_agent.numerics.spec import NumericsSpec

    assert measuring.length_of(made, NumericsSpec()) == 2048
    assert measuring.length_of(made, NumericsSpec(tokens=512)) == 512
    with pytest.raises(ValueError, match="--tokens: got 4096; allowed: at most 2048"):
        measuring.length_of(made, NumericsSpec(tokens=4096))
    # a second engine samples one more behind what it reads
    assert measuring.length_of(made, NumericsSpec(), is_read=True) == 2047
    assert measuring.length_of(made, NumericsSpec(tokens=2047), is_read=True) == 2047
    assert measuring.length_of(made, NumericsSpec(tokens=512), is_read=True) == 512


TOKENS = 1500


def stub(monkeypatch, made, *differences: tuple[str, str, str, float]) -> list[Formats]:
    """Let the command measure one episode, with these differences for engine, side and the other's format."""
    sampled = [False] * 10 + [True] * (TOKENS - 10)
    episode = Played([1] * TOKENS, sampled, [0.0] * 10 + [-1.0] * (TOKENS - 10), 31)
    asked = []

    def measure(found, spec, formats, folder, say, open_bar):
        asked.append(formats)
        pairs = [
            compared(engine, other, [episode], [np.full(TOKENS - 10, -1.0 + d)], side)
            for engine, side, other, d in differences
        ]
        return Measured(found.label, found.environment.id, TOKENS, {"float32": [episode]}, pairs)

    monkeypatch.setattr(source, "find_source", lambda *_: made)
    monkeypatch.setattr(measuring, "measure", measure)
    return asked


def test_tables_verdicts_and_figures_are_printed_and_written(made, monkeypatch, tmp_path, capsys):
    differences = [("float32", "trainer", "float32", 0.0), ("float32", "trainer", "bfloat16", -0.2)]
    asked = stub(monkeypatch, made, *differences)
    file = tmp_path / "figures.json"
    words = ("--trainer", "float32", "bfloat16", "float32", "--episodes", "1", "--json", str(file))
    # one of the pairs is not healthy
    assert main(["numerics", "nano", *words]) == 1
    assert asked == [Formats(("float32",), ("float32", "bfloat16"))]
    out = capsys.readouterr().out
    assert "mine: with the engine in float32 1 episodes each to 1,500 tokens, 31 to 31 turns" in out
    assert "d: log-prob of the trainer less the engine's" in out
    assert "Verdict: rounding alone" in out
    # 0.2 below: e^-0.2 - 1 + 0.2 = 0.01873
    assert (
        "flat (slope of log KL over log depth 0.00, 0.00 at equal certainty of the tokens; one below 0.2); not" in out
    )
    assert "not healthy: KL 1.9e-02 nats" in out
    written = json.loads(file.read_text())
    assert [(pair["engine"], pair["trainer"], pair["verdict"]["is_healthy"]) for pair in written["pairs"]] == [
        ("float32", "float32", True),
        ("float32", "bfloat16", False),
    ]
    assert [each["tokens"] for each in written["pairs"][1]["bins"]] == [502, 512, 476]


def test_a_second_engine_alone_starts_no_trainer_and_has_its_own_tables(made, monkeypatch, tmp_path, capsys):
    asked = stub(monkeypatch, made, ("float32", SECOND_ENGINE, "bfloat16", 0.01))
    file = tmp_path / "figures.json"
    assert main(["numerics", "nano", "--second-engine", "bfloat16", "bfloat16", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "d: log-prob of the second engine less the engine's" in out
    assert "engine float32, second engine bfloat16\n" in out
    # 0.01 above: e^0.01 - 1 - 0.01 = 5.02e-5
    assert "healthy: KL 5.0e-05 nats" in out
    (pair,) = json.loads(file.read_text())["pairs"]
    assert (pair["engine"], pair["second_engine"], "trainer" in pair) == ("float32", "bfloat16", False)

    assert main(["numerics", "nano", "--second-engine", "float32", "--trainer", "bfloat16"]) == 0
    assert main(["numerics", "nano"]) == 0
    assert asked == [
        Formats(("float32",), (), ("bfloat16",)),
        Formats(("float32",), ("bfloat16",), ("float32",)),
        Formats(("float32",), ("float32",)),
    ]


@pytest.mark.parametrize(("depth", "told"), [(512, "a depth of 512 tokens"), (704, "a depth of about 704 tokens")])
def test_a_depth_between_the_bins_borders_is_about_right(made, monkeypatch, depth, told):
    stub(monkeypatch, made, ("float32", "trainer", "bfloat16", 0.01))
    (pair,) = measuring.measure(made, None, None, None, None, None).pairs
    jumps = replace(pair.verdict, kind="jumps", starts_at=depth)
    assert f"jumps at {told};" in "\n".join(telling._told(replace(pair, verdict=jumps)))
