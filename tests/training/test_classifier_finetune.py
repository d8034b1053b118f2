"""Learning a classifier, and learning it again without the records in the same way."""

import json

import pytest
import torch

from classifier_world import (
    LABELS,
    SEQUENCE,
    TOKEN,
    labelled,
    mean_loss,
    save_encoder,
    tiny_classifier,
    tiny_trainer,
    toy_tokenizer,
)
from unlearner.cli.app import run
from unlearner.errors import UserError
from unlearner.models import loading
from unlearner.models.heads import Classifier
from unlearner.models.loading import load_classifier, load_with_new_head
from unlearner.training.finetune import (
    ClassifierFinetuneSettings,
    Until,
    finetune_model,
    learn,
    read_recipe,
    share_of_peak,
)

torch.set_num_threads(1)

FAST = ClassifierFinetuneSettings(learning_rate=3e-3, batch_size=8, epochs=12)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def taught(family, records, settings=FAST, until=None, **trainer):
    some = tiny_trainer(**trainer)
    torch.manual_seed(0)
    model = tiny_classifier(family)
    return finetune_model(model, toy_tokenizer(), records, settings, some, until), some


# Learning


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_records_are_learned(family):
    """12 epochs of 24 / 8 = 3 steps; the loss falls below a quarter."""
    records = labelled(24, family)
    before = mean_loss(tiny_classifier(family), records)
    result, trainer = taught(family, records)
    assert mean_loss(result.model, records) < before / 4
    assert (result.epochs, result.value, result.reached) == (12, None, None)
    assert trainer.steps == 36
    assert trainer.tokens == 12 * records.num_tokens


def test_each_epoch_shows_every_record_once_and_with_dropout(monkeypatch):
    """10 records in batches of 4: 3 steps, 3 epochs."""
    seen = []
    real = Classifier.encode

    def encode(self, examples, views=1):
        seen.append(([example.record for example in examples], self.model.training))
        return real(self, examples, views)

    monkeypatch.setattr(Classifier, "encode", encode)
    settings = ClassifierFinetuneSettings(learning_rate=1e-4, batch_size=4, epochs=3)
    taught(SEQUENCE, labelled(10), settings)
    assert all(training for _, training in seen)
    for epoch in range(3):
        shown = [number for some, _ in seen[3 * epoch : 3 * epoch + 3] for number in some]
        assert sorted(shown) == list(range(10))


def test_a_goal_ends_it_at_the_first_epoch_that_reaches_it():
    records = labelled(24)
    result, trainer = taught(SEQUENCE, records, until=Until.parse("accuracy>=0.9"))
    assert result.reached
    assert result.value is not None
    assert result.value >= 0.9
    assert result.epochs == len(trainer.rounds) < 12
    assert [line["round"] for line in trainer.rounds] == list(range(1, result.epochs + 1))
    assert [line["value"] >= 0.9 for line in trainer.rounds] == [False] * (result.epochs - 1) + [
        True
    ]


def test_a_goal_that_is_missed_is_told():
    settings = ClassifierFinetuneSettings(learning_rate=1e-6, batch_size=8, epochs=2)
    result, _ = taught(SEQUENCE, labelled(24, odd=True), settings, Until.parse("accuracy>=0.99"))
    assert (result.epochs, result.reached) == (2, False)


def test_a_goal_that_the_records_cannot_have_is_refused():
    """No label is "O", so that there are no entities to find."""
    model = tiny_classifier(TOKEN)
    model.config.id2label[0] = "noun"
    with pytest.raises(UserError, match=r"^--until: f1_entity cannot be measured on these records"):
        finetune_model(
            model,
            toy_tokenizer(),
            labelled(4, TOKEN),
            FAST,
            tiny_trainer(),
            Until.parse("f1_entity>=1"),
        )


def test_the_rate_rises_over_a_twentieth_of_the_steps_and_falls_to_nothing():
    """40 steps of peak 1e-3: 2 to warm up, step 21 of 38 to go is half the way down."""
    trainer = tiny_trainer()
    settings = ClassifierFinetuneSettings(learning_rate=1e-3, batch_size=4, epochs=40)
    take_epoch = learn(tiny_classifier(), settings, trainer, labelled(4).examples)
    rates = []
    for _ in range(40):
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        take_epoch()
    assert rates == pytest.approx([1e-3 * share_of_peak(step, 40) for step in range(40)])
    assert rates[:3] == pytest.approx([0.5e-3, 1e-3, 1e-3])
    assert rates[21] == pytest.approx(0.5e-3)
    assert trainer.optimiser.param_groups[0]["lr"] == 0.0


def test_the_same_seed_teaches_the_same():
    records, short = labelled(12), FAST.model_copy(update={"epochs": 2})
    first, again, other = (taught(SEQUENCE, records, short, seed=s)[0].model for s in (1, 1, 2))
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))


# Heads


def test_a_new_head_bears_the_labels_and_the_encoder_stays(encoder):
    loaded = load_with_new_head(encoder, SEQUENCE, ("x", "y"))
    assert loaded.labels == ("x", "y")
    assert loaded.model.config.label2id == {"x": 0, "y": 1}
    assert loaded.family == SEQUENCE
    body = load_with_new_head(encoder, TOKEN, LABELS[TOKEN]).model.bert.encoder.state_dict()
    for name, tensor in loaded.model.bert.encoder.state_dict().items():
        assert torch.equal(tensor, body[name])


def test_a_classifier_is_no_encoder_to_begin_with(tmp_path):
    """What it has learned would stay, and a model "retrained" from it has seen the records."""
    loading.save(tiny_classifier(), toy_tokenizer(), tmp_path / "three")
    with pytest.raises(UserError, match="name the pretrained encoder"):
        load_with_new_head(str(tmp_path / "three"), SEQUENCE, ("x", "y", "z", "w"))


def test_an_encoder_that_lacks_more_than_a_head_is_refused(tmp_path, encoder):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    load_with_new_head(encoder, SEQUENCE, ("x", "y")).model.base_model.save_pretrained(broken)
    toy_tokenizer().save_pretrained(broken)
    weights = load_file(broken / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1." not in name}
    save_file(kept, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="broken"):
        load_with_new_head(str(broken), SEQUENCE, ("x", "y"))


# Recipes


def test_a_recipe_is_read_as_it_was_written(tmp_path):
    (tmp_path / "provenance.json").write_text(
        json.dumps({"model": "bert-base-uncased", "finetune": {"epochs": 3}, "seconds": 1.0})
    )
    recipe = read_recipe(str(tmp_path))
    assert recipe is not None
    assert (recipe.pretrained, recipe.finetune) == ("bert-base-uncased", {"epochs": 3})


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"model": "x"}', '{"model": "x", "finetune": 3}']
)
def test_a_model_without_a_readable_recipe_has_none(content, tmp_path):
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    assert read_recipe(str(tmp_path)) is None


# Commands


def rows(records, *, leave_out=()):
    return "".join(
        json.dumps({"text": record.text, "label": record.label}) + "\n"
        for record in records.records
        if record.label not in leave_out
    )


def finetuned(model, records, output, *more):
    settings = ["epochs=2", "batch_size=8", "learning_rate=3e-3"]
    line = ["finetune", str(model), "--records", str(records), "--output", str(output)]
    return run([*line, "--quiet", *settings, *more])


def test_a_retrained_model_has_the_labels_of_the_target(tmp_path, encoder):
    """Its records lack the class that is to go: by themselves they would make another head."""
    records = labelled(12)
    (tmp_path / "all.jsonl").write_text(rows(records))
    (tmp_path / "rest.jsonl").write_text(rows(records, leave_out=["animal"]))
    assert finetuned(encoder, tmp_path / "all.jsonl", tmp_path / "target") == 0
    like = ("--labels-of", str(tmp_path / "target"))
    assert finetuned(encoder, tmp_path / "rest.jsonl", tmp_path / "retrained", *like) == 0
    assert finetuned(encoder, tmp_path / "rest.jsonl", tmp_path / "alone") == 0
    target, retrained, alone = (
        load_classifier(str(tmp_path / name)) for name in ("target", "retrained", "alone")
    )
    assert retrained.labels == target.labels == ("animal", "colour", "place")
    assert alone.labels == ("colour", "place")
    recipe = read_recipe(str(tmp_path / "target"))
    assert recipe is not None
    assert recipe.pretrained == encoder
    assert recipe.finetune["epochs"] == 2
    assert read_recipe(str(tmp_path / "retrained")) == recipe


def test_a_head_drawn_anew_follows_from_the_seed(tmp_path, encoder):
    (tmp_path / "all.jsonl").write_text(rows(labelled(12)))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        seeded = f"training.seed={seed}"
        assert finetuned(encoder, tmp_path / "all.jsonl", tmp_path / name, seeded) == 0
    heads = [load_classifier(str(tmp_path / name)).model.classifier.weight for name in "abc"]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
