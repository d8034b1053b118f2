"""The log of a run, a line of JSON for each step and each round, and its figures for trackers.

The experiment trackers are accelerate's. A tracker gets numbers and hyper-parameters: no text, no
record's id, no path. What a service would collect by itself is switched off where it could name or
hold records.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import TextIO

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from unlearner import processes
from unlearner.errors import UserError, printable
from unlearner.output import Json
from unlearner.settings import TrainingSettings, check_names, without_paths

logger = logging.getLogger(__name__)

Listener = Callable[[Json], None]

Trackers = dict[str, GeneralTracker]

PROJECT, FOLDER, EXTRAS = "unlearner", "tracking", ("tensorboard",)


class Log:
    """One JSON line per step and per round, and the same line to a listener (the progress bar).

    Attributes:
        silent: While a run repeats what it has done before: those lines are there already.
    """

    def __init__(
        self, path: Path | None = None, listener: Callable[[Json], None] | None = None
    ) -> None:
        self.path = path if processes.is_main() else None
        self.listener = listener
        self.silent = False
        self._file: TextIO | None = None

    def write(self, line: Json) -> None:
        """Append a line; it must hold ids and numbers only, never text of a record."""
        if self.silent:
            return
        if self.path is not None:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self.listener is not None:
            self.listener(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def quieten() -> None:
    """Keep the libraries' own chatter off the terminal."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns at every fork otherwise
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    handler = logging.StreamHandler()
    # A figure without an interval is printed as such; a line for each of them would drown the rest.
    handler.addFilter(lambda record: record.name != "unlearner.evaluation.intervals")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    # Millions of texts take hours, and say how many are done.
    logging.getLogger("unlearner.retrieval.neighbours").setLevel(logging.INFO)


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
    sections: Mapping[str, Json],
    work: Path,
    *,
    main: bool = True,
) -> Iterator[Listener]:
    """A listener of a run's log that informs `listener` and the trackers; they end with the block.

    A tracker that fails during the run is dropped, and the run goes on.

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
    trackers: Trackers = {}
    last_step: int | None = None

    def listen(line: Json) -> None:
        nonlocal last_step
        listener(line)
        last_step = line.get("step", last_step)
        step = line.get("steps", 0 if line.get("round") == 0 else last_step)
        figures = scalars(line)
        if figures and step is not None:  # a resumed run may begin with a round: of which step?
            _for_each(trackers, lambda tracker: tracker.log(figures, step=step))

    try:
        for name in dict.fromkeys(settings.trackers):
            _start_tracker(trackers, name, hyper_parameters(sections), work / FOLDER)
        yield listen
    finally:
        _for_each(trackers, lambda tracker: tracker.finish())


def _start_tracker(trackers: Trackers, name: str, values: Json, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = (str(folder),) if kind.requires_logging_directory else ()
    arguments = sys.argv
    try:
        sys.argv = arguments[:1]  # services collect the arguments, which name files of records
        tracker = kind(PROJECT, *place, **_service_options(name, folder))
        tracker.start()
        trackers[name] = tracker
        tracker.store_init_configuration(values)
    except Exception as error:
        raise UserError(
            f"training.trackers: {name} did not start ({_reason(error)}); fix that, or leave it out"
        ) from error
    finally:
        sys.argv = arguments


def _for_each(trackers: Trackers, action: Callable[[GeneralTracker], object]) -> None:
    for name, tracker in list(trackers.items()):
        try:
            action(tracker)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more
            message = "training.trackers: %s failed (%s); the run goes on without it"
            logger.warning(message, name, _reason(error))
            del trackers[name]
            with suppress(Exception):
                tracker.finish()


def scalars(line: Json) -> dict[str, float]:
    """The finite numbers of a line by name: `loss/forget` of a step, `round/el_10` of a round."""
    if "step" in line:
        return dict(_finite_numbers(line["loss"], "loss/"))
    if "round" not in line:
        return {}
    named = {"number" if key == "round" else key: value for key, value in line.items()}
    return dict(_finite_numbers(named, "round/"))


def _finite_numbers(values: Json, prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _finite_numbers(dict(value), f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            yield f"{prefix}{name}", value


def hyper_parameters(sections: Mapping[str, Json]) -> dict[str, bool | int | float | str]:
    """Plain values by `section.key`, in place of a local path its last part; without None."""
    return {
        f"{section}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
        for section, values in sections.items()
        for key, value in without_paths(values).items()
        if value is not None
    }


def _service_options(name: str, folder: Path) -> Json:
    """Where a service keeps its files, and what it is not to collect by itself.

    Changes in a git folder may be the records themselves; dvclive would even commit them.
    """
    private = {"disable_git": True, "disable_code": True, "console": "off"}
    options: dict[str, Json] = {
        "wandb": {"dir": str(folder), "settings": private},
        "dvclive": {"dir": str(folder), "save_dvc_exp": False, "dvcyaml": None},
        "swanlab": {"logdir": str(folder)},
    }
    return options.get(name, {})


def _reason(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
