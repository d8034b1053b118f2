"""How a labelled data set is divided: learned, forgotten, held out, for the report alone."""

from collections.abc import Callable, Sequence

from pydantic import Field, PositiveInt

from unlearner.data.record import RecordSet
from unlearner.datasets import base


class Options(base.Options):
    """How many records.

    Args:
        train_records: Training records that a target learns: forget and retain together.
        holdout_records: Training records that nobody learns.
        forget_share: Share of the learned records that is to be forgotten.
        test_records: Records of the official test set, for the report alone; None for all.
    """

    train_records: PositiveInt = 3000
    holdout_records: PositiveInt = 1000
    forget_share: float = Field(default=0.05, gt=0, lt=1)
    test_records: PositiveInt | None = None


def divide(
    train: Sequence[base.Row],
    test: Sequence[base.Row],
    options: Options,
    family: str,
    names: Callable[[base.Row], set[str]],
) -> dict[str, RecordSet]:
    """The sets by role, drawn by the seed.

    Learned records are chosen so that each label is among them, and among those that are kept: a
    classifier has an output for the labels that it has seen.

    Args:
        names: The labels of a row.

    Raises:
        UserError: There are fewer records than are wanted.
    """
    order = _each_label_first(base.shuffled(train, options.seed), names)
    learned = base.take(order, options.train_records, "train_records")
    holdout = base.take(order[len(learned) :], options.holdout_records, "holdout_records")
    count = max(1, round(len(learned) * options.forget_share))
    # The last ones were drawn for no label's sake.
    rows = {
        "forget": learned[-count:],
        "retain": learned[:-count],
        "holdout": holdout,
        "test": base.take(base.shuffled(test, options.seed), options.test_records, "test_records"),
    }
    return {
        role: base.record_set(role, some, family, "official files") for role, some in rows.items()
    }


def _each_label_first(
    rows: Sequence[base.Row], names: Callable[[base.Row], set[str]]
) -> list[base.Row]:
    """The rows in order, after the first row of each label."""
    seen: set[str] = set()
    first, rest = [], []
    for row in rows:
        (rest if names(row) <= seen else first).append(row)
        seen |= names(row)
    return [*first, *rest]
