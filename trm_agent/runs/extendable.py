"""Fields in which an extension may differ from its run."""

from collections.abc import Iterable

from trm_agent.trust_region.settings import DUMP_PATH

# fields that may differ from those of the run; what is learned from a batch stays the same
EXTENDABLE = (
    "trainer.total_training_steps",
    "trainer.total_epochs",
    "env.train.num_tasks",
    "trainer.save_freq",
    "trainer.test_freq",
    "env.val.greedy_tasks",
    "trainer.logger",
    "trainer.log_val_generations",
    "trainer.max_actor_ckpt_to_keep",
    "run.keep_best",
    "run.keep_every",
    "run.weight_sync_timeout_s",
    "run.start_timeout_s",
    "run.phase_timeout_s",
    "run.warn_infrastructure_share",
    "run.max_infrastructure_share",
    "run.max_infrastructure_steps",
    "env.limits.step_timeout_s",
    "env.limits.generate_timeout_s",
    "env.limits.episode_timeout_s",
    "hardware.fork_server",
    "hardware.agent_loops",
    "hardware.engine_threads",
    "hardware.least_tokens_per_s",
    *(f"{DUMP_PATH}.{name}" for name in ("every", "max_sequences", "max_files", "distributions", "directory")),
)


def how_to_go_on(fields: Iterable[str]) -> str:
    """Return how an unfinished run goes on that differs from a command in some fields."""
    extends = ", trm train --extend changes it" if set(fields) <= set(EXTENDABLE) else ""
    return f"its own command resumes it{extends}"
