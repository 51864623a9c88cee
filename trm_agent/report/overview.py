"""The page's overview of each folder: its state, its configuration, and the fields in which configurations differ."""

from collections.abc import Sequence
from typing import Any

from trm_agent.evaluate.results import is_finite
from trm_agent.report.sources import Source
from trm_agent.report.times import cost_of_a_step
from trm_agent.runs.stored_config import flatten

# the place of a run does not change its results
PLACES = ("run.dir", "run.root", "trainer.default_local_dir")
ABSENT = "(absent)"
# set for each run when it starts
PINNED = (
    *("run.", "data.env.", "trainer.default_local_dir", "trainer.resume_", "scorer_version", "env.kwargs.protocol"),
    *("nano.env_kwargs.protocol", "actor_rollout_ref.model.path", "actor_rollout_ref.actor.policy_loss.dump.directory"),
)


def cards(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return one JSON-clean entry per folder: `label`, `kind`, `state`, `facts` (name and text), `config`, `notes`."""
    return [
        {
            "label": source.label,
            "kind": source.kind,
            "state": _state(source),
            "facts": [[name, str(value)] for name, value in _facts(source) if value not in (None, "")],
            "config": sorted([name, text(value)] for name, value in flatten(source.config).items()),
            "notes": source.notes,
        }
        for source in sources
    ]


def differences(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return the fields in which configurations differ, among runs and among evaluations.

    Returns:
        One entry per kind with at least two folders: `kind`, `runs` (indices), `rows` (field, then one text per run).
    """
    found = []
    for kind in ("run", "evaluation"):
        indices = [index for index, source in enumerate(sources) if source.kind == kind and source.config]
        if len(indices) < 2:
            continue
        flat = [flatten(sources[index].config) for index in indices]
        rows = []
        for name in sorted({name for config in flat for name in config} - {*PLACES}):
            values = [text(config[name]) if name in config else ABSENT for config in flat]
            if len(set(values)) > 1:
                rows.append([name, *values])
        found.append({"kind": kind, "runs": indices, "rows": rows})
    return found


def preset_differences(source: Source) -> dict[str, Any] | None:
    """Return the fields of a run that differ from its preset, as `run.experiment` or, in older runs, its name tells.

    Returns:
        JSON-clean: `name` of the preset, `rows` of field, preset and run; None without such a preset, or where
        configurations cannot be composed, for lack of Hydra or verl.
    """
    run, trainer = (part if isinstance(part := source.config.get(name), dict) else {} for name in ("run", "trainer"))
    name = run.get("experiment") or trainer.get("experiment_name")
    try:
        from trm_agent.runs.compose import choices, compose_run, plain

        if source.kind != "run" or name not in choices("experiment"):
            return None
        preset = flatten(plain(compose_run([f"experiment={name}"])))
    except (ImportError, ValueError):
        return None
    own = {field: value for field, value in flatten(source.config).items() if not field.startswith(PINNED)}
    fields = sorted(field for field in own if text(own[field]) != text(preset.get(field, ABSENT)))
    return {"name": name, "rows": [[field, text(preset.get(field, ABSENT)), text(own[field])] for field in fields]}


def text(value: Any) -> str:
    """Return a configuration's value in short YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _state(source: Source) -> str:
    if source.finished:
        return "finished"
    return "in progress or interrupted" if source.metrics or source.results else "empty"


def _facts(source: Source) -> list[tuple[str, Any]]:
    summary = source.summary or {}
    commit = source.git.get("commit")
    facts = [
        ("folder", source.path),
        ("commit", f"{commit}{' with uncommitted changes' if source.git.get('dirty') else ''}" if commit else None),
        ("seed", summary.get("seed", source.config.get("seed"))),
        ("environment", _environment(source.config)),
    ]
    if source.kind == "evaluation":
        return [*facts, ("episodes", len(source.results)), ("wall time", _duration(summary.get("wall_s")))]
    steps = [row["step"] for row in source.metrics]
    total = _total_steps(source.config)
    times = [row["time"] for row in source.metrics if is_finite(row.get("time"))]
    wall = summary.get("wall_s") or (max(times) - min(times) if len(times) > 1 else None)
    steps_text = None if not steps else f"{max(steps)} of {total}" if total and not source.finished else max(steps)
    return [*facts, ("steps", steps_text), ("wall time", _duration(wall)), *cost_of_a_step(source)]


def _environment(config: dict[str, Any]) -> str | None:
    env, listed = config.get("env"), config.get("environments")
    if isinstance(listed, list):
        return ", ".join(str(entry.get("name") or entry.get("id")) for entry in listed if isinstance(entry, dict))
    return env.get("id") if isinstance(env, dict) else None


def _total_steps(config: dict[str, Any]) -> int | None:
    trainer = config.get("trainer")
    return trainer.get("total_training_steps") if isinstance(trainer, dict) else None


def _duration(seconds: Any) -> str | None:
    if not is_finite(seconds):
        return None
    hours, rest = divmod(int(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"
