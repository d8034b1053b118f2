"""What a run has done so far, when it is saved, and how it is repeated: see `checkpoints`."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from unlearner import processes
from unlearner.checkpoints import Checkpoints, State, Weights
from unlearner.errors import Interrupted

# "auto" checkpoints: so far apart at least, and so little of the time.
SECONDS_BETWEEN, SHARE_OF_TIME = 60.0, 0.05
DIFFERENT = (
    "the run does not repeat what it did before the checkpoint; other versions or another number "
    "of processes can cause this: begin again in another folder"
)

Every = int | Literal["auto", "never"]


class TrainingError(RuntimeError):
    """Training went wrong in a way that no further step can mend."""


class Journal:
    """The steps and looks of a run in order, which are saved now and then.

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
        self.past: deque[dict[str, Any]] = deque()
        self.seconds_before = 0.0
        self._events: list[dict[str, Any]] = []
        self._stage = -1
        self._ended: dict[int, Weights] = {}
        self._resumed: State | None = None
        self._stop = False
        self._began = self._saved = time.perf_counter()
        self._cost = 0.0

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

    def record(self, event: dict[str, Any], steps: int, state: Callable[[], State] | None) -> None:
        """Remember what a step or a look gave, and save a checkpoint where one is due.

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
        if processes.is_main():
            self.checkpoints.save(whole, self.log)
        processes.wait()
        self._ended = {}
        self._saved = time.perf_counter()
        self._cost = self._saved - started
        if stop:
            raise Interrupted(f"interrupted after {steps} steps")

    def _is_due(self, event: dict[str, Any], steps: int) -> bool:
        if self.every == "never":
            return False
        if isinstance(self.every, str):
            since = time.perf_counter() - self._saved
            return since > max(SECONDS_BETWEEN, self._cost / SHARE_OF_TIME)
        return "step" in event and steps % self.every == 0

    def repeat(self, kind: str) -> Any:
        """What the next step or look gave before the run was cut off.

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
        before = {
            name: signal.signal(name, self._ask_to_stop) for name in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
        if self._stop:  # behind the last step: there is none to wait for
            raise KeyboardInterrupt

    def _ask_to_stop(self, *_: Any) -> None:
        if self._stop:  # the second time: at once
            raise KeyboardInterrupt
        self._stop = True
