"""Checkpoints: how a run that was cut off goes on, and ends with the bytes that it would have had.

A method is a loop of its own, and nothing of its state can be read from outside. So a run is not
put back into the middle of a loop: the loop runs again from its beginning, and every step and every
look at the model (`Trainer.step`, `Trainer.look`) gives what it gave before, at no cost, up to the
checkpoint. There the weights, the optimiser and the random states are loaded, and from there on it
is computed. Whatever the loop decides or draws in between, it decides and draws again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearner import sharding
from unlearner.errors import UserError

RUN_FILE, STATE_FILE, LOG_FILE = "run.json", "state.json", "log.jsonl"
PREFIX, ENDED, PARTIAL, WEIGHTS_SUFFIX = "step-", "ended-", ".partial", ".safetensors"

Weights = dict[str, Tensor]


@dataclass
class State:
    """A run between two steps.

    Attributes:
        tokens: Tokens that went forward and backward.
        weights: What training changes.
        optimiser: Its tensors by parameter and name, and its learning rates.
        random: The state of the global generators, of every process.
        generator: The state of the run's own generator.
        kept: The weights that were kept as the best so far.
        events: What every step and look gave so far, in order; each with the stage it was in.
        stage: Which optimiser of the run is at work, counted from 0.
        seconds: Time spent in training.
        ended: The last weights of earlier stages; when saving, of those not yet saved.
    """

    tokens: int
    weights: Weights
    optimiser: Weights
    rates: list[float]
    random: Weights
    generator: Tensor
    kept: Weights = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    stage: int = 0
    seconds: float = 0.0
    ended: dict[int, Weights] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run, in a folder that is made with the first of them.

    Args:
        folder: `checkpoints` inside the output folder.
        run: What must be the same when the run goes on: its configuration and what it was given.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder, self.run = folder, json.loads(json.dumps(run))

    def save(self, state: State, log: Path | None) -> None:
        """Write a checkpoint whole, and then remove the one before it."""
        self.begin()
        place = self.folder / f"{PREFIX}{len(state.events):09d}"
        if place.exists():
            return
        for stage, weights in state.ended.items():  # they do not change: once is enough
            path = self.folder / f"{ENDED}{stage}{WEIGHTS_SUFFIX}"
            save_file(weights, path.with_suffix(PARTIAL))
            path.with_suffix(PARTIAL).rename(path)
        work = place.with_name(place.name + PARTIAL)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        tensors = {
            "weights": state.weights,
            "optimiser": state.optimiser,
            "kept": state.kept,
            "random": state.random | {"generator": state.generator},
        }
        for name, some in tensors.items():
            save_file(some, work / f"{name}{WEIGHTS_SUFFIX}")
        if log is not None and log.exists():
            shutil.copyfile(log, work / LOG_FILE)
        told = {
            "events": state.events,
            "stage": state.stage,
            "tokens": state.tokens,
            "seconds": state.seconds,
            "rates": state.rates,
        }
        _write(work / STATE_FILE, json.dumps(told))
        work.rename(place)
        for other in self.folder.glob(f"{PREFIX}*"):
            if other != place:
                shutil.rmtree(other)

    def begin(self) -> None:
        """Make the folder, with what the run was given.

        Raises:
            UserError: There is one of another run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / RUN_FILE).exists():
            self._check_run()
        else:
            _write(self.folder / RUN_FILE, json.dumps(self.run, indent=1))

    def load(self, log: Path | None = None) -> State | None:
        """The last checkpoint, None where there is none; the log becomes what it was then.

        Raises:
            UserError: It belongs to another run, or cannot be read.
        """
        if log is not None:
            log.unlink(missing_ok=True)
        places = sorted(path for path in self.folder.glob(f"{PREFIX}*") if path.suffix != PARTIAL)
        if not places:
            return None
        self._check_run()
        place = places[-1]
        try:
            told = json.loads((place / STATE_FILE).read_text(encoding="utf-8"))
            tensors = {path.stem: load_file(path) for path in place.glob(f"*{WEIGHTS_SUFFIX}")}
            ended = {
                int(path.stem.removeprefix(ENDED)): load_file(path)
                for path in self.folder.glob(f"{ENDED}*{WEIGHTS_SUFFIX}")
            }
            random = tensors["random"]
            state = State(
                events=told["events"],
                stage=told["stage"],
                tokens=told["tokens"],
                seconds=told["seconds"],
                weights=tensors["weights"],
                optimiser=tensors["optimiser"],
                rates=told["rates"],
                generator=random.pop("generator"),
                random=random,
                kept=tensors["kept"],
                ended=ended,
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"--resume {place}: the checkpoint cannot be read ({error}); remove {self.folder} "
                "and begin again"
            ) from None
        if log is not None and (place / LOG_FILE).exists():
            shutil.copyfile(place / LOG_FILE, log)
        return state

    def _check_run(self) -> None:
        """Refuse to go on with other settings or other data.

        Raises:
            UserError: What the run was given is not what it was given before.
        """
        before = read_run(self.folder)
        wrong = sorted(_differences(before, self.run))
        if wrong:
            raise UserError(
                f"--resume: {wrong[0]} is not what the run in {self.folder} began with; leave it "
                "out, or begin a new run in another folder"
            )


def read_run(folder: Path) -> dict[str, Any]:
    """What the run in a folder of checkpoints was given.

    Raises:
        UserError: There is no unfinished run.
    """
    try:
        return dict(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--resume: {folder.parent} holds no unfinished run ({type(error).__name__}); give the "
            "--output of the run that was cut off, or leave --resume out"
        ) from None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to go on from."""
    return any(path.suffix != PARTIAL for path in folder.glob(f"{PREFIX}*"))


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """The places in which two runs differ, as section.key."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            wrong
            for name in before.keys() | now.keys()
            for wrong in _differences(
                before.get(name), now.get(name), f"{place}.{name}" if place else str(name)
            )
        ]
    return [] if before == now else [place]


def _write(path: Path, text: str) -> None:
    """Onto the disk, not into its cache only: a machine that stops has the file whole."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def random_state(number: int = 0) -> Weights:
    """The global generators of this process; `number` is its rank."""
    states = {f"cpu-{number}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"cuda-{number}"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: Weights, number: int = 0) -> None:
    """Put them back."""
    torch.set_rng_state(states[f"cpu-{number}"])
    if f"cuda-{number}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda-{number}"])


def optimiser_state(optimiser: Any) -> tuple[Weights, list[float]]:
    """Copies of an optimiser's tensors on the CPU, as "parameter.name", and its learning rates."""
    tensors = {
        f"{index}.{name}": sharding.collect(value, sharding.own(value))
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }
    return tensors, [group["lr"] for group in optimiser.param_groups]


def set_optimiser_state(optimiser: Any, tensors: Weights, rates: list[float]) -> None:
    """Put them back into an optimiser of the same parameters."""
    told = optimiser.state_dict()
    told["state"] = {}
    parameters = [some for group in optimiser.param_groups for some in group["params"]]
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        value = sharding.as_part(parameters[int(index)], value)
        told["state"].setdefault(int(index), {})[key] = value
    optimiser.load_state_dict(told)
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
