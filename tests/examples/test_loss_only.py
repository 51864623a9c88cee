"""The loss in verl's own trainer: what it refuses, what works, and the names of the metrics."""

import importlib.util
import json
import logging
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("verl")

import verl
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.utils.config import validate_config
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import append_to_dict, rename_dict

from tests.core import reference
from tests.core.batches import to_tensors
from tests.verl_plugin.loss_support import actor_config, batch_info, update_of
from trm_agent.trust_region.settings import TrmConfig
from trm_agent.verl_plugin.actor.update import ADAPTIVE_KEY, DUMP_KEY, LONGEST_KEY, SEED_KEY, STEP_KEY, TASKS_KEY
from trm_agent.verl_plugin.driver import actor_update
from trm_agent.verl_plugin.driver.actor_update import with_trust_region

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "loss_only.py"
LOSS = "actor_rollout_ref.actor.policy_loss"
CORRECTION = "algorithm.rollout_correction"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loss_only", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def composed(*overrides: str) -> DictConfig:
    """verl's own tree with the lines of the example, as `python -m verl.trainer.main_ppo` composes it."""
    directory = str(Path(verl.__file__).parent / "trainer" / "config")
    example = load()
    with initialize_config_dir(directory, version_base=None):
        return compose("ppo_trainer", overrides=[*example.TRM, *example.VERL, *overrides])


@pytest.fixture(scope="module")
def plain() -> DictConfig:
    return composed()


def changed(config: DictConfig, **values: object) -> DictConfig:
    config = deepcopy(config)
    with open_dict(config):
        for field, value in values.items():
            OmegaConf.update(config, field, value)
    return config


def validate(config: DictConfig) -> None:
    """All that verl's command does before Ray starts."""
    validate_config(config=config, use_reference_policy=False, use_critic=False)


def test_the_group_trm_reads_no_key_outside_verls_tree(plain):
    validate(plain)
    loss = OmegaConf.to_container(plain.actor_rollout_ref.actor.policy_loss, resolve=True)
    assert TrmConfig.from_mapping(loss["trm"]) == TrmConfig()
    assert loss["dump"]["directory"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["cppo", "opsm", "trm_adaptive", "trm_decoupled", "trm_ln", "trm_permuted", "trm_random", "trm_stop_cumulative"],
)
def test_every_preset_of_the_loss_works_in_verls_tree(name):
    example = load()
    directory = str(Path(verl.__file__).parent / "trainer" / "config")
    lines = [line.replace("+policy_loss=trm", f"+policy_loss={name}") for line in example.TRM]
    with initialize_config_dir(directory, version_base=None):
        validate(compose("ppo_trainer", overrides=[*lines, *example.VERL]))


WORKING = [
    {f"{LOSS}.trm.target_acceptance": 0.9},
    {f"{LOSS}.trm.target_acceptance": 0.9, f"{LOSS}.trm.criterion": "both"},
    {f"{LOSS}.trm.decoupled": True, f"{CORRECTION}.bypass_mode": False},
    {f"{LOSS}.trm.ratio_truncation": 2.0},
    {f"{LOSS}.dump.every": 0},
    {f"{LOSS}.dump.directory": "/elsewhere"},
    {"actor_rollout_ref.model.external_lib": ["json", "trm_agent.verl_plugin.extension"]},
    {f"{LOSS}.trm.criterion": "inverse", f"{LOSS}.trm.controlled": "stop"},
    *({f"{LOSS}.trm.criterion": name} for name in ("avg", "ln", "ser", "random", "token", "prefix", "opsm")),
]
# setting -> what the message holds: field, value, allowed, remedy
REFUSED = [
    (
        {f"{LOSS}.trm.estimator": "topk"},
        ["default_agent_loop: got 'single_turn_agent'", "allowed: trm_env", "=sampled"],
    ),
    (
        {f"{LOSS}.trm.estimator": "exact"},
        ["default_agent_loop: got 'single_turn_agent'", "allowed: trm_env", "=sampled"],
    ),
    (
        {f"{LOSS}.trm.estimator": "topk", "actor_rollout_ref.rollout.agent.default_agent_loop": "trm_env"},
        ["default_agent_loop: got 'trm_env'", "allowed: an agent loop", "start python -m trm_agent.train"],
    ),
    ({f"{LOSS}.dump.distributions": True}, ["dump.distributions: got true", "exact", "distributions=false"]),
    ({f"{LOSS}.trm.decoupled": True}, ["bypass_mode: got true, with", "decoupled=true", "change one"]),
    ({f"{CORRECTION}.bypass_mode": False}, ["bypass_mode: got false, with", "decoupled=false"]),
    ({f"{CORRECTION}.rollout_is": "token"}, ["rollout_is: got 'token'", "allowed: null", "set it"]),
    ({f"{CORRECTION}.rollout_rs": "token_k1"}, ["got 'token_k1'", "allowed: null", "policy_loss.trm.criterion"]),
    (
        {f"{LOSS}.trm.decoupled": True, f"{CORRECTION}.bypass_mode": False, f"{CORRECTION}.rollout_rs": "seq_mean_k3"},
        ["rollout_rs: got 'seq_mean_k3'", "metrics and denominators", "allowed: null"],
    ),
    ({"actor_rollout_ref.rollout.calculate_log_probs": False}, ["calculate_log_probs: got false", "set it to true"]),
    ({"actor_rollout_ref.model.external_lib": None}, ["external_lib: got null", "allowed: trm_agent", "set it"]),
    ({"actor_rollout_ref.model.external_lib": "my_losses"}, ["external_lib: got 'my_losses'", "or a list with it"]),
    ({"trainer.use_v1": False}, ["trainer.use_v1: got false", "allowed: true", "set trainer.use_v1=true"]),
    ({"actor_rollout_ref.actor.loss_scale_factor": None}, ["loss_scale_factor: got null", "allowed", "set it"]),
    ({f"{LOSS}.trm.max_token_kl": -1}, ["max_token_kl", "-1", "allowed"]),
    ({f"{LOSS}.trm.max_token_kll": 1}, ["max_token_kll: no such field", "max_token_kl"]),
    ({f"{LOSS}.trm.target_acceptance": 0.9, f"{LOSS}.trm.criterion": "ser"}, ["target_acceptance", "allowed: null"]),
    (
        {f"{LOSS}.trm.target_acceptance": 0.9, "actor_rollout_ref.actor.strategy": "veomni"},
        ["target_acceptance: got 0.9", "strategy='veomni'", "allowed: with strategy fsdp or fsdp2", "choose one"],
    ),
]


@pytest.mark.parametrize("settings", WORKING, ids=str)
def test_a_setting_that_works_passes_verls_own_validation(plain, settings):
    validate(changed(plain, **settings))


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_a_setting_that_cannot_work_is_refused_in_verls_own_validation(plain, settings, words):
    with pytest.raises(Exception) as error:  # noqa: PT011  (Hydra wraps what a dataclass raises)
        validate(changed(plain, **settings))
    for word in words:
        assert word in str(error.value)


def test_another_loss_of_verls_is_left_alone(plain):
    validate(
        changed(
            plain,
            **{
                f"{LOSS}.loss_mode": "vanilla",
                f"{LOSS}.trm.estimator": "topk",
                "actor_rollout_ref.model.external_lib": None,
            },
        )
    )


def trainer(config: DictConfig, step: int = 9) -> SimpleNamespace:
    return SimpleNamespace(config=config, global_steps=step)


def updates(trm: TrmConfig, count: int = 2) -> dict:
    """Return the metrics that verl's update of the actor hands its driver, from our loss on random batches."""
    tensors = [to_tensors(reference.random_batch(seed)) for seed in range(count)]
    made = [update_of([batch], actor_config(trm, **batch_info(batch))).metrics() for batch in tensors]
    step: dict = {"grad_norm": [0.5]}
    for metrics in made:
        append_to_dict(step, metrics)
    return reduce_metrics(rename_dict(step, "actor/"))


def update_with(trm: TrmConfig, told: list[dict]):
    def verls(self, batch, metrics):
        told.append(dict(batch.extra_info))
        metrics.update(updates(trm))
        return batch

    return with_trust_region(verls)


def test_names_are_those_of_the_page_and_verls_own_stay(plain):
    metrics: dict = {"timing_s/gen": 1.0}
    update_with(TrmConfig(), [])(trainer(plain), SimpleNamespace(extra_info={}), metrics=metrics)
    page = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert {"trm/acceptance", "trm/token_kl_max", "trm/ratio_min", "actor/grad_norm", "timing_s/gen"} <= metrics.keys()
    for name in metrics.keys() - {"actor/grad_norm", "timing_s/gen"}:
        assert name.startswith("trm/"), name
    for name in ("trm/acceptance", "trm/token_kl_max", "trm/ratio_max", "trm/bound_unified"):
        assert f"`{name}`" in page


def test_dumps_go_where_verl_keeps_its_checkpoints_and_hold_whole_groups(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_update, "tasks_in", lambda batch: batch.tasks)
    dump = {f"{LOSS}.dump.max_sequences": 4}
    config = changed(plain, **{"trainer.default_local_dir": str(tmp_path)}, **dump)
    told: list[dict] = []
    update = update_with(TrmConfig(), told)
    for step in (9, 10, 1):
        update(trainer(config, step), SimpleNamespace(extra_info={}, tasks=["a", "b", "a", "b", "c", "c"]), {})
    assert not {DUMP_KEY, TASKS_KEY} & told[0].keys()
    assert len(set(json.loads(told[1][TASKS_KEY])) & {"a", "b", "c"}) == 2
    assert [batch[STEP_KEY] for batch in told] == [9, 10, 1]
    assert {batch[LONGEST_KEY] for batch in told} == {config.data.max_response_length}
    assert DUMP_KEY in told[2]
    assert json.loads(told[1][DUMP_KEY])["directory"] == str(tmp_path / "rollouts")
    # a step's number is that of all its updates together
    of_two = trainer(config, 10)
    of_two.parameter_sync_step = 2
    update(of_two, SimpleNamespace(extra_info={}, tasks=["a", "b", "a", "b", "c", "c"]), {})
    assert len(json.loads(told[3][TASKS_KEY])) == 1


def test_the_adaptive_threshold_follows_the_step_before(plain):
    trm = TrmConfig(target_acceptance=0.5)
    config = changed(plain, **{f"{LOSS}.trm.target_acceptance": 0.5})
    told: list[dict] = []
    update, of_run = update_with(trm, told), trainer(config)
    rows: list[dict] = [{}, {}]
    for metrics in rows:
        update(of_run, SimpleNamespace(extra_info={}), metrics)
    thresholds = [json.loads(batch[ADAPTIVE_KEY])["max_token_kl"] for batch in told]
    assert [row["trm/max_token_kl"] for row in rows] == thresholds
    assert thresholds[0] == 0.05
    assert thresholds[1] == pytest.approx(min(max(rows[0]["trm/target_threshold"], 0.001), 0.5))
    assert thresholds[1] != 0.05


def test_the_trainer_is_wrapped_once_and_in_a_known_version_alone(monkeypatch):
    class Trainer:
        def _compute_old_log_prob(self, batch, metrics):
            return batch

        def _update_actor(self, batch, metrics):
            return batch

    original = Trainer._update_actor
    monkeypatch.setitem(sys.modules, actor_update.TRAINER, SimpleNamespace(PPOTrainer=Trainer))
    with monkeypatch.context() as other:
        other.setattr(actor_update, "VERL_VERSION", "0.1.0")
        with pytest.raises(RuntimeError, match=r"'actor_update' was written for verl 0\.1\.0, found"):
            actor_update.install()
    assert Trainer._update_actor is original
    for _ in range(2):
        actor_update.install()
    assert Trainer._update_actor.__wrapped__ is original


def test_a_step_without_a_kept_sequence_warns(plain, caplog):
    with caplog.at_level(logging.WARNING, "trm_agent"):
        update_with(TrmConfig(max_token_kl=1e-30), [])(trainer(plain), SimpleNamespace(extra_info={}), {})
    assert "no sequence of this step was accepted" in caplog.text


@pytest.mark.parametrize(("criterion", "kind"), [("max", "note"), ("stop", "warning")])
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_lost_guarantee_is_told_once_by_its_kind_and_of_a_run_of_ours_by_the_command(
    plain, criterion, kind, is_ours, capsys, caplog, tmp_path
):
    changes = {"actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-mean", f"{LOSS}.trm.criterion": criterion}
    config = changed(plain, **changes, **({"run": {"dir": str(tmp_path)}} if is_ours else {}))
    update, of_run = update_with(TrmConfig(), []), trainer(config)
    with caplog.at_level(logging.INFO, "trm_agent"):
        for _ in range(2):
            update(of_run, SimpleNamespace(extra_info={}), {})
    told = capsys.readouterr().out
    line = f"trm: {kind}: criterion={criterion} is without its guarantee here: estimator=sampled"
    assert told.count(line) == (not is_ours)
    assert (told + caplog.text).count("guarantee") == (not is_ours)


@pytest.mark.parametrize("is_ours", [False, True])
def test_episodes_that_are_left_out_are_told_once_and_of_a_run_of_ours_by_the_command(plain, is_ours, capsys, tmp_path):
    run = {"run": {"dir": str(tmp_path)}} if is_ours else {}
    config = changed(plain, **{"algorithm.filter_groups": {"enable": True}}, **run)
    update, of_run = update_with(TrmConfig(), []), trainer(config)
    for _ in range(2):
        update(of_run, SimpleNamespace(extra_info={}), {})
    line = "trm: note: algorithm.filter_groups.enable=true leaves episodes out for how they went"
    assert capsys.readouterr().out.count(line) == (not is_ours)


def test_a_control_that_shuffles_nothing_is_told_once_and_its_engine_gets_the_seed(plain, caplog):
    permuted = {f"{LOSS}.trm.criterion": "permuted", f"{LOSS}.trm.mask_policy": "start_of_step"}
    told: list[dict] = []
    update, of_run = update_with(TrmConfig(max_token_kl=1e9), told), trainer(changed(plain, **permuted))
    with caplog.at_level(logging.WARNING, "trm_agent"):
        for _ in range(2):
            update(of_run, SimpleNamespace(extra_info={}), {})
    assert caplog.text.count("criterion=permuted shuffled nothing") == 1
    assert [batch[SEED_KEY] for batch in told] == [0, 0]
