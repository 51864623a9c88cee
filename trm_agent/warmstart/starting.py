"""The warm start of a pretrained model: imitate, play held-out tasks, stop at the target, write a folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trm_agent.models.imitated import Batches, tokeniser
from trm_agent.models.imitation import Batch, Imitation, Schedule, State, imitate, token_log_probs
from trm_agent.models.making import appearing
from trm_agent.models.saving import save_model
from trm_agent.models.traces import Solver
from trm_agent.warmstart.crossing import by_play
from trm_agent.warmstart.playing import SPLIT, Game, Played, play, room_for_solver
from trm_agent.warmstart.pretrained import Reader
from trm_agent.warmstart.spec import WarmStartSpec

FACTS = "warmstart.json"
REACHED, ALL_STEPS, TOO_LATE, INTERRUPTED = "target reached", "all steps taken", "target not reached", "interrupted"
# an episode of the solver's that is so unlikely is not worth playing: success is below a few in a thousand
_HOPELESS_NATS = 9.0
_NUM_HINTS = 4
Say = Callable[[str], None]


@dataclass
class Progress:
    """What a warm start knows so far."""

    state: State
    """The step and its loss."""
    hint: float = math.inf
    """Negative log-probability of the solver's own held-out episodes, nats, the median of a few."""
    played: Played = field(default_factory=lambda: Played(0, 0))
    """Successes as last played."""
    num_episodes: int = 0
    """Held-out episodes played in all."""
    num_tokens: int = 0
    """Imitated tokens, with prompts and answers."""


@dataclass(frozen=True)
class Outcome:
    """The end of a warm start; the model has the weights that are kept."""

    ended: str
    """`target reached`, `all steps taken`, `target not reached` or `interrupted`."""
    final: Played
    """Held-out tasks played with the weights that are kept; none if it was interrupted."""
    progress: Progress
    """What was done."""
    seconds: float
    """Seconds of the whole."""


class WarmStarting:
    """A warm start that is under way.

    Args:
        model: a Hugging Face model whose trainable parameters require a gradient.
        reader: its tokenizer.
        env_id, module: the environment.
        spec: how to imitate.
        report: called with what is known after each step and each measurement.

    Attributes:
        batches: what is imitated.
        game: what is played.
        longest: tokens of the longest of a few solved episodes at the horizon.
    """

    def __init__(
        self,
        model: Any,
        reader: Reader,
        env_id: str,
        module: str | None,
        spec: WarmStartSpec,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.model, self.spec, self.report = model, spec, report
        self._started, self._task_s = 0.0, 0.0
        self.progress = Progress(State(0, 10.0, 0.0))
        tokenise = tokeniser(reader.tokenizer, reader.chat)
        train = Solver(env_id, "train", module, reader.kwargs)
        held_out = Solver(env_id, SPLIT, module, reader.kwargs)
        self.batches = Batches(train, tokenise, spec.imitate, spec.batch_tokens, spec.seed)
        limits = room_for_solver(held_out, spec.horizon, reader.tokenizer, reader.chat)
        self.game = Game(env_id, module, reader.kwargs, spec.horizon, limits, reader.chat)
        self._hints = [tokenise([held_out.solve(seed, spec.horizon)]) for seed in range(_NUM_HINTS)]
        self.longest = max(each.input_ids.shape[1] for each in self._hints)

    def run(self) -> Outcome:
        """Imitate until the target, the last step, the last second or Ctrl-C; keep what was learnt in any case."""
        spec, started = self.spec, time.monotonic()
        self._started = started
        seconds = math.inf if spec.max_seconds is None else spec.max_seconds
        schedule = Schedule(spec.learning_rate, spec.target_success, spec.max_steps, seconds, spec.measure_every)
        imitation = Imitation(self.model, schedule)
        try:
            settle = by_play(spec.tasks, self._has_time)
            ending = imitate(imitation, self._draw, self._measure, settle, report=self._tell)
            if not ending.reached:
                imitation.load(imitation.average)
            ended = TOO_LATE if not ending.reached else REACHED if spec.target_success else ALL_STEPS
            final = self._play(spec.final_tasks)
        except KeyboardInterrupt:
            imitation.load(imitation.average)
            # the last play was of other weights
            ended, final = INTERRUPTED, Played(0, 0)
        return Outcome(ended, final, self.progress, time.monotonic() - started)

    def _draw(self) -> Batch:
        batch = self.batches.draw()
        self.progress.num_tokens = self.batches.num_tokens
        return Batch(batch.input_ids.to(self.model.device), batch.loss_mask.to(self.model.device))

    def _tell(self, state: State) -> None:
        self.progress.state = state
        self.report(self.progress)

    def _measure(self) -> float:
        """Play tasks that were never played before, unless even the solver's own turns are too unlikely."""
        self.progress.hint = self._hint()
        if self.progress.hint > _HOPELESS_NATS and not self.progress.played.num_successes:
            return 0.0
        return self._play(self.spec.tasks).rate

    def _has_time(self) -> bool:
        """Return True if one more measurement, and the last one, end before `max_seconds` at the slowest pace so far.

        How long a model's answers are changes with its weights.
        """
        if self.spec.max_seconds is None:
            return True
        more = self._task_s * (self.spec.tasks + self.spec.final_tasks)
        return time.monotonic() - self._started + more <= self.spec.max_seconds

    def _play(self, number: int) -> Played:
        first = self.progress.num_episodes
        self.progress.num_episodes += number
        began = time.monotonic()
        played = play(self.model, self.game, range(first, first + number), self.spec.seed + first)
        self._task_s = max(self._task_s, (time.monotonic() - began) / number)
        self.progress.played = played
        self.report(self.progress)
        return played

    @torch.no_grad()
    def _hint(self) -> float:
        device = self.model.device
        nats = [
            -float(token_log_probs(self.model, Batch(each.input_ids.to(device), each.loss_mask.to(device))).sum())
            for each in self._hints
        ]
        return sorted(nats)[len(nats) // 2]


def facts_of(outcome: Outcome, source: str, game: Game, spec: WarmStartSpec) -> dict[str, Any]:
    """Return what a folder says about its warm start."""
    progress = outcome.progress
    return {
        "model": source,
        "env": {"id": game.env_id, "module": game.module, "kwargs": dict(game.kwargs)},
        "spec": asdict(spec),
        "ended": outcome.ended,
        "num_steps": progress.state.step,
        "num_tokens": progress.num_tokens,
        "loss": round(progress.state.loss, 4),
        "horizon": game.horizon,
        "successes": outcome.final.num_successes,
        "tasks": outcome.final.num_tasks,
        "played_in_all": progress.num_episodes,
        "seconds": round(outcome.seconds, 1),
    }


def write(folder: Path, model: Any, peft_model: Any, tokenizer: Any, facts: dict[str, Any]) -> None:
    """Write the model, its tokenizer and the facts; the folder appears complete or not at all.

    Raises:
        FileExistsError: the folder is not empty.
    """
    with appearing(folder) as unfinished:
        whole = model if peft_model is None else peft_model.merge_and_unload()
        save_model(whole, unfinished)
        tokenizer.save_pretrained(unfinished)
        (unfinished / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
