"""A trainer whose rollout servers have devices of their own: what of verl's is bent, and in which order weights go."""

import logging
import pickle
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.checkpoint_engine import base
from verl.trainer.ppo.v1 import get_trainer_cls

from trm_agent.runs.compose import compose_run
from trm_agent.verl_plugin.driver import launch
from trm_agent.verl_plugin.driver.asynchronous import AsynchronousMixin, rollout_servers
from trm_agent.verl_plugin.driver.separate import TRAINER, SeparateMixin
from trm_agent.verl_plugin.driver.trainer import trainer_class
from trm_agent.verl_plugin.rollout.resuming_client import ResumingClient
from trm_agent.verl_plugin.transfer.tcp_engine import TCPCheckpointEngine


@pytest.fixture(scope="module")
def separate() -> bytes:
    return pickle.dumps(compose_run(["experiment=math_nano_separate"]))


class Base:
    """verl's trainer, as far as it matters here."""

    def _setup(self):
        logging.getLogger(TRAINER).info("no replicas on the trainer's devices", flush=True)
        self.has_run = True

    def _init_dataloader(self):
        self.config.actor_rollout_ref.actor.optim.total_training_steps = 40 * self.parameter_sync_step


class Trainer(SeparateMixin, Base):
    def __init__(self, optim=None):
        self.parameter_sync_step = 2
        self.config = OmegaConf.create({"actor_rollout_ref": {"actor": {"optim": optim or {}}}})


def manager(name):
    return SimpleNamespace(name=name, get_client=lambda client_cls: (name, client_cls))


def test_the_mode_has_the_mixin_in_front_of_verls_trainer():
    made = trainer_class("separate_async")
    assert issubclass(made, SeparateMixin)
    assert issubclass(made, get_trainer_cls("separate_async"))
    assert made.__mro__.index(SeparateMixin) < made.__mro__.index(get_trainer_cls("separate_async"))
    assert not issubclass(trainer_class("colocate_async"), SeparateMixin)
    assert issubclass(trainer_class("colocate_async"), AsynchronousMixin)


def test_episodes_are_played_by_the_servers_with_devices_of_their_own():
    trainer = Trainer()
    trainer.llm_server_manager = manager("the trainer's")
    assert trainer.get_llm_client() == ("the trainer's", ResumingClient)
    trainer.standalone_server_manager = manager("their own")
    assert trainer.get_llm_client() == ("their own", ResumingClient)
    assert rollout_servers(trainer).name == "their own"


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_verls_word_with_an_argument_that_no_logger_takes_is_not_said(level):
    logger = logging.getLogger(TRAINER)
    before = logger.level
    logger.setLevel(level)
    try:
        with pytest.raises(TypeError, match="flush"):
            Base()._setup()
        trainer = Trainer()
        trainer._setup()
        assert (trainer.has_run, logger.level) == (True, level)
    finally:
        logger.setLevel(before)


def test_a_warm_up_of_steps_is_one_of_updates_in_actor_and_critic():
    trainer = Trainer({"lr_warmup_steps": 5})
    trainer.config.critic = {"optim": {"lr_warmup_steps": 3}}
    trainer._init_dataloader()
    assert trainer.config.actor_rollout_ref.actor.optim.lr_warmup_steps == 10
    assert trainer.config.critic.optim.lr_warmup_steps == 6
    # a ratio is one of the length, which verl counts in updates
    for none in (-1, None):
        trainer = Trainer({"lr_warmup_steps": none, "lr_warmup_steps_ratio": 0.1})
        trainer._init_dataloader()
        optim = trainer.config.actor_rollout_ref.actor.optim
        assert (optim.lr_warmup_steps, optim.lr_warmup_steps_ratio) == (none, 0.1)


def test_a_schedule_that_began_anew_counts_updates_as_verls_length_does():
    trainer = Trainer({"schedule_from": 10})
    trainer._init_dataloader()
    assert dict(trainer.config.actor_rollout_ref.actor.optim) == {"schedule_from": 20, "total_training_steps": 80}
    without = Trainer()
    without._init_dataloader()
    assert dict(without.config.actor_rollout_ref.actor.optim) == {"total_training_steps": 80}


class Replica:
    """A rollout server that notes what it is asked."""

    def __init__(self, notes):
        self.notes, self.workers = notes, []

    def __getattr__(self, name):
        async def noted(**_):
            self.notes.append(name)

        return noted


class Group:
    """Processes of one kind: they note what they are asked."""

    world_size = 1

    def __init__(self, notes, kind):
        self.notes, self.kind = notes, kind

    def execute_checkpoint_engine(self, method, **given):
        self.notes.append(method[0])
        is_sender = (method[0], self.kind) == ("prepare", "actor")
        return [{"host": "127.0.0.1", "port": 1, "token": "t"} if is_sender else {}]

    def update_weights(self, global_steps, mode=None):
        self.notes.append(f"version {global_steps}")
        return [{}]


def test_no_server_samples_from_before_the_first_weight_until_after_the_last(monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(base, "ray", SimpleNamespace(get=lambda refs: refs))
    monkeypatch.setattr(base, "RayWorkerGroup", lambda **_: Group(notes, "server"))
    monkeypatch.setattr(base, "RayClassWithInitArgs", lambda **_: None)
    config = SimpleNamespace(backend="tcp", custom_backend_module=launch.TRANSFER)
    verls = base.CheckpointEngineManager(config, Group(notes, "actor"), [Replica(notes)])
    assert verls.backend_cls is TCPCheckpointEngine
    verls.update_weights(4)
    # turns are cut, and the prefix cache emptied, before anything of the new version comes; then the gate opens
    assert notes[0] == "abort_all_requests"
    assert notes[-1] == "resume_generation"
    assert [note for note in notes if note.startswith("version")] == ["version 4", "version 4"]
    assert notes.count("abort_all_requests") == notes.count("resume_generation") == 1


def test_the_launch_gives_the_way_of_the_weights_and_a_cpus_logical_devices(separate):
    config = pickle.loads(separate)
    launch._serve_apart(config)
    assert config.actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module == launch.TRANSFER
    assert config.ray_kwargs.ray_init.num_gpus == 2
    more = pickle.loads(separate)
    more.ray_kwargs.ray_init.num_gpus = 5
    launch._serve_apart(more)
    assert more.ray_kwargs.ray_init.num_gpus == 5
    on_gpus = pickle.loads(separate)
    on_gpus.hardware.kind = "gpu"
    launch._serve_apart(on_gpus)
    assert on_gpus.ray_kwargs.ray_init.num_gpus == 1
    shared = compose_run(["experiment=math_nano_async"])
    launch._serve_apart(shared)
    assert shared.actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module is None
    assert shared.ray_kwargs.ray_init.num_gpus == 1


@pytest.mark.slow
def test_verl_itself_has_nothing_against_the_preset(separate):
    config, ray_init = launch.checked(pickle.loads(separate))
    assert ray_init["num_gpus"] == 2
    assert config.actor_rollout_ref.rollout.checkpoint_engine.backend == "tcp"
