"""What is known of the records before a run, what a run takes, and the figures of a set."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from class_answers import said, tagged
from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    learn_by_heart,
    tiny_classifier,
    toy_tokenizer,
)
from unlearner import registry
from unlearner.config import RunConfig
from unlearner.data.duplicates import Duplicate
from unlearner.errors import UserError
from unlearner.evaluation.measure import (
    CONFUSION_ROWS,
    confusion_counts,
    score_sets,
    shares_right,
    with_retrained,
)
from unlearner.families import FAMILIES
from unlearner.families.base import Measured, Prepared
from unlearner.families.classifier import latent_space
from unlearner.families.classifier_criteria import forget_score
from unlearner.methods.base import load_method
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models.loading import Loaded
from unlearner.pipeline import pipeline
from unlearner.settings import EvaluationSettings

torch.set_num_threads(1)

METHODS = [
    name
    for name in registry.names("methods")
    if set(CLASSIFIERS) <= set(load_method(name).families)
]


def prepared(family=SEQUENCE, forget_class=None, model=None, **changes):
    sets = {
        "forget": labelled(9, family, "forget", odd=True),
        "retain": labelled(24, family, "retain"),
        "holdout": labelled(30, family, "holdout"),
    }
    sets = {role: some for role, some in (sets | changes).items() if some is not None}
    loaded = Loaded(model or tiny_classifier(family), toy_tokenizer(), "tiny")
    return Prepared(FAMILIES[family], loaded, sets, {}, forget_class=forget_class)


def with_sets(some, sets):
    return replace(some, sets=sets, duplicates={})


def config(method="deepcut", **method_settings):
    return RunConfig.from_sections({"method": {"name": method, **method_settings}})


def check(some, config=config()):  # noqa: B008 - never changed
    return pipeline.check(config, some)


def infer(some, sets=None, batch_tokens=4096):
    evaluation = EvaluationSettings(batch_tokens=batch_tokens)
    return some.family.infer(some.loaded, sets or some.sets, evaluation)


@pytest.fixture(scope="module", params=[SEQUENCE, TOKEN])
def known(request):
    """Sets with a model that knows the forget and the retain set by heart."""
    some = prepared(request.param)
    learn_by_heart(some.loaded.model, some["forget"], some["retain"])
    return some


# Is there something to unlearn?


def test_records_known_by_heart_are_known(known):
    found = check(known)
    score = forget_score(known.family.name, known.loaded.labels)
    assert found.memorised is True
    assert found.values["forget"][score].value == 1.0
    assert found.values["holdout"][score].value < 0.9
    assert found.sentence.startswith(f"known: {score} 1.000, unseen records have 0.")


def test_unseen_records_are_nothing_to_unlearn(known):
    """The forget set is the holdout set: as well classified, and even."""
    found = check(with_sets(known, known.sets | {"forget": known["holdout"]}))
    assert found.memorised is False
    assert "nothing to unlearn by these measures" in found.sentence


def test_without_a_holdout_set_nothing_is_known(known):
    found = check(with_sets(known, {"forget": known["forget"]}))
    assert found.memorised is None
    assert "without --holdout" in found.sentence


def test_a_class_is_known_above_chance():
    some = prepared(forget_class=0, forget=labelled(6, label="animal"))
    learn_by_heart(some.loaded.model, some["forget"], some["retain"])
    found = check(some)
    assert found.memorised is True
    assert found.sentence == "known: accuracy 1.000 of the class, chance is 0.333"


def test_a_broken_model_is_refused_and_not_taken_for_one_that_forgot():
    model = tiny_classifier()
    with torch.no_grad():
        model.classifier.bias.fill_(math.nan)
    with pytest.raises(UserError, match="MODEL tiny: its loss on the forget set is nan"):
        check(prepared(model=model))


def test_copies_are_told_by_the_ids_of_their_records(known):
    found = check(known)
    assert found.ids("retain", [Duplicate(2, 5, 0.9, False)]) == [("r2", "r5")]


# What will it take?


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_plan(method, known):
    """Also one that takes its batches and epochs from the target's recipe."""
    plan = check(known, config(method)).plan
    assert plan.seconds_per_epoch > 0
    assert plan.max_epochs >= 1
    assert sum(plan.peak.values()) > 20 * sum(p.numel() for p in known.loaded.model.parameters())


# Figures


def test_large_sets_are_measured_by_a_sample_and_the_forget_set_whole(known):
    limited = RunConfig.from_sections(
        {"method": {"name": "deepcut"}, "evaluation": {"max_records": 5}}
    )
    sets = known.family.measured_sets(known, limited)
    assert {role: len(some) for role, some in sets.items()} == {
        "forget": 9,
        "retain": 5,
        "holdout": 5,
    }


def test_attacks_are_on_the_forget_set_and_of_a_class_against_its_unseen_records(known):
    """Against itself a set is even: 0.5, where the holdout set would give more."""
    sets = {**known.sets, "holdout_class": known["forget"]}
    answers = infer(known, sets)
    evaluation = EvaluationSettings(resamples=10)
    found = score_sets(answers, sets, evaluation, seed=0)
    assert found["forget"]["mia_loss_auc"].value == 0.5
    assert not any("mia" in name for role in ("retain", "holdout") for name in found[role])
    del sets["holdout_class"], answers["holdout_class"]
    assert score_sets(answers, sets, evaluation, seed=0)["forget"]["mia_loss_auc"].value > 0.5


def test_the_distance_from_a_model_to_itself_is_nothing(known):
    answers = infer(known)
    beside = with_retrained(answers, copy.deepcopy(answers))
    found = score_sets(beside, known.sets, EvaluationSettings(resamples=10), seed=0)
    assert found["forget"]["js_to_retrained"].value == pytest.approx(0.0, abs=1e-9)
    plain = score_sets(answers, known.sets, EvaluationSettings(resamples=10), seed=0)
    assert "js_to_retrained" not in plain["forget"]


def test_answers_do_not_depend_on_the_tokens_of_a_pass(known):
    """One example at a time, or all together."""
    some = [infer(known, batch_tokens=n) for n in (1, 10**6)]
    for role, examples in known.sets.items():
        for one, other, example in zip(
            some[0][role], some[1][role], examples.examples, strict=True
        ):
            assert (one.record, one.id) == (example.record, example.id)
            assert one.class_log_probs == pytest.approx(other.class_log_probs, abs=1e-4)
            assert one.features == pytest.approx(other.features, abs=1e-4)


def test_confusion_is_counted_and_the_most_frequent_comes_first():
    answers = [said([0], [1]), said([0], [1], record=1), said([2], [2], record=2)]
    assert confusion_counts(answers, None) == [["a", "b", 2], ["c", "c", 1]]


def test_words_outside_entities_count_only_where_they_are_mistaken():
    answers = [tagged("O O B-loc O", "O B-per B-loc O")]
    assert confusion_counts(answers, 0) == [["B-loc", "B-loc", 1], ["O", "B-per", 1]]


def test_confusion_has_a_bounded_number_of_rows():
    names = tuple(f"n{number:02}" for number in range(40))
    answers = [said([number], [number], record=number, names=names) for number in range(40)]
    assert len(confusion_counts(answers, None)) == CONFUSION_ROWS


def test_the_share_right_of_a_record_is_over_all_its_parts():
    """2 of 3 and 0 of 1 tags: 2 / 4."""
    answers = [tagged("O O B-loc", "O O O"), tagged("O", "B-loc"), tagged("O", "O", record=1)]
    assert shares_right(answers) == {0: 0.5, 1: 1.0}


def test_each_record_is_told_before_and_after(known):
    answers = infer(known)
    models = {"target": answers, "unlearned": answers}
    measured = Measured(known.sets, models, {model: {} for model in models}, None, ())
    found = known.family.sections(known, measured, config())["per_record"]
    assert [one["id"] for one in found] == [record.id for record in known["forget"].records]
    assert all(set(one) == {"id", "before", "after"} for one in found)
    assert all(one["before"] == {"correct": 1.0} for one in found)


def test_the_picture_has_points_of_both_sets_and_no_ids(known):
    """As many as there are labels that count: records of texts, of words the entities."""
    family = known.loaded.family
    answers = infer(known)
    outside = 0 if family == TOKEN else None
    found = latent_space({"target": answers}, LABELS[family], outside, 0)
    assert set(found) == {"geometry", "confusion", "projection"}
    picture = found["projection"]
    assert picture["labels"] == list(LABELS[family])
    assert 0 < sum(picture["models"]["target"]["explained"]) <= 1.001
    for role, count in (("forget", 9), ("retain", 24)):
        points = picture["models"]["target"][role]
        assert len(points) == count * (1 if family == SEQUENCE else 3)
        assert all(len(point) == 3 and point[2] in range(len(LABELS[family])) for point in points)
        assert all(float(f"{x:.3g}") == x for point in points for x in point[:2])
