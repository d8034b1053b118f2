"""Checkpoints: how a run that was cut off goes on, and ends with the bytes that it would have had.

A method is a loop of its own, and nothing of its state can be read from outside. So a run is not
put back into the middle of a loop: the loop runs again from its beginning, and every step
(`Trainer.step`) and every evaluation round (`Trainer.evaluate_round`) gives what it gave before, at
no cost, up to the checkpoint. There the weights, the optimiser and the random states are loaded,
and from there on it is computed. Whatever the loop decides or draws in between, it decides and
draws again.
"""

import errno
import hashlib
import json
import logging
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearner import processes
from unlearner.errors import Interrupted, TrainingError, UserError, printable, quoted
from unlearner.files import LARGE, free_bytes, megabytes, read_json, write_whole
from unlearner.output import Json

logger = logging.getLogger(__name__)

# "auto" checkpoints: so far apart at least, and so little of the time.
SECONDS_BETWEEN, SHARE_OF_TIME = 60.0, 0.05

RUN_FILE, STATE_FILE, LOG_FILE = "run.json", "state.json", "log.jsonl"

PREFIX, ENDED, PARTIAL, WEIGHTS_SUFFIX = "step-", "ended-", ".partial", ".safetensors"

DIFFERENT = (
    "the run does not repeat what it did before the checkpoint; other versions or another number "
    "of processes can cause this: begin again in another folder"
)

ASKED = "asked"  # of a run: the command as it was written

# What a file of another shape than expected raises.
WRONG = (ValueError, LookupError, TypeError, AttributeError)

PLAIN = ("events", "stage", "tokens", "seconds", "rates")

Every = int | Literal["auto", "never"]

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
        events: What every step and evaluation round gave so far, in order; each with its stage.
        stage: Which optimiser of the run is at work, counted from 0.
        seconds: Time spent in training.
        ended: The last weights of earlier stages; when saving, of those not yet saved.
        reserve: Bytes of the disk that are to stay free, for the result.
    """

    tokens: int
    weights: Weights
    optimiser: Weights
    rates: list[float]
    random: Weights
    generator: Tensor
    kept: Weights = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    stage: int = 0
    seconds: float = 0.0
    ended: dict[int, Weights] = field(default_factory=dict)
    reserve: int = 0

    @property
    def num_bytes(self) -> int:
        """Of all its tensors."""
        groups = (self.weights, self.optimiser, self.kept, self.random, *self.ended.values())
        return sum(tensor.nbytes for group in groups for tensor in group.values())


class Checkpoints:
    """The checkpoints of one run, in a folder that is made with the first of them.

    Args:
        folder: `checkpoints` inside the output folder.
        run: What must be the same when the run goes on: its configuration and what it was given.
    """

    def __init__(self, folder: Path, run: Mapping[str, object]) -> None:
        self.folder, self.run = folder, json.loads(json.dumps(run))

    def begin(self) -> None:
        """Make the folder, with what the run was given.

        Raises:
            UserError: There is one of another run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / RUN_FILE).exists():
            self._check_run()
        else:
            write_whole(self.folder / RUN_FILE, json.dumps(self.run, indent=1))

    def save(self, state: State, log: Path | None) -> None:
        """Write a checkpoint whole, and then remove the one before it.

        Raises:
            OSError: It could not be written, and nothing of it is left; likewise SafetensorError.
        """
        place = self.folder / f"{PREFIX}{len(state.events):09d}"
        if place.exists():
            return
        needed, free = state.num_bytes + state.reserve, free_bytes(self.folder)
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"it and the result take {megabytes(needed)}, {megabytes(free)} are free",
            )
        try:
            self.begin()
            self._write(place, state, log)
        except (OSError, SafetensorError):
            self._remove_parts()
            raise
        for other in self.folder.glob(f"{PREFIX}*"):
            if other != place:
                shutil.rmtree(other)

    def _remove_parts(self) -> None:
        """Remove what was half written, and the folder where nothing else is in it."""
        for part in self.folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(part, ignore_errors=True)
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if {path.name for path in self.folder.glob("*")} <= {RUN_FILE}:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # it was there before
                self.folder.parent.rmdir()

    def _write(self, place: Path, state: State, log: Path | None) -> None:
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
        for name, group in tensors.items():
            save_file(group, work / f"{name}{WEIGHTS_SUFFIX}")
        if log is not None and log.exists():
            shutil.copyfile(log, work / LOG_FILE)
        plain = json.loads(json.dumps({name: vars(state)[name] for name in PLAIN}))
        write_whole(work / STATE_FILE, json.dumps(plain | {"digest": _plain_digest(plain)}))
        work.rename(place)

    def load(self, log: Path | None = None) -> State | None:
        """The last checkpoint, None where there is none; the log becomes what it was then.

        Raises:
            UserError: It belongs to another run, or cannot be read.
        """
        if log is not None:
            log.unlink(missing_ok=True)
        places = _finished(self.folder)
        if not places:
            return None
        self._check_run()
        place = places[-1]
        try:
            plain = read_json(place / STATE_FILE, LARGE)
            if plain.pop("digest") != _plain_digest(plain):
                raise ValueError(f"{STATE_FILE} was changed")
            tensors: Json = {
                path.stem: load_file(path) for path in place.glob(f"*{WEIGHTS_SUFFIX}")
            }
            ended = {
                int(path.stem.removeprefix(ENDED)): load_file(path)
                for path in self.folder.glob(f"{ENDED}*{WEIGHTS_SUFFIX}")
            }
            generator = tensors["random"].pop("generator")
            state = State(**plain, **tensors, generator=generator, ended=ended)
        except (OSError, *WRONG, SafetensorError) as error:
            raise UserError(
                f"--resume {place}: the checkpoint cannot be read ({error}); remove {self.folder} "
                "and begin again"
            ) from None
        if log is not None and (place / LOG_FILE).exists():
            shutil.copyfile(place / LOG_FILE, log)
        return state

    def _check_run(self) -> None:
        """Refuse to go on with other settings or other data."""
        different = sorted(_differences(read_run(self.folder), self.run))
        if different:
            place, before, now = different[0]
            raise UserError(
                f"--resume: {_changed(place, before, now)} the run in {self.folder} began with; "
                "give the same, or begin a new run in another folder"
            )


def read_run(folder: Path) -> Json:
    """What the run in a folder of checkpoints was given.

    Raises:
        UserError: There is no unfinished run.
    """
    try:
        run = read_json(folder / RUN_FILE, LARGE)
        sections = run.get("settings", {}).values()
        if not isinstance(run, dict) or not all(isinstance(one, dict) for one in sections):
            raise ValueError("no run")
    except FileNotFoundError:
        why = "there is none"
    except (OSError, *WRONG) as error:
        why = f"{RUN_FILE} is damaged, {type(error).__name__}"
    else:
        return run
    raise UserError(
        f"--resume: {folder.parent} holds no unfinished run ({why}); give the --output of the run "
        "that was cut off, or leave --resume out"
    )


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something to go on from."""
    return bool(_finished(folder))


def _finished(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end, in order."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.suffix != PARTIAL)


def _plain_digest(plain: Json) -> str:
    """Of the plain values of a state, which a loop would follow wherever they lead."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


Difference = tuple[tuple[str, ...], Any, Any]


def _differences(before: Any, now: Any, place: tuple[str, ...] = ()) -> list[Difference]:
    """The places in which two runs differ, with what is there; how a user wrote it is no matter."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [(place, before, now)]
    return [
        different
        for name in sorted((before.keys() | now.keys()) - {ASKED})
        for different in _differences(before.get(name), now.get(name), (*place, name))
    ]


def _changed(place: tuple[str, ...], before: object, now: object) -> str:
    """What has changed, in words that a user knows, up to where it was as it began."""
    kind, name = place[0], ".".join(place[1:])
    if kind in ("settings", "options"):
        dashes = "--" if kind == "options" else ""
        return f"{dashes}{name} is {quoted(now)} and not {quoted(before)}, which"
    if kind == "records":
        return f"the records of --{name or 'records'} are not those that"
    if kind == "processes":
        return f"there are {quoted(now)} processes and not {quoted(before)}, with which"
    return f"{'MODEL' if kind == 'model' else '.'.join(place)} is not what"


class Journal:
    """The steps and evaluation rounds of a run in order, which are saved now and then.

    Args:
        checkpoints: Where.
        every: Steps between two checkpoints.
        log: The file of the log, which is saved too.

    Attributes:
        past: What is still to be repeated.
        seconds_before: Training time of the earlier parts of a run that was cut off.
    """

    def __init__(self, checkpoints: Checkpoints, every: Every, log: Path | None) -> None:
        self.checkpoints, self.every, self.log = checkpoints, every, log
        self.past: deque[Json] = deque()
        self.seconds_before = 0.0
        self._events: list[Json] = []
        self._stage = -1
        self._ended: dict[int, Weights] = {}
        self._resumed: State | None = None
        self._stop = False
        self._began = self._saved = time.perf_counter()
        self._cost = 0.0
        self._failed = False

    def open(self) -> bool:
        """Read the last checkpoint; whether there is one, and so a past to repeat.

        Raises:
            UserError: It is of another run or cannot be read.
        """
        self._resumed = self.checkpoints.load(self.log)
        self.past = deque(self._resumed.events if self._resumed else ())
        return bool(self.past)

    @property
    def steps_to_repeat(self) -> int:
        """Steps that the checkpoint is ahead."""
        return sum("step" in event for event in self.past)

    def begin_stage(self, weights: Callable[[], Weights] | None) -> None:
        """Another optimiser begins.

        Args:
            weights: What the one before has made, which may be read later.
        """
        if weights is not None and not self.past:
            self._ended[self._stage] = weights()
        self._stage += 1

    def record(self, event: Json, steps: int, state: Callable[[], State] | None) -> None:
        """Remember what a step or a round gave, and save a checkpoint where one is due.

        Args:
            state: Gives what is to be saved; None before the first optimiser begins.

        Raises:
            Interrupted: The user wants to stop, and a checkpoint was saved.
        """
        self._events.append(event | {"stage": self._stage})
        due, stop = processes.from_main((self._is_due(event, steps), self._stop))
        if state is None or not (due or stop):
            return
        started = time.perf_counter()
        whole = state()
        whole.events, whole.stage, whole.ended = self._events, self._stage, self._ended
        whole.seconds = self.seconds_before + started - self._began
        if processes.from_main(processes.is_main() and self._save(whole)):
            self._ended = {}
        self._saved = time.perf_counter()
        self._cost = self._saved - started
        if stop:
            raise Interrupted(f"interrupted after {steps} steps")

    def _save(self, whole: State) -> bool:
        """Save a checkpoint; whether that could be done. The run is worth more than it."""
        try:
            self.checkpoints.save(whole, self.log)
        except (OSError, SafetensorError) as error:
            if not self._failed:
                logger.warning(
                    "%s: a checkpoint could not be saved (%s); the run goes on without, and "
                    "--resume would go on from an earlier one, if any",
                    self.checkpoints.folder,
                    printable(str(error)),
                )
            self._failed = True
            return False
        return True

    def _is_due(self, event: Json, steps: int) -> bool:
        if self.every == "never":
            return False
        if isinstance(self.every, str):
            since = time.perf_counter() - self._saved
            return since > max(SECONDS_BETWEEN, self._cost / SHARE_OF_TIME)
        return "step" in event and steps % self.every == 0

    def repeat(self, kind: str) -> Any:
        """What the next step or round gave before the run was cut off.

        Raises:
            TrainingError: The run does something else now.
        """
        event = self.past.popleft()
        if kind not in event or event["stage"] != self._stage:
            raise TrainingError(DIFFERENT)
        self._events.append(event)
        return event[kind]

    def reached(self) -> State | Weights | None:
        """What is to be loaded now: the checkpoint, or the weights that a stage ended with."""
        resumed = self._resumed
        assert resumed is not None
        if self.past:
            ends = self.past[0]["stage"] != self._stage
            return resumed.ended.get(self._stage) if ends else None
        self._resumed = None
        self._saved = time.perf_counter()
        self.seconds_before = resumed.seconds - (self._saved - self._began)
        return resumed

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While the block runs, Ctrl-C and the like stop behind a step, with a checkpoint."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.signal(name, self._request_stop) for name in signals}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
        if self._stop:  # behind the last step: there is none to wait for
            raise KeyboardInterrupt

    def _request_stop(self, *_: object) -> None:
        if self._stop:  # the second time: at once
            raise KeyboardInterrupt
        self._stop = True


# Random states as tensors


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
