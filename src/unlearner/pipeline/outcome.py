"""How a run of `forget` ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearner.evaluation.verdict import Verdict
from unlearner.models.loading import Loaded


class NothingToUnlearn(Exception):  # noqa: N818 - an answer, not an error
    """The model does not know the records by these measures, so there is nothing to do."""

    def __init__(self, result: Any) -> None:
        super().__init__(result.summary())
        self.result = result


@dataclass
class Outcome:
    """What a run leaves: verdict, report, the model measured, and the answers before and after."""

    verdict: Verdict
    report: dict[str, Any]
    unlearned: Loaded
    before: Mapping[str, list[Any]]
    after: Mapping[str, list[Any]]
