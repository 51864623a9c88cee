"""The trainer's log-probs of the engine's tokens, from a process of its own that ends with its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trm_agent.numerics.forcing import Played
from trm_agent.numerics.source import Source

MODULE = "trm_agent.verl_plugin.actor.alone"
REQUEST, ANSWER = "request.json", "log_probs.json"
LOG_LINES = 12


class TrainerFailed(RuntimeError):
    """The trainer's process ended without log-probs; the message holds the end of its output."""


def trainer_log_probs(
    source: Source,
    formats: Sequence[str],
    episodes: Sequence[Played],
    folder: Path,
    temperature: float,
    say: Callable[[str], Any],
) -> dict[str, list[np.ndarray]]:
    """Return for each number format the log-probs of the sampled tokens of each episode, nats, float64.

    Args:
        source: what is measured.
        formats: of the trainer's layers.
        episodes: as engines sampled them.
        folder: an existing one, for the process's files and its log.
        temperature: of the sampling.
        say: takes a line of progress.

    Raises:
        TrainerFailed: its process did not end as it should.
    """
    from omegaconf import OmegaConf

    request = {
        "formats": list(formats),
        "temperature": temperature,
        "sequences": [{"ids": each.ids, "sampled": list(map(int, each.sampled))} for each in episodes],
        # a run's own, as it resolves them
        "actor_rollout_ref": OmegaConf.to_container(source.config.actor_rollout_ref),
    }
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    log = folder / "trainer.log"
    with log.open("ab") as stream:
        command = [sys.executable, "-m", MODULE, str(folder / REQUEST), str(folder / ANSWER)]
        process = subprocess.Popen(
            command,
            env=_environment(source),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                say(line.rstrip("\n"))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
        raise TrainerFailed(f"the trainer's process ended with {code}; the end of {log}:\n{tail}")
    found = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    return {name: [np.array(values, dtype=np.float64) for values in found[name]] for name in formats}


def _environment(source: Source) -> dict[str, str]:
    """Return the variables of a run's processes; the user's own come first, but for what chooses verl's platform."""
    given = {name: str(value) for name, value in (source.config.hardware.get("env_vars") or {}).items()}
    platform = {name: value for name, value in given.items() if name == "VERL_PLATFORM"}
    return {**given, **os.environ, **platform}
