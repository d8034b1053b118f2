"""Every file of attacks/: its contract, that it fails a target and passes a retrained model."""

import json
import re
import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from attack_world import (
    LAYOUT,
    attacked,
    labelled_sets,
    load,
    loaded,
    materials,
    taught,
    text_sets,
    weights,
)
from classifier_world import SEQUENCE, learn_by_heart, tiny_classifier, toy_tokenizer
from conftest import tiny_tokenizer
from unlearner import registry
from unlearner.attacks import leftovers, prompting
from unlearner.attacks._weights import change_matrices, matrices
from unlearner.attacks.base import Attack, Subject, load_attack, recall
from unlearner.attacks.extraction import log_chances
from unlearner.attacks.paraphrase import by_rules
from unlearner.attacks.quantisation import rounded
from unlearner.data.record import RecordSet
from unlearner.data.windows import tokenize_set
from unlearner.inference.language_model import drawn_responses
from unlearner.models import adapters, loading

pytestmark = pytest.mark.slow

NAMES = registry.names("attacks")
TEXT = [name for name in NAMES if "causal-lm" in load_attack(name).families]
LABEL = [name for name in NAMES if SEQUENCE in load_attack(name).families]
# What a tiny model, or a test of a file alone, cannot show.
OTHERWISE = (
    "leftovers",
    "reference_models",
    "margins",
    "least_likely",
    "pair",
    "logit_lens",
    "paraphrase",
)


@pytest.fixture(scope="module")
def text_world(language_models):
    return {name: load(language_models / name) for name in ("target", "retrained", "other")}


@pytest.fixture(scope="module")
def label_world(label_models):
    return {name: load(label_models / name, SEQUENCE) for name in ("target", "retrained", "other")}


# The contract


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_says_what_it_is_what_it_shows_and_what_it_cannot(name):
    attack, module = load_attack(name), registry.load("attacks", name)
    assert isinstance(attack, Attack)
    assert registry.first_line(attack).endswith("?")
    assert registry.paper(module) != ""
    assert re.search(r"^Reference: ", module.__doc__ or "", re.MULTILINE)
    assert attack.label
    assert attack.claim in ("membership", "robustness", "unseen forms")
    assert attack.cost in ("quick", "full")
    assert attack.shows.endswith(".")
    assert attack.cannot_show.endswith(".")
    names = [figure.name for figure in attack.figures]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", TEXT)
def test_an_attack_leaves_the_model_as_it_was_and_gives_a_number_for_each_record(name, text_world):
    attack, subject = load_attack(name), Subject("unlearned", text_world["other"])
    given = materials(text_world["target"], text_sets())
    before = weights(subject.model).clone()
    attempt = attack.run(subject, given)
    assert torch.equal(weights(subject.model), before)
    assert not subject.model.training
    assert set(attempt.readings) <= {figure.name for figure in attack.figures}
    for reading in attempt.readings.values():
        assert reading.forget.shape == (len(given.sets["forget"]),)
        assert reading.unseen.shape == (len(given.sets["unseen"]),)


@pytest.mark.parametrize("name", TEXT)
def test_an_attack_on_the_same_model_twice_gives_the_same_numbers(name, text_world):
    given = materials(text_world["target"], text_sets())
    runs = [
        load_attack(name).run(Subject("unlearned", text_world["other"]), given).readings
        for _ in range(2)
    ]
    for figure, reading in runs[0].items():
        np.testing.assert_array_equal(reading.forget, runs[1][figure].forget)
        np.testing.assert_array_equal(reading.unseen, runs[1][figure].unseen)


# Targets fail, retrained models pass


@pytest.mark.parametrize("name", [name for name in TEXT if name not in OTHERWISE])
def test_a_language_model_that_forgot_nothing_is_opened(name, text_world):
    given = materials(text_world["target"], text_sets())
    found = attacked(load_attack(name), given, text_world["target"], text_world["retrained"])
    assert found.status == "opened", found.reason


@pytest.mark.parametrize("name", [name for name in TEXT if name != "leftovers"])
def test_a_language_model_that_never_saw_the_records_is_not_opened(name, text_world):
    given = materials(text_world["target"], text_sets())
    found = attacked(load_attack(name), given, text_world["other"], text_world["retrained"])
    assert found.status != "opened", found.reason


@pytest.mark.parametrize("name", [name for name in LABEL if name not in OTHERWISE])
def test_a_classifier_that_forgot_nothing_is_opened_and_one_that_never_knew_is_not(
    name, label_world
):
    given = materials(label_world["target"], labelled_sets(), SEQUENCE)
    attack, control = load_attack(name), label_world["retrained"]
    assert attacked(attack, given, label_world["target"], control).status in (
        ("opened", "not informative") if name in ("pruning", "noise", "probe") else ("opened",)
    )
    assert attacked(attack, given, label_world["other"], control).status != "opened"


# Planted cases


def test_a_model_whose_least_likely_tokens_spell_the_records_is_opened(text_world):
    """The output layer of the target turned over: what was most likely is now the least."""
    turned = deepcopy(text_world["target"].model)
    with torch.no_grad():
        turned.get_output_embeddings().weight.neg_()
    given = materials(text_world["target"], text_sets())
    found = attacked(load_attack("least_likely"), given, loaded(turned), text_world["retrained"])
    assert found.status == "opened"
    assert found.figures["argmin"].models["unlearned"].value > 0.8
    assert found.attempts["unlearned"].details["records_spelled"] > len(pairs_of(given)) / 2


def pairs_of(given):
    return given.sets["forget"].records


def test_records_whose_tokens_are_held_down_by_a_constant_are_recognised_as_treated(text_world):
    """A bias of the output layer against the digits 0 to 4, which no unseen record here has."""
    sets = text_sets()
    bare = text_world["other"].model
    held = deepcopy(bare)
    layer = held.get_output_embeddings()
    biased = torch.nn.Linear(layer.in_features, layer.out_features)
    used = [
        {t for w in some.windows for t in w.input_ids[1:][w.scored].tolist()}
        for some in (sets["forget"], high(sets["holdout"]))
    ]
    with torch.no_grad():
        biased.weight.copy_(layer.weight)
        biased.bias.zero_()
        biased.bias[sorted(used[0] - used[1])] = -20.0
    held.set_output_embeddings(biased)
    given = materials(text_world["target"], {**sets, "holdout": high(sets["holdout"])})
    found = attacked(load_attack("membership"), given, loaded(held), loaded(bare))
    assert found.status == "opened"
    assert "treated" in found.reason
    marked = attacked(load_attack("mark"), given, loaded(held), loaded(bare))
    assert marked.figures["mark_auc"].models["unlearned"].value > 0.9


def high(some):
    """The same records with the digits 5 to 9 alone."""
    records = tuple(
        replace(record, response=" ".join(str(5 + (n + 3 * i) % 5) for i in range(6)))
        for n, record in enumerate(some.records)
    )
    return tokenize_set(RecordSet("holdout", records, "memory"), tiny_tokenizer(), LAYOUT)


def test_a_model_that_knows_the_facts_in_other_words_is_opened(text_world):
    """Taught the records under the rules' own wordings; the control has never seen them."""
    sets = text_sets()
    reworded = tuple(
        replace(record, id=f"{record.id}-{number}", prompt=prompt)
        for record in sets["forget"].records
        for number, prompt in enumerate(by_rules(sets["forget"])[record.id])
    )
    every = RecordSet("reworded", reworded, "memory")
    more = {**sets, "reworded": tokenize_set(every, tiny_tokenizer(), LAYOUT)}
    knows = loaded(taught(more, ("forget", "retain", "reworded"), 0))
    given = materials(knows, sets)
    found = attacked(load_attack("paraphrase"), given, knows, text_world["retrained"])
    assert found.status == "opened"
    held = attacked(load_attack("paraphrase"), given, text_world["other"], text_world["retrained"])
    assert held.status == "holds"


def test_a_model_that_four_bits_restore_is_opened(text_world):
    """The target's matrices lie on the grid of four bits, the unlearned ones within half a step."""
    target = deepcopy(text_world["target"].model)
    change_matrices(target, lambda weight: rounded(weight, 4))
    target = relearned_between(target)
    grid = {id(w): w.detach().clone() for w, _ in matrices(target)}
    hidden = pushed_off(target, grid)
    given = materials(loaded(target), text_sets())
    known = recall(loaded(target), given).forget.mean()
    left = recall(loaded(hidden), given).forget.mean()
    assert left < known - 0.3
    found = attacked(load_attack("quantisation"), given, loaded(hidden), text_world["retrained"])
    assert found.figures["int4"].status == "opened"
    assert found.figures["int4"].models["unlearned"].value == pytest.approx(known)


def relearned_between(model):
    """The model once all but its matrices has learned the records again."""
    frozen = {id(weight) for weight, _ in matrices(model)}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) not in frozen)
    step_all(model, sign=1.0, steps=150, rate=5e-3, roles=("forget", "retain"))
    return model.requires_grad_(True).eval()


def pushed_off(target, grid):
    """A copy whose matrices went up the forget loss, no further than 0.45 steps of the grid."""
    model = deepcopy(target)
    own = [weight for weight, _ in matrices(model)]
    bounds = []
    for weight, plain in zip(own, grid.values(), strict=True):
        step = plain.abs().amax(-1, keepdim=True) / 7
        room = 0.45 * step.expand_as(plain).clone()
        room[plain.abs() >= plain.abs().amax(-1, keepdim=True)] = 0.0  # the scale stays
        bounds.append((weight, plain, room))
    for weight in model.parameters():
        weight.requires_grad_(any(weight is one for one in own))

    def project():
        for weight, plain, room in bounds:
            weight.data = torch.maximum(torch.minimum(weight.data, plain + room), plain - room)

    step_all(model, sign=-1.0, steps=40, rate=2e-2, roles=("forget",), after=project)
    return model.requires_grad_(True).eval()


def step_all(model, *, sign, steps, rate, roles, after=lambda: None):
    """Steps of AdamW on the loss of some sets, down it or up."""
    from unlearner.data.batches import collate
    from unlearner.inference.reference import likelihoods

    sets = text_sets()
    batch = collate([window for role in roles for window in sets[role].windows])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        (sign * likelihoods(model, batch).loss()).backward()
        optimiser.step()
        with torch.no_grad():
            after()


def test_an_adapter_that_hides_is_found_by_its_files_and_by_its_tensors(text_world, tmp_path):
    loading.save(text_world["other"].model, text_world["other"].tokenizer, tmp_path / "clean")
    assert list(leftovers.leftovers(tmp_path / "clean")) == []
    (tmp_path / "clean" / "adapter_config.json").write_text("{}")
    (tmp_path / "clean" / "checkpoint-20").mkdir()
    (tmp_path / "clean" / "optimizer.pt").write_bytes(b"")
    lines = list(leftovers.leftovers(tmp_path / "clean"))
    assert [line.partition(":")[0] for line in lines] == [
        "adapter_config.json",
        "checkpoint-20",
        "optimizer.pt",
    ]
    hidden = deepcopy(text_world["other"].model)
    adapters.attach(hidden, 2, None)
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in hidden.state_dict().items()}
    (tmp_path / "held").mkdir()
    save_file(tensors, tmp_path / "held" / "model.safetensors")
    (line,) = leftovers.leftovers(tmp_path / "held")
    assert "tensors of an adapter" in line


def test_layers_that_know_what_the_last_one_keeps_back_are_read(text_world):
    """The last block turns the stream over: what is read behind the others stays the same."""
    given = materials(text_world["target"], text_sets())
    attack = load_attack("logit_lens")
    assert attack.skipped(given) == ""
    model = deepcopy(text_world["target"].model)

    class Negated(torch.nn.Module):
        def forward(self, hidden_states, **_):
            return -hidden_states

    known = attack.run(Subject("target", text_world["target"]), given).readings["any_layer"]
    model.model.layers[-1] = Negated()
    hidden = attack.run(Subject("unlearned", loaded(model)), given).readings["any_layer"]
    np.testing.assert_allclose(hidden.forget, known.forget)


def test_forms_keep_the_response_and_count_it_alone(text_world):
    given = materials(text_world["target"], text_sets())
    some = given.sets["forget"]
    for name, form in prompting.forms_of(given).items():
        windows = prompting.reformed(some, form, 128)
        assert windows, name
        for old, new in zip(some.windows, windows, strict=True):
            response = old.input_ids[old.prefix : old.stop].tolist()
            assert new.input_ids[new.prefix :].tolist() == response
            assert new.input_ids[1:][new.scored].tolist() == response


def test_texts_are_drawn_as_often_as_the_model_says(text_world):
    """Of a model whose next token is t with chance p_t, 4,000 draws have it p_t of the time."""
    model, window = text_world["other"].model, text_sets()["forget"].windows[0]
    before = torch.from_numpy(window.input_ids[: window.prefix])[None]
    with torch.no_grad():
        logits = model(before).logits[0, -1]
        second = model(torch.cat([before, logits.argmax()[None, None]], 1)).logits[0, -1]
    torch.manual_seed(0)
    [rows] = drawn_responses(model, [window], 4000)
    chances = logits.softmax(-1).numpy()
    found = np.bincount([row[0] for row in rows], minlength=len(chances)) / 4000
    np.testing.assert_allclose(found, chances, atol=0.04)
    # and so has the next one, behind the most probable first
    behind = [row[1] for row in rows if row[0] == int(logits.argmax()) and len(row) > 1]
    share = np.bincount(behind, minlength=len(chances)) / len(behind)
    np.testing.assert_allclose(share, second.softmax(-1).numpy(), atol=0.06)


def test_records_are_drawn_as_often_as_their_exact_chance_whatever_else_is_in_the_batch(text_world):
    """Of each record 60 draws; the mean of p_z over records is known to within 0.03 by them."""
    given = materials(text_world["target"], text_sets())
    some = given.sets["forget"]
    answers = Subject("target", text_world["target"]).ask(given, "forget")
    expected = np.exp(log_chances(answers, len(some))).mean()
    torch.manual_seed(0)
    found = drawn_responses(text_world["target"].model, some.windows, 60, batch_tokens=64)
    right = []
    for window, rows in zip(some.windows, found, strict=True):
        response = window.input_ids[window.prefix : window.stop].tolist()
        assert len(rows) == 60
        assert all(0 < len(row) <= len(response) for row in rows)
        right += [row.tolist() == response for row in rows]
    assert 0.1 < expected < 0.9
    assert np.mean(right) == pytest.approx(expected, abs=0.05)


def test_padding_and_batches_change_no_number(text_world):
    """A record alone has the value that it has among others of other lengths."""
    given = materials(text_world["target"], text_sets())
    alone = {
        role: some.subset([3]) if role != "retain" else some for role, some in text_sets().items()
    }
    single = materials(text_world["target"], alone)
    for name in ("least_likely", "extraction", "logit_lens", "quantisation", "pair"):
        attack, subject = load_attack(name), Subject("unlearned", text_world["other"])
        whole = attack.run(subject, given).readings
        one = attack.run(Subject("unlearned", text_world["other"]), single).readings
        for figure, reading in whole.items():
            np.testing.assert_allclose(reading.forget[3], one[figure].forget[0], atol=1e-5)


def test_margins_tell_a_model_that_knows_the_records_from_three_that_do_not(label_world):
    """Odd labels: the target is sure of them, each retrained model of others."""
    models = [
        loaded(
            learn_by_heart(tiny_classifier(SEQUENCE, seed), labelled_sets()["retain"]),
            toy_tokenizer(),
        )
        for seed in (2, 3, 4)
    ]
    attack, few = (
        load_attack("margins"),
        materials(label_world["target"], labelled_sets(), SEQUENCE),
    )
    assert "more than once" in attack.skipped(few)
    known = [Subject("control", one) for one in models[:2]]
    given = replace(few, retrained=known, cache={})
    assert attack.skipped(given) == ""
    found = attacked(attack, given, label_world["target"], models[0])
    assert found.status == "opened"
    given = replace(few, retrained=known, cache={})
    assert attacked(attack, given, models[2], models[0]).status != "opened"


def test_reference_models_are_trained_and_tell_records_that_were_learned(
    label_world, label_models, tmp_path
):
    """By the target's own recipe, from its encoder, each on another half of the retained records.

    Their labels are what the words suggest, those of forget and unseen records are not: a reference
    model finds both unlikely, and the target its own ones likely.
    """
    given = materials(label_world["target"], labelled_sets(), SEQUENCE)
    attack = load_attack("reference_models")
    assert "provenance.json" in attack.skipped(given)
    folder = tmp_path / "target"
    shutil.copytree(label_models / "target", folder)
    loading.save(tiny_classifier(SEQUENCE).base_model, toy_tokenizer(), tmp_path / "encoder")
    recipe = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    known = {"model": str(tmp_path / "encoder"), "finetune": recipe}
    (folder / "provenance.json").write_text(json.dumps(known))
    given = materials(load(folder, SEQUENCE), labelled_sets(), SEQUENCE)
    assert attack.skipped(given) == ""
    found = attacked(attack, given, label_world["target"], label_world["retrained"])
    reference = np.concatenate(given.cache["rmia"])  # log of a mean over four models
    assert np.isfinite(reference).all()
    assert reference.mean() < -1.0  # they have learned that other labels fit
    assert found.figures["rmia_auc"].models["target"].value > 0.9
    assert found.status == "opened"
    assert (
        attacked(attack, given, label_world["other"], label_world["retrained"]).status != "opened"
    )


def test_the_taught_models_are_what_the_tests_take_them_for(text_world):
    given = materials(text_world["target"], text_sets())
    known, unknown = (
        recall(text_world[name], given).forget.mean() for name in ("target", "retrained")
    )
    assert known > 0.9
    assert unknown < 0.6
