"""Figures of steps and rounds for experiment trackers, by way of accelerate's own.

A tracker gets numbers and hyper-parameters: no text, no record's id, no path. What a service would
take down by itself is switched off where it could name or hold records.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from unlearner.errors import UserError, printable
from unlearner.settings import TrainingSettings, check_names, without_paths

logger = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]

PROJECT, FOLDER = "unlearner", "tracking"

EXTRAS = ("tensorboard",)


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used here.

    Raises:
        UserError: Accelerate knows none of that name, or its package is not installed.
    """
    where = "training.trackers"
    check_names(names, sorted(LOGGER_TYPE_TO_CLASS), what="tracker", where=where)
    installed = {str(kind) for kind in get_available_trackers()}
    for name in names:
        # One that a program has registered with accelerate is no type of its own.
        if name in LoggerType.list() and name not in installed:
            package = f"'unlearner[{name}]'" if name in EXTRAS else name.replace("_", "-")
            raise UserError(f"{where}: {name} is not installed; `pip install {package}`")


@contextmanager
def tracked(
    listener: Listener,
    settings: TrainingSettings,
    sections: Mapping[str, Mapping[str, Any]],
    work: Path,
    *,
    main: bool = True,
) -> Iterator[Listener]:
    """A listener of a run's log that tells `listener` and the trackers; they end with the block.

    Args:
        sections: Hyper-parameters by section; see `hyper_parameters`.
        work: The folder of the run, in which those that write files get `tracking/`.
        main: Whether this process tracks; of several, one does.

    Raises:
        UserError: A tracker cannot be used, or did not start.
    """
    check_trackers(settings.trackers)
    if not settings.trackers or not main:
        yield listener
        return
    PartialState(cpu=settings.device == "cpu")  # accelerate's trackers ask for it
    tracking = Tracking(work / "log.jsonl")

    def tell(line: dict[str, Any]) -> None:
        listener(line)
        tracking.line(line)

    try:
        for name in dict.fromkeys(settings.trackers):
            tracking.start(name, hyper_parameters(sections), work / FOLDER)
        yield tell
    finally:
        tracking.close()


class Tracking:
    """The trackers of one run; one that fails is dropped, and the run goes on.

    Args:
        log: The file of the run's log, where there is one. A run that goes on finds in it what an
            earlier part has done, and tells that first.

    Attributes:
        step: The last optimiser step; None before the first that is told.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.step: int | None = None
        self._log = log
        self._trackers: dict[str, GeneralTracker] = {}

    def start(self, name: str, values: dict[str, Any], folder: Path) -> None:
        """Begin a run with the service.

        Raises:
            UserError: It could not begin: no login or no network, for example.
        """
        kind, options = LOGGER_TYPE_TO_CLASS[name], _options(name, folder)
        folder.mkdir(exist_ok=True)
        place = (str(folder),) if kind.requires_logging_directory else ()
        try:
            with _bare_command_line():
                tracker = kind(PROJECT, *place, **options)
                tracker.start()
                self._trackers[name] = tracker
                tracker.store_init_configuration(values)
        except Exception as error:
            raise UserError(
                f"training.trackers: {name} did not start ({_words(error)}); "
                "mend that, or leave it out"
            ) from error

    def line(self, line: Mapping[str, Any]) -> None:
        """Pass on a line of the log: a step, or a round at the step that it follows."""
        for earlier in self._earlier_lines():
            self._pass_on(earlier)
        self._pass_on(line)

    def _earlier_lines(self) -> list[dict[str, Any]]:
        """Before the first line: what the log held before it, which is its last by now."""
        log, self._log = self._log, None
        if log is None or not log.is_file():
            return []
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[:-1]]

    def _pass_on(self, line: Mapping[str, Any]) -> None:
        if "step" in line:
            self.step = line["step"]
        elif "round" not in line:
            return
        step = line.get("steps", 0 if line.get("round") == 0 else self.step)
        figures = scalars(line)
        if step is None or not figures:  # a run that goes on may begin with a round: of which step?
            return
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, lambda tracker=tracker: tracker.log(figures, step=step))

    def close(self) -> None:
        """End all runs with their services."""
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, tracker.finish)
        self._trackers.clear()

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more
            logger.warning(
                "training.trackers: %s failed (%s); the run goes on without it", name, _words(error)
            )
            tracker = self._trackers.pop(name)
            with suppress(Exception):
                tracker.finish()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line by name: `loss/forget` of a step, `round/el_10` of a round."""
    if "step" in line:
        return dict(_numbers({key: value for key, value in line.items() if key != "step"}, ""))
    named = {"number" if key == "round" else key: value for key, value in line.items()}
    return dict(_numbers(named, "round/"))


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            yield f"{prefix}{name}", value


def hyper_parameters(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Plain values by `section.key`, in place of a local path its last part; without None."""
    return {
        f"{section}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
        for section, values in sections.items()
        for key, value in without_paths(values).items()
        if value is not None
    }


def _options(name: str, folder: Path) -> dict[str, Any]:
    """Where a service keeps its files, and what it is not to collect by itself.

    Changes in a git folder may be the records themselves; dvclive would even commit them.
    """
    options: dict[str, dict[str, Any]] = {
        "wandb": {
            "dir": str(folder),
            "settings": {"disable_git": True, "disable_code": True, "console": "off"},
        },
        "dvclive": {"dir": str(folder), "save_dvc_exp": False, "dvcyaml": None},
        "swanlab": {"logdir": str(folder)},
    }
    return options.get(name, {})


@contextmanager
def _bare_command_line() -> Iterator[None]:
    """Services take down the program's arguments, and those name the files of records."""
    given = sys.argv
    sys.argv = given[:1]
    try:
        yield
    finally:
        sys.argv = given


def _words(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
