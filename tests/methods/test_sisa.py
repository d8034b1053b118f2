"""SISA: what a shard has seen, what deleting leaves behind, and the ensemble as a model."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    recipe_from,
    save_encoder,
    tiny_classifier,
    tiny_data,
    tiny_trainer,
    toy_tokenizer,
)
from unlearner.data.labelled import collate_examples
from unlearner.errors import UserError
from unlearner.inference.classifier import classify
from unlearner.methods.sisa import SISA, deal
from unlearner.models import folders, loading
from unlearner.models.ensemble import make_ensemble
from unlearner.models.heads import Classifier
from unlearner.models.loading import load_classifier

torch.set_num_threads(1)

SMALL = {"num_shards": 2, "num_slices": 3}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def run(encoder, method=None, data=None, **finetune):
    data = data or tiny_data(sizes=(3, 15, 6), recipe=recipe_from(encoder, **finetune))
    trainer = tiny_trainer()
    ensemble = (method or SISA(**SMALL)).unlearn(tiny_classifier(data.family), data, trainer)
    return ensemble, data, trainer


@pytest.fixture(scope="module")
def made(encoder):
    """One run on 3 records to be forgotten and 15 remaining ones."""
    return run(encoder)


def lineage(stages):
    """The stages that a shard's final weights come from.

    Deleting goes back to before a slice: the preparation's stages from that slice on are undone.
    """
    deletion = [stage for stage in stages if stage.phase == "deletion"]
    first = min((stage.slice for stage in deletion), default=len(stages))
    kept = [stage for stage in stages if stage.phase == "preparation" and stage.slice < first]
    return kept + deletion


def test_no_final_shard_has_seen_a_forgotten_record_and_all_others_are_learnt(made):
    """Records 0, 1, 2 are to be forgotten, 3 to 17 remain; each is in one shard only."""
    _, _, trainer = made
    learnt = []
    for stages in trainer.details["sisa_trained_on"]:
        seen = {record for stage in lineage(stages) for record in stage.records}
        prepared = {r for stage in stages if stage.phase == "preparation" for r in stage.records}
        assert not seen & {0, 1, 2}
        assert seen == prepared - {0, 1, 2}
        learnt += sorted(prepared)
    assert sorted(learnt) == list(range(18))


def test_a_shard_learns_slice_after_slice(made):
    """Slices of 3: in preparation a shard of 9 learns 3, then 6, then 9 records."""
    _, _, trainer = made
    for stages in trainer.details["sisa_trained_on"]:
        prepared = [stage for stage in stages if stage.phase == "preparation"]
        assert [len(stage.records) for stage in prepared] == [3, 6, 9]
        for less, more in pairwise(prepared):
            assert set(less.records) < set(more.records)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_only_shards_with_a_forgotten_record_are_trained_again_and_from_its_slice(
    place, encoder, monkeypatch
):
    """Record 0 is to be forgotten: its shard goes back to before its slice, the other stays."""
    slices = [[1, 2], [3, 4], [5, 6]]
    slices[place] = [0, *slices[place]]
    monkeypatch.setattr("unlearner.methods.sisa.deal", lambda *_: [slices, [[7], [8], [9]]])
    data = tiny_data(sizes=(1, 9, 6), recipe=recipe_from(encoder))
    _, _, trainer = run(encoder, data=data)
    affected, other = trainer.details["sisa_trained_on"]
    assert [stage.slice for stage in affected] == [0, 1, 2, *range(place, 3)]
    assert [stage.phase for stage in affected[3:]] == ["deletion"] * (3 - place)
    assert [stage.phase for stage in other] == ["preparation"] * 3


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_deleting_gives_bit_for_bit_the_model_of_the_remaining_records(
    family, encoder, monkeypatch
):
    """The same shards and slices, once without the forgotten records ever in them."""
    data = tiny_data(family, sizes=(3, 15, 6), recipe=recipe_from(encoder))
    deleted, _, _ = run(encoder, data=data)
    nobody = replace(data, forget=data.forget.subset([0]))  # the method is asked to forget one

    def deal_the_rest(num_records, *counts):
        del num_records
        shards = deal(18, *counts)
        # Record 0 is put where it was; 1 and 2 are left out; 3 to 17 are 1 to 15 here.
        return [
            [[max(0, r - 2) for r in some if r not in (0, 1, 2)] for some in shard]
            for shard in shards
        ]

    monkeypatch.setattr("unlearner.methods.sisa.deal", deal_the_rest)
    never_seen, _, trainer = run(encoder, data=nobody)
    stages = [stage for shard in trainer.details["sisa_trained_on"] for stage in shard]
    assert all(stage.phase == "preparation" and 0 not in stage.records for stage in stages)
    theirs = never_seen.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in deleted.state_dict().items())


def test_the_shards_differ(made):
    ensemble, _, _ = made
    first, second = (shard.classifier.weight for shard in ensemble.shards)
    assert not torch.equal(first, second)


def test_preparation_is_told_apart_from_unlearning(made):
    """2 E / (R + 1) = 1 epoch a slice, batches of 8.

    A shard of 9 records in slices of 3 takes 1 + 1 + 2 steps, and there are two.
    """
    _, _, trainer = made
    deletion = [
        stage
        for stages in trainer.details["sisa_trained_on"]
        for stage in stages
        if stage.phase == "deletion"
    ]
    assert trainer.details["steps_preparation"] == 2 * (1 + 1 + 2)
    later = sum(math.ceil(len(stage.records) / 8) for stage in deletion)
    assert trainer.steps == trainer.details["steps_preparation"] + later
    assert 0 < trainer.details["tokens_preparation"] < trainer.tokens
    assert trainer.details["seconds_preparation"] > 0


def test_a_slice_takes_its_share_of_the_target_epochs(encoder):
    """E = 6 and R = 3: 2 x 6 / 4 = 3 epochs of each stage, so 3 x (3 + 6 + 9) = 54 = 6 x 9."""
    _, _, trainer = run(encoder, epochs=6)
    assert trainer.details["steps_preparation"] == 3 * 2 * (1 + 1 + 2)


def test_the_log_has_no_record_of_a_shard(encoder):
    data = tiny_data(sizes=(3, 15, 6), recipe=recipe_from(encoder))
    trainer, lines = tiny_trainer(), []
    trainer.log.listener = lines.append
    SISA(**SMALL).unlearn(tiny_classifier(), data, trainer)
    shards = [line for line in lines if "shard" in line]
    assert {line["phase"] for line in shards} == {"preparation", "deletion"}
    assert all(isinstance(line["records"], int) for line in shards)
    assert json.dumps(lines)


def test_a_shard_without_remaining_records_is_left_out(encoder):
    """2 shards of one slice; the forget set is exactly the first: the other alone answers."""
    data = tiny_data(sizes=(3, 3, 6), recipe=recipe_from(encoder))
    method = SISA(num_shards=2, num_slices=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlearner.methods.sisa.deal", lambda *_: [[[0, 1, 2]], [[3, 4, 5]]])
        ensemble, _, _ = run(encoder, method, data)
    assert len(ensemble.shards) == 1


def test_the_same_seed_gives_the_same_ensemble(encoder, made):
    first, second = made[0].state_dict(), run(encoder)[0].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_rounds_are_the_target_and_the_ensemble(made):
    _, _, trainer = made
    assert [line["round"] for line in trainer.rounds] == [0, 1]


def test_dealing_is_even_and_complete():
    """23 records over 3 shards of 2 slices: shards of 8, 8, 7, slices of 4 or 3."""
    shards = deal(23, 3, 2, torch.Generator().manual_seed(0))
    assert [[len(some) for some in shard] for shard in shards] == [[4, 4], [4, 4], [4, 3]]
    assert sorted(record for shard in shards for some in shard for record in some) == [*range(23)]


def test_too_many_shards_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^method\.num_shards: .*, 6; there are 5 ") as caught:
        deal(5, 2, 3, torch.Generator())
    assert "\n" not in str(caught.value)


# The ensemble


def pair(family):
    return make_ensemble([tiny_classifier(family, seed) for seed in (0, 1)], family)


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_an_ensemble_answers_with_the_mean_probability(family):
    ensemble = pair(family)
    batch = collate_examples(labelled(5, family).examples)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        shards = [shard(**inputs).logits.softmax(-1) for shard in ensemble.shards]
        together = ensemble(**inputs).logits.softmax(-1)
    torch.testing.assert_close(together, (shards[0] + shards[1]) / 2)


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_an_ensemble_is_asked_like_any_classifier(family):
    """Its features are those of the shards side by side; its family and labels are theirs."""
    ensemble, records = pair(family), labelled(5, family)
    answers = classify(ensemble, records, LABELS[family])
    alone = [classify(shard, records, LABELS[family]) for shard in ensemble.shards]
    for answer, first, second in zip(answers, *alone, strict=True):
        mean = (np.exp(first.class_log_probs) + np.exp(second.class_log_probs)) / 2
        np.testing.assert_allclose(np.exp(answer.class_log_probs), mean, atol=1e-5)
        both = np.concatenate([first.features, second.features], axis=1)
        np.testing.assert_allclose(answer.features, both, atol=1e-5)
    loaded = loading.Loaded(ensemble, toy_tokenizer(), "ensemble")
    assert loaded.family == family
    assert loaded.labels == LABELS[family]


def test_an_ensemble_of_one_is_that_model():
    model, examples = tiny_classifier(), labelled(5).examples
    one = make_ensemble([model], SEQUENCE)
    alone, together = (Classifier(some).encode(examples) for some in (model, one))
    torch.testing.assert_close(together.logits, alone.logits.log_softmax(-1))
    torch.testing.assert_close(together.features, alone.features)


def test_an_ensemble_of_models_without_token_types():
    """DistilBERT takes none; the ensemble is given them all the same."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=40,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=32,
        num_labels=3,
    )
    ensemble = make_ensemble([DistilBertForSequenceClassification(config).eval()], SEQUENCE)
    assert Classifier(ensemble).encode(labelled(4).examples).logits.shape == (4, 3)


def save(ensemble, folder):
    loading.save(ensemble, toy_tokenizer(), folder)
    return folder


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_a_saved_ensemble_is_loaded_as_it_was(family, tmp_path):
    ensemble, examples = pair(family), labelled(5, family).examples
    folder = save(ensemble, tmp_path / "model")
    loaded = load_classifier(str(folder))
    assert type(loaded.model) is type(ensemble)
    assert loaded.family == family == folders.family_named(str(folder))
    assert loaded.labels == LABELS[family]
    before, after = (Classifier(some).encode(examples) for some in (ensemble, loaded.model))
    assert torch.equal(before.logits, after.logits)
    assert sorted(path.name for path in folder.glob("shard-*")) == ["shard-0", "shard-1"]


def test_a_shard_is_an_ordinary_model(tmp_path):
    """Each can be loaded alone with nothing but transformers."""
    from transformers import AutoModelForSequenceClassification

    ensemble = pair(SEQUENCE)
    folder = save(ensemble, tmp_path / "model")
    shard = AutoModelForSequenceClassification.from_pretrained(folder / "shard-1")
    assert torch.equal(shard.classifier.weight, ensemble.shards[1].classifier.weight)


def test_an_ensemble_can_be_learnt_further():
    ensemble, examples = pair(SEQUENCE), labelled(5).examples
    encoded = Classifier(ensemble).encode(examples)
    torch.nn.functional.cross_entropy(encoded.logits, encoded.labels).backward()
    assert all(parameter.grad is not None for parameter in ensemble.parameters())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "ensemble.json: cannot be read"),
        ('{"shards": []}', "ensemble.json: shards must name folders"),
        ('{"shards": ["../model"]}', "ensemble.json: shards must name folders"),
        ('{"shards": ["shard-7"]}', "shard-7: no .safetensors weights"),
    ],
)
def test_a_broken_ensemble_is_refused_in_one_line(content, message, tmp_path):
    folder = save(pair(SEQUENCE), tmp_path / "model")
    (folder / "ensemble.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load_classifier(str(folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_shards_are_refused(tmp_path):
    folder = save(pair(SEQUENCE), tmp_path / "model")
    shard = folder / "shard-1"
    (shard / "model.safetensors").rename(shard / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights can run code and are refused"):
        load_classifier(str(folder))
