"""Extend a run in its own folder: `trm train --extend RUN FIELD=VALUE ...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm_agent.runs.compose import GPU, GROUPS, compose_tree, plain
from trm_agent.runs.extendable import EXTENDABLE
from trm_agent.runs.folder import (
    SUMMARY_FILE,
    RunFolder,
    check_scorer,
    checkpoint_folder,
    checkpoint_step,
    read_metrics,
    record_resume,
    resumed,
    write_atomically,
)
from trm_agent.runs.numbered import try_lock
from trm_agent.runs.old_fields import MEANT
from trm_agent.runs.origin import RESUME_PATH
from trm_agent.runs.repeated import forget_after
from trm_agent.runs.scorer_version import FIELD
from trm_agent.runs.stored_config import ABSENT, CONFIG_FILE, differing, flatten, read_config, shown_changes
from trm_agent.trust_region.settings import DUMP_PATH, FIELD_PATH
from trm_fields import refuse, refuse_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

SCHEDULES = ("stretch", "restart")
# sections whose fields depend on a choice, and are not filled in where a stored configuration lacks them
_CHOSEN = (FIELD_PATH, DUMP_PATH, "nano", "env.kwargs", "hardware.env_vars")
# fields that a preset sets and an older run was without
_WITHOUT = {"env.val.greedy_tasks": 0}
# the class of the optimizer's settings for a schedule that began anew
SCHEDULED_OPTIMIZER = "trm_agent.verl_plugin.actor.schedule.ScheduledOptimizerConfig"


def compose_extension(path: Path, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Return a run's configuration with the given fields changed, and its stored one.

    Fields that an older config.yaml lacks count as their defaults.

    Raises:
        ValueError: the folder is not a run's, or is of an unknown version; or an override changes a field that may not
            differ.
    """
    from omegaconf import OmegaConf, open_dict

    from trm_agent.runs.overrides import check_overrides
    from trm_agent.runs.schema import check_groups

    if not (path / CONFIG_FILE).is_file():
        because = f"which holds no {CONFIG_FILE}" if path.exists() else "which is not there"
        refuse("--extend", str(path), "the folder of a run", "give one", because=because)
    check_overrides(overrides)
    try:
        stored = read_config(path)
        _check_resolved(stored)
    except ValueError as error:
        raise ValueError(f"--extend {path}: {error}") from error
    config = _with_values(stored)
    with open_dict(config):
        config.run.dir = str(path)
        config.trainer.default_local_dir = "${run.dir}/checkpoints"
        dump = OmegaConf.select(config, DUMP_PATH)
        if dump is not None and str(dump.get("directory")) in _own_dumps(stored, path):
            dump.directory = "${run.dir}/rollouts"
        for override in overrides:
            _apply(config, override)
    check_groups(config)
    return config, stored


def open_extended(
    path: Path, config: DictConfig, stored: Mapping[str, Any], schedule: str | None, version: str
) -> RunFolder:
    """Lock the folder of a run that is extended or resumed; nothing is written into it yet.

    Args:
        path: the folder.
        config: what `compose_extension` returned, checked and pinned.
        stored: the configuration in the folder.
        schedule: one of `SCHEDULES`; None for `stretch`.
        version: that of the scorer.

    Raises:
        ValueError: the run is in use, lacks its last checkpoint, has passed the last step, or was scored by another
            version.
    """
    lock = try_lock(path)
    if lock is None:
        refuse("--extend", str(path), "a run that no process is training", "wait for it", because="which is in use")
    new = {**plain(config), FIELD: version}
    try:
        check_scorer(path, stored, new)
    except ValueError as error:
        raise ValueError(f"--extend {path}: {error}") from error
    step, finished = checkpoint_step(path), (path / SUMMARY_FILE).exists()
    changes = _changes(stored, new)
    wants_restart = schedule == "restart" and (changes or not config.run.schedule_from)
    if not changes and not wants_restart:
        return resumed(path, stored, new, lock)
    if finished and not step:
        because, remedy = "which has no checkpoint to go on from", "begin a new run with trainer.save_freq above 0"
        refuse("--extend", str(path), "a run with a checkpoint", remedy, because=because)
    last = max((row["step"] for row in read_metrics(path)), default=0)
    if finished and step < last:
        because = f"which has no checkpoint of its last step, {last}"
        remedy = f"begin a new run at step {step}: trainer.resume_mode=resume_path {RESUME_PATH}="
        refuse("--extend", str(path), "a run with that", f"{remedy}{checkpoint_folder(path, step)}", because=because)
    steps = config.trainer.total_training_steps
    if steps <= step:
        because = f"while the run's last checkpoint is of step {step}"
        refuse("trainer.total_training_steps", steps, f"more than {step}", "raise it", because=because)
    if wants_restart:
        _restart(config, step)
        changes = _changes(stored, {**plain(config), FIELD: version})
    folder = resumed(path, stored, new, lock)
    shown = f"extended: {shown_changes(changes, len(changes))}"
    rates_change = wants_restart or "trainer.total_training_steps" in changes
    notes = (shown, *([schedule_note(config, schedule or "stretch", step)] if rates_change else []))
    folder.state, folder.notes = "resumed", (*folder.notes, *notes)
    folder.changes, folder.schedule = changes, schedule or "stretch"
    folder.changed_config = {**plain(config), FIELD: stored.get(FIELD, version)}
    return folder


def go_on(folder: RunFolder, version: str) -> None:
    """Write into the folder of a resumed run that it goes on, and how, once nothing refuses it any more.

    Args:
        folder: the folder; nothing is written into a new one.
        version: that of the scorer.
    """
    if folder.changes:
        write_extension(folder)
    if folder.state == "resumed":
        forget_after(folder.path, folder.step)
        record_resume(folder, version)


def write_extension(folder: RunFolder) -> None:
    """Write the changed configuration into the folder; the summary of the shorter run goes."""
    import yaml

    (folder.path / SUMMARY_FILE).unlink(missing_ok=True)
    write_atomically(folder.path / CONFIG_FILE, yaml.safe_dump(folder.changed_config, sort_keys=False))


def schedule_note(config: DictConfig, schedule: str, step: int) -> str:
    """Describe the rates of the steps after the given one."""
    optim, steps, begun = config.actor_rollout_ref.actor.optim, config.trainer.total_training_steps, 1
    begun += step if schedule == "restart" else config.run.schedule_from
    warmed = (optim.lr_warmup_steps or 0) > 0 or (optim.lr_warmup_steps_ratio or 0) > 0
    if optim.lr_scheduler_type == "constant" and not warmed:
        return f"rate: constant, {optim.lr:g}; nothing to stretch or restart"
    how, other = ("restarted", "stretch") if schedule == "restart" else ("stretched", "restart")
    kind = optim.lr_scheduler_type + (" after a warm-up" if warmed else "")
    return f"rate schedule {how}: {kind} over steps {begun} to {steps} (--schedule {other} is the other choice)"


def _apply(config: DictConfig, text: str) -> None:
    """Change one field of the configuration, if it may differ."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    override = OverridesParser.create().parse_override(text)
    field = override.key_or_group
    if field in GROUPS:
        why = "since the run's configuration is taken from its folder"
        refuse(field, override.value(), f"no choice of a group with --extend, {why}", f"leave {text} out")
    before = OmegaConf.select(config, field, default=ABSENT)
    before = plain(before) if OmegaConf.is_config(before) else before
    if override.is_delete():
        refuse(field, text, f"{before!r}, as in the run", "leave it out")
    value = override.value()
    if value == before:
        return
    if field in EXTENDABLE:
        OmegaConf.update(config, field, value, force_add=True)
        return
    if before is ABSENT:
        refuse_name(field, EXTENDABLE)
    refuse(
        field,
        value,
        f"{before!r}, as in the run; with --extend only these may differ: {', '.join(EXTENDABLE)}",
        "leave it out, or begin a new run with its weights: run.init_from=RUN@STEP",
    )


def _changes(stored: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    old, now = ({name: value for name, value in each.items() if name != FIELD} for each in (stored, new))
    found = dict(differing(old, now, lambda fields: {}))
    known, wanted = flatten(stored), flatten(new)
    for field, value in _WITHOUT.items():
        if field not in known and wanted[field] != value:
            found[field] = (value, wanted[field])
    return {field: values for field, values in found.items() if not field.startswith("data.env.")}


def _restart(config: DictConfig, step: int) -> None:
    from omegaconf import open_dict

    if str(config.algorithm.adv_estimator) == "gae":
        because = "with a critic, whose schedule cannot restart"
        refuse("--schedule", "restart", "stretch", "leave it out", because=because)
    with open_dict(config):
        config.run.schedule_from = step


def _own_dumps(stored: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the texts that a stored folder of dumps inside the run may have."""
    return "None/rollouts", f"{stored['run'].get('dir')}/rollouts", f"{path}/rollouts"


def _check_resolved(stored: Mapping[str, Any]) -> None:
    """Refuse a stored configuration with an interpolation, such as of a secret in the environment: ours have none."""
    for field, value in flatten(stored).items():
        if "${" in str(value):
            raise ValueError(
                f"its {CONFIG_FILE} is not as a run stores it: {field} = {str(value)[:80]!r}; allowed: values without "
                "interpolations; write the value there, if the folder is yours"
            )


def _with_values(stored: Mapping[str, Any]) -> DictConfig:
    """Return today's tree with stored values; where they agree with an interpolation of the tree, it stays."""
    from omegaconf import OmegaConf, open_dict

    kind = stored.get("hardware", {}).get("kind", "cpu")
    experiment = "math_qwen3_8b" if kind == GPU else "math_nano"
    config = compose_tree([f"experiment={experiment}", f"hardware={kind}"])
    values = {field: value for field, value in flatten(stored).items() if field != FIELD}
    raw = flatten(OmegaConf.to_container(config, resolve=False))
    meant = {field: value for field, value in {**MEANT, **_WITHOUT}.items() if field.partition(".")[0] in stored}
    wanted = {**meant, **{field: value for field, value in values.items() if not field.startswith("data.env.")}}
    with open_dict(config):
        for field in [field for field in raw if field not in wanted and _is_chosen(field)]:
            parent, _, name = field.rpartition(".")
            OmegaConf.select(config, parent).pop(name)
        for interpolated in (False, True):
            now = flatten(plain(config))
            for field, value in wanted.items():
                if now.get(field, ABSENT) != value and (interpolated or "${" not in str(raw.get(field))):
                    OmegaConf.update(config, field, value, force_add=True)
    return config


def _is_chosen(field: str) -> bool:
    return any(field.startswith(f"{section}.") for section in _CHOSEN)
