r"""Membership inference: are the records told from unseen ones by how likely the model finds them?

By the loss, the loss over the compressed size, Min-K % and Min-K++ % of a language model, and the
loss over that of the pretrained model where one is given; of a classifier by loss, entropy and
modified entropy. Each is an AUC of forget against unseen records, higher where they are taken for
learned. Below the control they are recognised as treated, which tells as much.

A classifier of n-grams that never asks the model comes first: where it tells the two sets apart
they differ in their make-up, and without a control model nothing follows from any AUC.

With a retrained control also PrivLeak = 100 (AUC_u - AUC_r) / AUC_r, in this sign: above 0 the
records look more learned than to the retrained model.

Reference: Yeom et al. (2018), arXiv:1709.01604; Carlini et al. (2021), arXiv:2012.07805; Shi et al.
(2023), arXiv:2310.16789; Zhang et al. (2024), arXiv:2404.02936; Song and Mittal (2021),
arXiv:2003.10595; the blind check Das et al. (2024), arXiv:2406.16201; PrivLeak Shi et al. (2024),
arXiv:2407.06460.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from unlearner import registry
from unlearner.attacks._cross_fitting import cross_fitted
from unlearner.attacks.base import (
    ALL_FAMILIES,
    FORGET,
    UNSEEN,
    Attack,
    Attempt,
    Materials,
    Subject,
    ask_model,
    per_record,
)
from unlearner.data.windows import contents
from unlearner.evaluation.attack_figures import (
    AttackFigure,
    Comparison,
    RecordValues,
    compare_with_control,
)
from unlearner.evaluation.verdict import auc_noise
from unlearner.metrics import loss
from unlearner.output import Json

SCORES = {
    "mia_loss_auc": "AUC by loss",
    "mia_zlib_auc": "AUC by loss over compressed size",
    "mia_min_k_auc": "AUC by Min-K %",
    "mia_min_k_plus_plus_auc": "AUC by Min-K++ %",
    "mia_entropy_auc": "AUC by entropy",
    "mia_modified_entropy_auc": "AUC by modified entropy",
}


class Membership(Attack):
    """Are the records told from unseen ones by how likely the model finds them?"""

    label = "membership inference"
    claim = "membership"
    families = ALL_FAMILIES
    shows = (
        "Whether somebody who has a text, and may ask the model how likely it is, can tell that it "
        "was among the records: as learned (above the control) or as treated (below it)."
    )
    cannot_show = (
        "That no other score would tell. With few records only large differences show: the "
        "interval says which."
    )
    figures = (
        *(AttackFigure(name, label, "auc", two_sided=True) for name, label in SCORES.items()),
        AttackFigure("reference_auc", "AUC by loss over the pretrained model's", "auc", True),
    )

    def run(self, subject: Subject, materials: Materials) -> Attempt:
        answers = {role: subject.ask(materials, role) for role in (FORGET, UNSEEN)}
        readings = {}
        for name in SCORES:
            metric = registry.load("metrics", name).metric
            if materials.family.name in metric.families:
                # The metrics are losses: lower is a member.
                readings[name] = _record_values(
                    answers, materials, lambda a, n, m=metric: -per_record(a, m, n)
                )
        if materials.pretrained is not None:
            own = _record_values(answers, materials, lambda a, n: -per_record(a, loss.metric, n))
            before = _pretrained(materials)
            readings["reference_auc"] = RecordValues(
                own.forget - before.forget, own.unseen - before.unseen
            )
        return Attempt(readings)

    def conclude(
        self, attempts: Mapping[str, Attempt], materials: Materials
    ) -> tuple[str, str, list[Comparison], Json]:
        status, reason, found, details = super().conclude(attempts, materials)
        blind = blind_check(materials)
        by_words = blind.models["unlearned"]
        details["blind"] = by_words.to_json()
        sets = [len(materials.sets[role]) for role in (FORGET, UNSEEN)]
        details["half_width"] = auc_noise(*sets)
        apart = by_words.low > 0.5 or by_words.high < 0.5
        if materials.control == "unseen" and apart:
            status = "not informative"
            reason = "words alone tell the sets apart, without asking the model; give a control"
        if materials.control == "retrained":
            details["privleak"] = {
                one.figure.name: privleak(
                    one.models["unlearned"].value, one.models["control"].value
                )
                for one in found
            }
        return status, reason, found, details


def privleak(unlearned: float, retrained: float) -> float | None:
    """100 (AUC_u - AUC_r) / AUC_r: above 0 the records look more learned than retrained."""
    return 100 * (unlearned - retrained) / retrained if retrained else None


def blind_check(materials: Materials) -> Comparison:
    """How well the words alone tell forget from unseen records; 0.5 where they do not."""
    texts = {role: _texts_of(materials, role) for role in (FORGET, UNSEEN)}
    groups = {role: materials.sets[role].groups for role in (FORGET, UNSEEN)}

    def scores(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
        every = [*texts[FORGET], *texts[UNSEEN]]
        learner = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True),
            LogisticRegression(C=10.0, max_iter=1000),
        )
        learner.fit([every[i] for i in train], labels[train])
        return learner.decision_function([every[i] for i in test])

    reading = cross_fitted(scores, groups[FORGET], groups[UNSEEN], materials.seed)
    figure = AttackFigure("blind", "AUC by words alone", "auc", two_sided=True, scale="range")
    return compare_with_control(
        figure, {"target": reading, "unlearned": reading}, materials.resampling()
    )


def _texts_of(materials: Materials, role: str) -> list[str]:
    some = materials.sets[role]
    if materials.family.writes_text:
        return contents(some, materials.target.tokenizer)
    return [record.content for record in some.records]


def _pretrained(materials: Materials) -> RecordValues:
    assert materials.pretrained is not None
    answers = {
        role: ask_model(materials.pretrained, materials, materials.sets[role])
        for role in (FORGET, UNSEEN)
    }
    return _record_values(answers, materials, lambda a, n: -per_record(a, loss.metric, n))


def _record_values(answers: Mapping[str, Any], materials: Materials, value: Any) -> RecordValues:
    return RecordValues(
        *(value(answers[role], len(materials.sets[role])) for role in (FORGET, UNSEEN))
    )


attack = Membership()
