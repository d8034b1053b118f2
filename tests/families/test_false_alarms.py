"""How often unseen text is called memorised, and memorised text is not: real prose, real model.

A pristine model has never seen any of the paragraphs. Drawn to be "forgotten" and to be "unseen",
they differ by chance alone, whatever their number.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from unlearner.data.duplicates import find_duplicates
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, contents, tokenize_set
from unlearner.evaluation.intervals import evaluate_set
from unlearner.families.causal_lm_criteria import is_memorised, measure_holdout_baseline
from unlearner.inference.language_model import Questions, infer
from unlearner.metrics import el_10, es, ma
from unlearner.models.loading import load_causal_lm
from unlearner.settings import CriteriaSettings, TrainingSettings
from unlearner.training.finetune import FinetuneSettings, Until, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

pytestmark = pytest.mark.slow

BOOKS = ("GrimmsFairyTales", "bronte", "darwin", "dubois", "shakespeare")
METRICS = {"ma": ma.metric, "el_10": el_10.metric, "es": es.metric}


@pytest.fixture(scope="module")
def loaded(shared_data):
    return load_causal_lm(str(shared_data / "models" / "stories260k"))


@pytest.fixture(scope="module")
def paragraphs(shared_data, loaded):
    """Sixty paragraphs of each book, of 80 to 500 characters, in random order."""
    rng, found = np.random.default_rng(0), []
    for book in BOOKS:
        text = (shared_data / "public-domain-text" / f"{book}.txt").read_text(errors="replace")
        parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        parts = [part for part in parts if 80 <= len(part) <= 500]
        found += [parts[place] for place in rng.choice(len(parts), 60, replace=False)]
    records = tuple(Record(str(i), text=found[i]) for i in rng.permutation(len(found)))
    return tokenize_set(RecordSet("prose", records, "memory"), loaded.tokenizer, Layout())


def answers_of(loaded, some):
    """The model's answer to each record; all are of one window."""
    found = infer(loaded.model, loaded.tokenizer, some.windows, Questions(prompt_start=0.75))
    assert [answer.record for answer in found] == list(range(len(some)))
    return found


@pytest.fixture(scope="module")
def unseen(loaded, paragraphs):
    return answers_of(loaded, paragraphs)


def is_called_memorised(forget, holdout):
    """What `check` would say; None where it says that there are too few records."""
    forget, holdout = (
        [replace(answer, record=place) for place, answer in enumerate(each)]
        for each in (forget, holdout)
    )
    level = measure_holdout_baseline(holdout, CriteriaSettings(), num_forget=len(forget))
    groups = [str(place) for place in range(len(forget))]
    scores = {"forget": evaluate_set(forget, METRICS, groups, resamples=0)}
    found = is_memorised(forget, scores, level)
    return None if not found and not level.can_tell else found


def draws(pool, sizes, number):
    """What is said of so many random draws of two sets without a record in common."""
    rng, found = np.random.default_rng(sum(sizes)), []
    for _ in range(number):
        order = rng.permutation(len(pool))
        forget, holdout = order[: sizes[0]], order[sizes[0] : sum(sizes)]
        chosen = [pool[place] for place in forget]
        found.append(is_called_memorised(chosen, [pool[place] for place in holdout]))
    return found


FEW = [(1, 1), (1, 3), (1, 10), (1, 40), (1, 200), (3, 3), (3, 40), (10, 3), (10, 10), (40, 3)]
MANY = [(40, 40), (100, 200), (200, 3), (200, 40)]


@pytest.mark.parametrize("sizes", [*FEW, *MANY], ids=lambda sizes: f"{sizes[0]} and {sizes[1]}")
def test_unseen_prose_is_called_memorised_in_a_twentieth_of_draws_at_most(unseen, sizes):
    number = 200 if sum(sizes) < 60 else 60
    assert draws(unseen, sizes, number).count(True) <= 0.05 * number


@pytest.mark.parametrize("sizes", [(1, 1), (40, 1)])
def test_one_unseen_record_is_too_few(unseen, sizes):
    assert set(draws(unseen, sizes, 20)) == {None}


@pytest.mark.usefixtures("unseen")  # asked of the model before it learns
def test_memorised_prose_is_found(loaded, paragraphs):
    """Sixty of the paragraphs, learned until nine of ten tokens are known; five are enough."""
    lesson = paragraphs.subset(range(60))
    trainer = Trainer(TrainingSettings(device="cpu"), Log(None))
    result = finetune_model(
        loaded.model,
        loaded.tokenizer,
        lesson,
        FinetuneSettings(epochs=200),
        trainer,
        Until.parse("ma>=0.9"),
    )
    assert result.reached
    answers = answers_of(replace(loaded, model=trainer.finish(result.model)), paragraphs)
    texts = contents(paragraphs, loaded.tokenizer)
    copies = {60 + copy.other for copy in find_duplicates(texts[:60], texts[60:])}
    known = answers[:60]
    rest = [answer for answer in answers[60:] if answer.record not in copies]
    for sizes in ((5, 5), (5, 40), (40, 5), (40, 40)):
        rng, found = np.random.default_rng(sum(sizes)), []
        for _ in range(40):
            forget = [known[place] for place in rng.choice(60, sizes[0], replace=False)]
            holdout = [rest[place] for place in rng.choice(len(rest), sizes[1], replace=False)]
            found.append(is_called_memorised(forget, holdout))
        assert found.count(True) >= 0.95 * len(found), sizes
