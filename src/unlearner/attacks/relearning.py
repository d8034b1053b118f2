r"""Relearning: what do some steps of ordinary training bring back, and how soon?

Fifty steps by the settings of `unlearner finetune`: once on retained records alone, which whoever
goes on training does without knowing, once on a tenth of the forget set, whole subjects, with the
rest of it measured, and once on unrelated text where the user gives some. Of each record the area
under the curve,

.. math:: \frac{1}{S} \int_0^S v_s(x) \, ds

with v_s the share of the record that the model names after s steps, by trapezoids over the looks.
What a control regains under the same training was taught by it, and was not remembered.

Reference: Hu et al. (2024), arXiv:2406.13356; on retained data alone Deeb and Roger (2024),
arXiv:2410.08827, are the neighbour.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unlearner.attacks.base import (
    ALL_FAMILIES,
    FORGET,
    UNRELATED,
    UNSEEN,
    Attack,
    Attempt,
    Curve,
    Materials,
    Subject,
    recall,
)
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.training.relearning import LOOKS, STEPS, relearned

SHARE = 0.1  # of the forget records that are taught again, at least


class Relearning(Attack):
    """What do some steps of ordinary training bring back, and how soon?"""

    label = "relearning"
    families = ALL_FAMILIES
    cost = "full"
    shows = (
        "Whether the records come back when the model goes on learning, on other records, on a few "
        "of the forgotten ones or on unrelated text, faster than a model learns them that never "
        "had them."
    )
    cannot_show = "What longer training brings, or training with other settings."
    figures = (
        AttackFigure("on_retained", "known while it learns retained records", "mean"),
        AttackFigure("on_some", "others known while it learns a tenth of them", "mean"),
        AttackFigure("on_unrelated", "known while it learns unrelated text", "mean"),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        readings, values = {}, {}
        if "retain" in materials.sets:
            looks = _looks(subject, materials, materials.sets["retain"])
            readings["on_retained"] = area(looks)
            values["on retained records"] = _means(looks)
        forget = materials.sets[FORGET]
        taught = some_subjects(forget.groups, SHARE, materials.seed)
        if len(taught) < len(forget):
            looks = _looks(subject, materials, forget.subset(taught))
            for look in looks:
                look.forget[taught] = np.nan
            readings["on_some"] = area(looks)
            values["on some of them"] = _means(looks)
        if UNRELATED in materials.sets:
            looks = _looks(subject, materials, materials.sets[UNRELATED])
            readings["on_unrelated"] = area(looks)
            values["on unrelated text"] = _means(looks)
        return Attempt(readings, Curve("training step", LOOKS, values))


def some_subjects(groups: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of the records of subjects drawn until that share of all records is there."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    chosen: set[str] = set()
    for place in order:
        if sum(group in chosen for group in groups) >= share * len(groups):
            break
        chosen.add(names[place])
    return [index for index, group in enumerate(groups) if group in chosen]


def area(looks: Sequence[RecordValues]) -> RecordValues:
    """The mean height of each record's curve over the steps, by trapezoids."""
    parts = [np.stack([getattr(look, role) for look in looks]) for role in (FORGET, UNSEEN)]
    widths = np.diff(LOOKS) / LOOKS[-1]
    return RecordValues(*(widths @ ((part[1:] + part[:-1]) / 2) for part in parts))


def _looks(subject: Subject, materials: Materials, taught: Any) -> list[RecordValues]:
    settings = materials.config.training.model_copy(update={"lora_rank": 0})
    found = []
    with relearned(settings, subject.model, taught, STEPS) as steps:
        for step in steps:
            if step in LOOKS:
                found.append(recall(subject.loaded, materials))
    return found


def _means(looks: Sequence[RecordValues]) -> list[float]:
    return [float(np.nanmean(look.forget)) for look in looks]


attack = Relearning()
