"""The log of a run: a line of JSON for each step and each round."""

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from unlearner import processes
from unlearner.output import Json


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
    logging.getLogger("unlearner.retrieval.encoder").setLevel(logging.INFO)
