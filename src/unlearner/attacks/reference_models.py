r"""Membership by reference models: is a record likelier than models make it that never saw it?

.. math::
    \Lambda(x, z) = \frac{p_\theta(x) / p(x)}{p_\theta(z) / p(z)}, \qquad
    s(x) = \frac{1}{|Z|} \sum_{z \in Z} [\Lambda(x, z) \ge 1]

with p_theta(x) the probability that the classifier gives the record's own labels (the geometric
mean over positions), p(x) its mean over reference models, and Z the unseen records, x itself left
out. The reference models are the encoder that the target was fine-tuned from, trained by the
target's own recipe on halves of the retained records: none has seen a forget or an unseen record,
so p needs no correction for records that they were trained on. The AUC of s is of forget against
unseen records.

Reference: Zarifzadeh et al. (2023), arXiv:2312.03262 (RMIA).
Differs from the paper: gamma is 1, and the reference models are as many as the budget allows.
"""

from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from unlearner.attacks.base import (
    FORGET,
    UNSEEN,
    Attack,
    Attempt,
    Materials,
    Subject,
    ask_model,
    per_record,
)
from unlearner.evaluation.attack_figures import AttackFigure, RecordValues
from unlearner.metrics import loss
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.loading import Loaded, load_with_new_head
from unlearner.training.finetune import FinetuneSettings, learn_all, read_recipe
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

MODELS = {"quick": 1, "full": 4}

FEWEST = 8  # retained records


class ReferenceModels(Attack):
    """Is a record likelier than models make it that never saw it?"""

    label = "membership by reference models"
    claim = "membership"
    families = CLASSIFIERS
    cost = "full"
    shows = (
        "Whether somebody who can train models of the same kind tells the records from unseen "
        "ones: the strongest of the usual tests of membership."
    )
    cannot_show = "What many more reference models, or ones trained on the records, would tell."
    figures = (AttackFigure("rmia_auc", "AUC by reference models", "auc", two_sided=True),)

    def skipped(self, materials: Materials) -> str:
        if len(materials.sets.get("retain", ())) < FEWEST:
            return f"there are fewer than {FEWEST} retained records to train reference models on"
        if read_recipe(materials.target.name) is None:
            return "how the target was made is not known (its folder has no provenance.json)"
        return ""

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        if "rmia" not in materials.cache:
            materials.cache["rmia"] = reference_log_probs(materials)
        own = [
            _log_probs(subject.ask(materials, role), materials, role) for role in (FORGET, UNSEEN)
        ]
        ratios = [mine - other for mine, other in zip(own, materials.cache["rmia"], strict=True)]
        return Attempt({"rmia_auc": RecordValues(*rmia(*ratios))})


def rmia(forget_ratio: np.ndarray, unseen_ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (M,) scores from log p_theta(x) - log p(x) of forget and of unseen records."""
    others = np.sort(unseen_ratio[np.isfinite(unseen_ratio)])
    forget = np.searchsorted(others, forget_ratio, "right") / max(len(others), 1)
    # Of an unseen record: itself, which it is never below, left out.
    unseen = (np.searchsorted(others, unseen_ratio, "right") - 1) / max(len(others) - 1, 1)
    return _where_known(forget, forget_ratio), _where_known(unseen, unseen_ratio)


def _where_known(scores: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(ratios), scores, np.nan)


def reference_log_probs(materials: Materials) -> list[np.ndarray]:
    """Log p of each forget and unseen record: of the mean over the reference models."""
    found: list[list[np.ndarray]] = [[], []]
    for number in range(MODELS[materials.budget]):
        model = _reference_model(materials, number)
        for place, role in enumerate((FORGET, UNSEEN)):
            answers = ask_model(model, materials, materials.sets[role])
            found[place].append(_log_probs(answers, materials, role))
    return [np.logaddexp.reduce(some) - np.log(len(some)) for some in found]


def _log_probs(answers: Any, materials: Materials, role: str) -> np.ndarray:
    return -per_record(answers, loss.metric, len(materials.sets[role]))


def _reference_model(materials: Materials, number: int) -> Loaded:
    """The encoder with a new head, once it has learned a half of the retained records."""
    target, retain = materials.target, materials.sets["retain"]
    recipe = read_recipe(target.name)
    assert recipe is not None
    fresh = load_with_new_head(recipe.pretrained, materials.family.name, target.labels)
    generator = torch.Generator().manual_seed(materials.seed + number)
    half = torch.randperm(len(retain), generator=generator)[: len(retain) // 2].tolist()
    update = {"checkpoint_every": "never", "lora_rank": 0, "seed": materials.seed + number}
    trainer = Trainer(materials.config.training.model_copy(update=update), Log(None))
    fresh.to(trainer.device)
    settings = FinetuneSettings.model_validate(
        {
            name: recipe.finetune[name]
            for name in FinetuneSettings.model_fields
            if name in recipe.finetune
        }
    )
    learned = learn_all(fresh.model, settings, trainer, retain.subset(sorted(half)).examples)
    return Loaded(cast(PreTrainedModel, learned.eval()), fresh.tokenizer, fresh.name)


attack = ReferenceModels()
