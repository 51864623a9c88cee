"""Check the settings of verl's own tree that the trust region depends on, before Ray starts, in any trainer.

Reads a composed configuration and no key outside verl's own tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from trm_agent.trust_region.engine_option import effective_option
from trm_agent.trust_region.paired_run import check_paired_run
from trm_agent.trust_region.recording import REPLAYED
from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH, DumpConfig, TrmConfig
from trm_fields import refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig

LOSS_MODE = "trm"
AGENT_LOOP = "trm_env"
EXTENSION = "trm_agent.verl_plugin.extension"
_ACTOR = "actor_rollout_ref.actor"
_ROLLOUT = "actor_rollout_ref.rollout"
_LOSS = f"{_ACTOR}.policy_loss"
_OURS_FSDP = ("fsdp", "fsdp2")
# vLLM's log-probs of the distribution that it draws from, behind temperature, penalties and cuts
_PROCESSED = "processed_logprobs"
_REFERENCE = "actor_rollout_ref.ref"
# verl's two names of one setting
_SHARED = tuple(f"{section}ulysses_sequence_parallel_size" for section in ("", "fsdp_config."))


def trust_region(config: DictConfig) -> None:
    """Refuse thresholds and estimators that the rollout cannot serve.

    Raises:
        ValueError: with the field, its value, the allowed ones and the remedy.
    """
    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode != LOSS_MODE:
        return
    if "trm" not in loss:
        refuse(
            f"{_LOSS}.loss_mode", LOSS_MODE, "trm with its thresholds", "choose policy_loss=trm", because="without any"
        )
    trm = TrmConfig.from_mapping(section(loss, "trm"))
    if not config.actor_rollout_ref.rollout.calculate_log_probs:
        refuse(
            f"{_ROLLOUT}.calculate_log_probs",
            config.actor_rollout_ref.rollout.calculate_log_probs,
            "true, since the trust region is measured from the rollout's log-probs",
            "set it to true",
        )
    processed_log_probs(config)
    if config.algorithm.rollout_correction.bypass_mode == trm.starts_with_log_probs:
        name = "mask_policy" if trm.starts_with_log_probs and not trm.decoupled else "decoupled"
        refuse(
            "algorithm.rollout_correction.bypass_mode",
            config.algorithm.rollout_correction.bypass_mode,
            f"{str(not trm.starts_with_log_probs).lower()}: with bypass_mode=true verl's old_log_probs are the "
            "rollout's own, without it the trainer's at the start of the step",
            "change one of them (policy_loss=trm and policy_loss=trm_decoupled set both)",
            because=f"with {FIELD_PATH}.{name}={str(getattr(trm, name)).lower()}",
        )
    if trm.needs_paired_run:
        actor = config.actor_rollout_ref.actor
        num_updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
        check_paired_run(trm.yoked_run, num_updates)
    if trm.estimator != "sampled":
        _distributions(config, trm.estimator)
    if trm.estimator == REPLAYED:
        _replayed(config)
    dump = DumpConfig.from_mapping(section(loss, "dump"))
    if dump.distributions and trm.estimator not in ("exact", REPLAYED):
        refuse(
            f"{DUMP_PATH}.distributions",
            dump.distributions,
            f"true with estimator=exact or {REPLAYED}, for which alone the rollout's distributions are recorded whole",
            "set it, or distributions=false",
            because=f"with {FIELD_PATH}.estimator={trm.estimator!r}",
        )


def processed_log_probs(config: DictConfig) -> None:
    """Refuse log-probs of another distribution than the one that the engine draws from.

    Any other mode tells raw ones, before the temperature and the cuts, or logits. Where these agree with the processed
    ones (temperature 1, nothing cut, no penalty) nothing speaks for them.

    Raises:
        ValueError: vLLM's `logprobs_mode` is another, by verl's field or by an option of vLLM's own.
    """
    from omegaconf import OmegaConf

    if OmegaConf.select(config, f"{_ROLLOUT}.name") != "vllm":
        return
    field, mode = effective_option(config, "logprobs_mode")
    if mode != _PROCESSED:
        because = (
            "with which the recorded log-probs are not those of the distribution that the engine draws from, so that "
            "every ratio and divergence would be of another policy"
        )
        refuse(field, mode, _PROCESSED, "leave it out", because=because)


def trainer_and_engine(config: DictConfig) -> None:
    """Refuse a trainer or an engine of verl that cannot give the loss its inputs.

    Raises:
        ValueError: with the field, its value, the allowed ones and the remedy.
    """
    from omegaconf import OmegaConf

    loss = config.actor_rollout_ref.actor.policy_loss
    if loss.loss_mode != LOSS_MODE:
        return
    trm = TrmConfig.from_mapping(section(loss, "trm"))
    libraries = OmegaConf.select(config, "actor_rollout_ref.model.external_lib")
    if libraries != EXTENSION and EXTENSION not in (libraries or []):
        refuse(
            "actor_rollout_ref.model.external_lib",
            libraries,
            f"{EXTENSION}, which names the metrics and brings the engine, or a list with it",
            "set it",
            because=f"with {_LOSS}.loss_mode=trm",
        )
    if OmegaConf.select(config, f"{_ROLLOUT}.agent.default_agent_loop") == AGENT_LOOP and "env" not in config:
        refuse(
            f"{_ROLLOUT}.agent.default_agent_loop",
            AGENT_LOOP,
            "an agent loop of verl's or of yours",
            "choose one, or start python -m trm_agent.train",
            because="without the group `env`, for what it plays",
        )
    if OmegaConf.select(config, "trainer.use_v1") is False:
        refuse(
            "trainer.use_v1",
            False,
            "true, since verl's legacy trainer has no place for its metrics and thresholds",
            "set trainer.use_v1=true",
            because=f"with {_LOSS}.loss_mode=trm",
        )
    _no_correction(config)
    strategy = config.actor_rollout_ref.actor.get("strategy")
    needs_engine = {
        "target_acceptance": trm.target_acceptance is not None,
        "decoupled": trm.decoupled,
        "mask_policy": trm.mask_policy == "start_of_step",
        "criterion": trm.decides_on_whole_batch,
    }
    for name, wanted in needs_engine.items():
        if wanted and strategy not in _OURS_FSDP:
            refuse(
                f"{FIELD_PATH}.{name}",
                getattr(trm, name),
                f"with strategy {' or '.join(_OURS_FSDP)}",
                f"choose one of them, or leave {name} out",
                because=f"with {_ACTOR}.strategy={strategy!r}",
            )


def _no_correction(config: DictConfig) -> None:
    """Refuse the two fields by which verl's rollout correction changes a batch before the loss sees it.

    Tokens that it rejects would be gone from the mask, from its metrics and from the denominators.
    """
    correction, asked = config.algorithm.rollout_correction, f"with {_LOSS}.loss_mode=trm"
    decides = f"{asked}, which itself decides what stays, and counts what does not in metrics and denominators"
    for name, because, remedy in (
        ("rollout_is", f"{asked}, which weighs each token itself", "set it to null"),
        ("rollout_rs", decides, f"set it to null, and choose {FIELD_PATH}.criterion"),
    ):
        if correction.get(name) is not None:
            refuse(f"algorithm.rollout_correction.{name}", correction[name], "null", remedy, because=because)


def section(loss: DictConfig, name: str) -> Mapping[str, Any]:
    """Return `trm` or `dump` of a policy loss, interpolations resolved; empty where it is absent."""
    from omegaconf import OmegaConf

    node = loss.get(name)
    return {} if node is None else cast("Mapping[str, Any]", OmegaConf.to_container(node, resolve=True))


def _distributions(config: DictConfig, estimator: str) -> None:
    """Check the requirements for sending the rollout's distributions to the actor's logits."""
    from omegaconf import OmegaConf

    needs: tuple[tuple[str, tuple[Any, ...]], ...] = (
        (f"{_ROLLOUT}.name", ("vllm",)),
        (f"{_ROLLOUT}.agent.default_agent_loop", (AGENT_LOOP,)),
        (f"{_ACTOR}.strategy", _OURS_FSDP),
        ("actor_rollout_ref.model.use_fused_kernels", (False, None)),
    )
    for field, allowed in needs:
        value = OmegaConf.select(config, field)
        if value not in allowed:
            refuse(
                field,
                value,
                ", ".join(str(choice) for choice in allowed if choice is not None),
                "change it, or set estimator=sampled",
                because=f"with {FIELD_PATH}.estimator={estimator!r}: the rollout cannot feed this estimator",
            )


def _replayed(config: DictConfig) -> None:
    """Refuse what is not defined on the tokens that a rollout could draw, or is not taken on them yet."""
    from omegaconf import OmegaConf

    asked = f"with {FIELD_PATH}.estimator={REPLAYED}"
    kept = config.actor_rollout_ref.rollout.top_k
    if kept < 1:
        # of a cut by top_p alone no number of tokens is known that would hold it
        because = f"{asked}, which records and takes both policies on the tokens that it keeps"
        refuse(f"{_ROLLOUT}.top_k", kept, "1 or more, such as 64", "set it, or estimator=exact", because=because)
    has_reference = any(
        OmegaConf.select(config, name) for name in (f"{_ACTOR}.use_kl_loss", "algorithm.use_kl_in_reward")
    )
    roles = (_ACTOR, _REFERENCE) if has_reference else (_ACTOR,)
    needs: list[tuple[str, tuple[Any, ...], str]] = [
        (f"{role}.{name}", (1, None), "ranks that share a sequence are not served yet")
        for role in roles
        for name in _SHARED
    ]
    if has_reference:
        needs.append((f"{_REFERENCE}.strategy", _OURS_FSDP, "no other engine takes the reference on the kept tokens"))
    for name, allowed, why in needs:
        value = OmegaConf.select(config, name)
        if value not in allowed:
            told = " or ".join(str(choice) for choice in allowed if choice is not None)
            refuse(name, value, told, "set it, or choose another estimator", because=f"{asked}: {why}")
