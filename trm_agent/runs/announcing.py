"""The first lines of a training on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_agent.runs.folder import LOG_FILE, RunFolder
from trm_agent.runs.forked_workers import told_start
from trm_agent.runs.origin import begins

if TYPE_CHECKING:
    from omegaconf import DictConfig


def announce(config: DictConfig, folder: RunFolder) -> None:
    """Print the run, its folder and its state, whether its seed repeats it, and its notes."""
    from trm_agent.runs.repeating import repetition
    from trm_agent.trust_region.guarantee import told_guarantee, told_selection

    how = {"new": begins(config), "resumed": f"resumed after step {folder.step}", "finished": "complete"}[folder.state]
    print(f"TRM-Agent  {config.trainer.experiment_name}  seed {config.seed}  {folder.path} ({how})")
    train_horizons, val_horizons = list(config.env.train.horizons), list(config.env.val.horizons)
    print(f"  {config.env.id}, horizons {train_horizons}, validated on {val_horizons}; everything else in {LOG_FILE}")
    told = repetition(config), told_start(config), told_guarantee(config), told_selection(config)
    for note in filter(None, (*told, *folder.notes)):
        print(f"  {note}")


def completed(folder: RunFolder) -> str:
    """Return a line on a run that has made all its steps."""
    more = f"trm train --extend {folder.path} trainer.total_training_steps=N, above {folder.step}, makes more; "
    again = "another run.dir, or none, trains again"
    return f"the run is complete; nothing to do. {more if folder.step else ''}{again}"
