"""What an attack is: an attempt to get forgotten records back, made alike on several models.

The same attack is run on the target model, on the unlearned one and on a control. What it gives is
a number per record; `evaluation/attack_figures.py` decides by the difference from the control.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from transformers import PreTrainedModel

from unlearner import registry
from unlearner.config import RunConfig
from unlearner.evaluation.attack_figures import (
    AttackFigure,
    Comparison,
    RecordValues,
    Resampling,
    compare_with_control,
)
from unlearner.evaluation.intervals import AnyAnswer, record_values
from unlearner.families.base import AnyFamily, AnyPrepared
from unlearner.families.causal_lm import questions_of
from unlearner.inference.classifier import classify
from unlearner.inference.language_model import infer
from unlearner.metrics.base import CAUSAL_LM, CLASSIFIERS, Metric
from unlearner.models.loading import Loaded
from unlearner.output import Json

ALL_FAMILIES = (*CAUSAL_LM, *CLASSIFIERS)

BUDGETS = ("quick", "full")

Budget = Literal["quick", "full"]

# What stands beside the unlearned model, the best first.
CONTROLS = {
    "retrained": "a model trained without the records",
    "proxy": "the pretrained model, fine-tuned for a few epochs on retained records",
    "unseen": "unseen records under the same model",
}

FORGET, UNSEEN, UNRELATED = "forget", "unseen", "unrelated"


@dataclass(frozen=True)
class Materials:
    """What attacks may use, the same for every model.

    Attributes:
        prepared: The target model, and the sets in its tokens.
        sets: The records attacked, "forget", beside "unseen" ones of the same kind; "retain" and
            "unrelated" where there are such records.
        target: The model before unlearning.
        pretrained: What training started from, where it was given.
        control: Which of `CONTROLS`.
        retrained: Models trained without the records, the control among them.
        wordings: The user's own wordings of forget records, by the record's id.
        folder: Of the unlearned model.
        cache: What an attack makes once, for all models.
    """

    prepared: AnyPrepared
    sets: Mapping[str, Any]
    config: RunConfig
    target: Loaded
    pretrained: Loaded | None
    control: str
    budget: Budget = "quick"
    wordings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folder: Path | None = None
    retrained: Sequence["Subject"] = ()
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> AnyFamily:
        """That of all the models."""
        return self.prepared.family

    @property
    def seed(self) -> int:
        """Of every draw."""
        return self.config.training.seed

    @property
    def full(self) -> bool:
        """Whether slow attacks are wanted too."""
        return self.budget == "full"

    def resampling(self) -> Resampling:
        """What is drawn of the records with replacement."""
        return Resampling.of(self.sets[FORGET].groups, self.sets[UNSEEN].groups, self.seed)


@dataclass
class Subject:
    """One of the models under attack.

    Attributes:
        role: "target", "unlearned" or "control".
        answers: To the forget and unseen records as they are; asked once.
    """

    role: str
    loaded: Loaded
    answers: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The model itself. An attack that changes it works on `changed`."""
        return self.loaded.model

    def changed(self) -> "Subject":
        """A copy whose weights an attack may change."""
        model = copy.deepcopy(self.loaded.model)
        return Subject(self.role, replace(self.loaded, model=model))

    def ask(self, materials: Materials, role: str) -> list[Any]:
        """The answers to a set as it is, from one pass over it."""
        if role not in self.answers:
            self.answers[role] = ask_model(self.loaded, materials, materials.sets[role])
        return self.answers[role]


@dataclass(frozen=True)
class Curve:
    """What an attack found by how far it went, for a picture.

    Attributes:
        axis: What the steps are of.
        steps: How far.
        values: By what is drawn, a value at each step.
    """

    axis: str
    steps: Sequence[float]
    values: Mapping[str, Sequence[float]]

    def to_json(self) -> Json:
        """As the audit's file holds it."""
        values = {name: [float(one) for one in some] for name, some in self.values.items()}
        return {"axis": self.axis, "steps": [float(step) for step in self.steps], "values": values}


@dataclass(frozen=True)
class Attempt:
    """What one attack found on one model: by figure a number per record, and more to show."""

    readings: Mapping[str, RecordValues]
    curve: Curve | None = None
    details: Json = field(default_factory=dict)


class Attack(ABC):
    """An attempt to get forgotten records back, or to tell that they were there.

    The docstring's first line is what `unlearner list attacks` prints, its paragraph "Reference:"
    the source.

    Attributes:
        label: A short name for people.
        claim: The claim of the verdict that it is evidence for.
        families: The models that it can be made on.
        cost: The budget in which it is made.
        shows: What a figure can show, for people who answer for personal data.
        cannot_show: And what it cannot.
        figures: Its numbers, each a value per record.
        needs_control_model: Unseen records are no control for it.
    """

    label: ClassVar[str]
    claim: ClassVar[Literal["membership", "robustness", "unseen forms"]] = "robustness"
    families: ClassVar[tuple[str, ...]] = CAUSAL_LM
    cost: ClassVar[Budget] = "quick"
    shows: ClassVar[str]
    cannot_show: ClassVar[str]
    figures: ClassVar[tuple[AttackFigure, ...]] = ()
    needs_control_model: ClassVar[bool] = False

    def skipped(self, materials: Materials) -> str:  # noqa: ARG002 - for those that read it
        """Why it cannot be made; empty where it can."""
        return ""

    @abstractmethod
    def run(self, subject: Subject, materials: Materials) -> Attempt:
        """The attack on one model, which is afterwards as it was before."""

    def conclude(
        self, attempts: Mapping[str, Attempt], materials: Materials
    ) -> tuple[str, str, list[Comparison], Json]:
        """Status, the reason in a sentence, the figures beside the control, and details."""
        names = [
            name for name in attempts["unlearned"].readings if self._is_everywhere(name, attempts)
        ]
        drawn = materials.resampling()
        found = [
            compare_with_control(
                figure,
                {role: attempt.readings[figure.name] for role, attempt in attempts.items()},
                drawn,
                len(names) * len(attacks_for(materials.family)),
            )
            for figure in self.figures
            if figure.name in names
        ]
        status, reason = overall_status(found)
        return status, reason, found, {}

    def _is_everywhere(self, name: str, attempts: Mapping[str, Attempt]) -> bool:
        return all(name in attempt.readings for attempt in attempts.values())


def overall_status(found: Sequence[Comparison]) -> tuple[str, str]:
    """The status of an attack by its figures, and why."""
    opened = [one for one in found if one.status == "opened"]
    if opened:
        worst = max(opened, key=lambda one: abs(one.share) if one.share == one.share else 0.0)
        return "opened", f"{worst.figure.label}: {worst.reason}"
    if any(one.status == "holds" for one in found):
        return "holds", "like the control"
    reasons = dict.fromkeys(one.reason for one in found)
    return "not informative", "; ".join(reasons) or "no record could say"


def attacks_for(family: AnyFamily) -> list[str]:
    """The names of all attacks on models of a family."""
    return [name for name in registry.names("attacks") if family.name in load_attack(name).families]


def load_attack(name: str) -> Attack:
    """The attack of a file.

    Raises:
        UserError: There is none of that name.
    """
    return registry.load("attacks", name).attack


def ask_model(loaded: Loaded, materials: Materials, some: Any) -> list[AnyAnswer]:
    """A model's answers to a set, from one pass over it; no text is continued."""
    if materials.family.writes_text:
        asked = replace(questions_of(materials.config.evaluation), continuations="none")
        return list(infer(loaded.model, loaded.tokenizer, some.windows, asked))
    return list(classify(loaded.model, some, loaded.labels))


def per_record(answers: Sequence[AnyAnswer], metric: Metric, count: int) -> np.ndarray:
    """(count,) a metric of each record; NaN where it cannot say."""
    found = np.full(count, np.nan)
    for record, value in record_values(answers, metric).items():
        found[record] = value
    return found


def recall_metric(materials: Materials) -> Metric:
    """By what a model knows a record: the share of its words, or of its labels, that it names."""
    name = "ma" if materials.family.writes_text else "accuracy"
    return registry.load("metrics", name).metric


def recall(loaded: Loaded, materials: Materials) -> RecordValues:
    """The share of each record that the model as it is now names itself."""
    values = []
    for role in (FORGET, UNSEEN):
        some = materials.sets[role]
        answers = ask_model(loaded, materials, some)
        values.append(per_record(answers, recall_metric(materials), len(some)))
    return RecordValues(*values)
