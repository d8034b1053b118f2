"""From files and names to a loaded classifier and labelled sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch

from unlearner.config import DataSettings
from unlearner.data.base import RecordSet
from unlearner.data.duplicates import Duplicate, find_duplicates
from unlearner.data.files import read_records
from unlearner.data.labelled import LabelledSet, Labelling, tokenize_labelled
from unlearner.datasets.base import named_sets
from unlearner.errors import UserError
from unlearner.models import Loaded

ROLES = ("forget", "retain", "holdout", "test")
UNSEEN = ("holdout", "test")
MEANINGS = {
    "forget": "the labelled records to be forgotten (or --forget-class NAME)",
    "retain": "the remaining labelled training data, on which the model goes on learning",
    "holdout": "labelled records that the model was never trained on: how well unseen records are "
    "classified is what the forgotten ones have to come down to",
}


@dataclass(frozen=True)
class Prepared:
    """A classifier with the labelled sets of a run.

    Attributes:
        sets: By role; with a class to forget also `holdout_class`, its unseen records.
        duplicates: Copies of forget records in the other sets, as far as they were left in.
        forget_class: Index of the label that is to go, where a class is removed.
    """

    loaded: Loaded
    sets: dict[str, LabelledSet]
    duplicates: dict[str, list[Duplicate]]
    forget_class: int | None = None

    def __getitem__(self, role: str) -> LabelledSet:
        return self.sets[role]

    def get(self, role: str) -> LabelledSet | None:
        """The set of a role, None where there is none."""
        return self.sets.get(role)


def prepare(
    loaded: Loaded, data: DataSettings, given: Mapping[str, Any], needs: Collection[str]
) -> Prepared:
    """Read the sets, take out the class or the copies, and tokenize.

    Args:
        given: Sets that come from Python, by role; they go before the paths in `data`.
        needs: The roles that there must be.

    Raises:
        UserError: A set is missing or cannot be used, or holds copies of forget records.
    """
    if data.pool or given.get("pool") is not None:
        raise UserError("--pool: for causal language models; a classifier learns on --retain")
    records = _read(loaded, data, given)
    forget_class = None
    if data.forget_class:
        forget_class = _label(data.forget_class, loaded)
        records = _without_class(records, data.forget_class, loaded.labels[forget_class])
    for role in needs:
        if role not in records:
            raise UserError(f"--{role}: none given; {MEANINGS[role]} is needed")
    duplicates = {}
    if forget_class is None:
        duplicates = _duplicates(records)
        records, duplicates = _settle(records, duplicates, drop=data.drop_duplicates)
    length = max(8, min(data.max_length, loaded.context))
    labelling = Labelling(loaded.labels, length, loaded.family)
    sets = {
        role: tokenize_labelled(some, loaded.tokenizer, labelling) for role, some in records.items()
    }
    return Prepared(loaded, sets, duplicates, forget_class)


def _read(loaded: Loaded, data: DataSettings, given: Mapping[str, Any]) -> dict[str, RecordSet]:
    records = named_sets(data, loaded.family, loaded.labels)
    for role in ROLES:
        source = given.get(role)
        source = getattr(data, role) if source is None else source
        if isinstance(source, RecordSet):
            records[role] = source
        elif source is not None and not (isinstance(source, str) and source == ""):
            records[role] = read_records(
                source, name=role, columns=data.columns, family=loaded.family, labels=loaded.labels
            )
    return records


def _label(name: str, loaded: Loaded) -> int:
    """The index of a class given by name or number.

    Raises:
        UserError: The model is no sequence classifier, or has no such class.
    """
    if loaded.family != "sequence-classification":
        raise UserError(
            f"--forget-class {name}: for sequence classifiers; of a tagger give the sentences to "
            "forget as --forget"
        )
    labels = loaded.labels
    if name in labels:
        return labels.index(name)
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    close = get_close_matches(name, labels, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise UserError(
        f"--forget-class {name!r}: the model has no such class; {hint}it has {len(labels)}: "
        f"{', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}"
    )


def _without_class(
    records: Mapping[str, RecordSet], asked: str, label: str
) -> dict[str, RecordSet]:
    """The training records of the class as forget set; it leaves the other sets as well.

    Raises:
        UserError: Records to forget are given too, or the class is nowhere or everywhere.
    """
    if "forget" in records:
        raise UserError("--forget and --forget-class: give one of them")
    if "retain" not in records:
        raise UserError("--forget-class: --retain with the whole training data is needed")
    found = {}
    for role, some in records.items():
        kept = [record for record in some if record.label != label]
        found[role] = replace(some, records=tuple(kept))
    of_class = [record for record in records["retain"] if record.label == label]
    if not of_class or not found["retain"].records:
        some = "no" if not of_class else "only"
        raise UserError(
            f"--forget-class {asked}: {records['retain'].source} has {some} records of this class"
        )
    found["forget"] = RecordSet("forget", tuple(of_class), records["retain"].source)
    unseen = [
        record
        for role in UNSEEN
        if role in records
        for record in records[role]
        if record.label == label
    ]
    if unseen:
        numbered = [
            replace(record, id=f"{place}-{record.id}") for place, record in enumerate(unseen)
        ]
        found["holdout_class"] = RecordSet("holdout_class", tuple(numbered), "holdout and test")
    empty = [role for role in UNSEEN if role in found and not found[role].records]
    if empty:
        raise UserError(f"--{empty[0]}: holds records of {label} only; others are needed as well")
    return found


def _duplicates(records: Mapping[str, RecordSet]) -> dict[str, list[Duplicate]]:
    if "forget" not in records:
        return {}
    forget = [record.content for record in records["forget"]]
    return {
        role: find_duplicates(forget, [record.content for record in some])
        for role, some in records.items()
        if role != "forget"
    }


def _settle(
    records: dict[str, RecordSet], duplicates: dict[str, list[Duplicate]], *, drop: bool
) -> tuple[dict[str, RecordSet], dict[str, list[Duplicate]]]:
    """The sets without copies of forget records, where that was asked for.

    Raises:
        UserError: There are copies, and they are to be dealt with by the user.
    """
    settled, left = dict(records), dict(duplicates)
    for role, found in duplicates.items():
        copies = {one.other for one in found if one.exact}
        if copies and not drop:
            raise UserError(_refusal(records, role, [one for one in found if one.exact]))
        kept = [place for place in range(len(records[role])) if place not in copies]
        if not kept:
            raise UserError(f"--{role}: every record is a copy of a record to forget; give others")
        settled[role] = replace(
            records[role], records=tuple(records[role].records[place] for place in kept)
        )
        number = {place: index for index, place in enumerate(kept)}
        left[role] = [replace(one, other=number[one.other]) for one in found if one.other in number]
    return settled, left


def _refusal(records: Mapping[str, RecordSet], role: str, found: Sequence[Duplicate]) -> str:
    forget, other = records["forget"].records, records[role].records
    first = found[0]
    why = "would teach them back" if role == "retain" else "are not unseen"
    return (
        f"--{role}: {len({one.other for one in found})} of its records are records to forget and "
        f"{why}, first {other[first.other].id!r} as {forget[first.forget].id!r}; leave them out, "
        "or let --drop-duplicates do it"
    )


def measured(some: LabelledSet, limit: int, seed: int) -> LabelledSet:
    """The set itself, or a seeded sample of its records where it is larger than the limit."""
    if len(some) <= limit:
        return some
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))[:limit]
    return some.subset(sorted(order.tolist()))
