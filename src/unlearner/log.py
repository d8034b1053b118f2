"""The log of a run: a line of JSON for each step and each round."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from unlearner import processes


class Log:
    """One JSON line per step and per round, and the same line to a listener (the progress bar).

    Attributes:
        silent: While a run repeats what it has done before: those lines are there already.
    """

    def __init__(
        self, path: Path | None = None, listener: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.path = path if processes.is_main() else None
        self.listener = listener
        self.silent = False
        self._file: TextIO | None = None

    def write(self, line: dict[str, Any]) -> None:
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
