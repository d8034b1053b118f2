"""The two parts of a classifier, on tiny models of many architectures with spread weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers import AutoModelForTokenClassification as ForTokens

from classifier_world import SEQUENCE, TOKEN, tiny_classifier
from unlearner.data.labelled import Example, collate_examples
from unlearner.errors import UserError
from unlearner.models.ensemble import make_ensemble
from unlearner.models.heads import Classifier, padding_id

torch.set_num_threads(1)

VOCAB, LABELS = 60, 3
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = SHAPE | {"intermediate_size": 64, "max_position_embeddings": 40}
ENCODERS = {
    "bert": BERT,
    "roberta": BERT | {"type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "deberta-v2": BERT
    | {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pooler_hidden_size": 32,
    },
    "electra": BERT | {"embedding_size": 16},
    "modernbert": BERT
    | {
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
    },
}
DECODER = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
KINDS = {SEQUENCE: AutoModelForSequenceClassification, TOKEN: ForTokens}


def spread(model):
    """Weights wider than the initial ones, so that a fault of padding or position shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def encoder(architecture, family, **changes):
    torch.manual_seed(0)
    shape = ENCODERS.get(architecture, DECODER) | {"num_labels": LABELS} | changes
    return spread(
        KINDS[family].from_config(
            AutoConfig.for_model(architecture, vocab_size=VOCAB, **shape), dtype=torch.float32
        )
    )


def some_examples(family, lengths=(12, 5, 9, 5, 17)):
    """Tokens drawn at random behind token 2; every second one of a tagged example is labelled."""
    draw, found = np.random.default_rng(0), []
    for number, length in enumerate(lengths):
        tokens = np.array([2, *draw.integers(10, VOCAB, size=length - 1)])
        positions = np.arange(1, length, 2) if family == TOKEN else np.array([0])
        labels = draw.integers(LABELS, size=len(positions))
        types = np.zeros(length, dtype=np.int64)
        found.append(Example(number, f"e{number}", tokens, types, positions, labels))
    return found


@pytest.fixture(params=[SEQUENCE, TOKEN])
def family(request):
    return request.param


@pytest.fixture(params=sorted(ENCODERS))
def architecture(request):
    return request.param


@pytest.fixture
def model(architecture, family):
    return encoder(architecture, family)


def batch_of(model, examples):
    return collate_examples(examples, padding=padding_id(model))


def test_the_last_linear_map_of_the_features_gives_the_logits(model, family):
    examples = some_examples(family)
    classifier = Classifier(model)
    logits, features = classifier(batch_of(model, examples))
    assert logits.shape == (sum(len(example.labels) for example in examples), LABELS)
    assert features.shape[1] == 32
    torch.testing.assert_close(classifier.linear(features), logits)
    assert logits.std() > 0.1


def test_logits_are_those_of_the_model_asked_about_each_example_alone(model, family):
    """At each labelled position, and at the text's own answer; padding changes nothing."""
    examples = some_examples(family)
    logits, features = Classifier(model)(batch_of(model, examples))
    wide = batch_of(model, examples)
    for name, fill in (
        ("input_ids", padding_id(model)),
        ("attention_mask", 0),
        ("token_type_ids", 0),
    ):
        wide[name] = pad(wide[name], (0, 7), value=fill)
    padded, padded_features = Classifier(model)(wide)
    torch.testing.assert_close(padded, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded_features, features, rtol=1e-4, atol=1e-5)
    alone = []
    for example in examples:
        with torch.no_grad():
            ids = torch.from_numpy(example.input_ids)[None]
            said = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        alone.append(said[torch.from_numpy(example.positions)] if family == TOKEN else said[None])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_examples_encoded_in_groups_are_as_if_encoded_one_by_one(model, family, monkeypatch):
    """In the order of the examples, view after view, whatever the groups."""
    examples = some_examples(family)
    classifier = Classifier(model)
    singles = [classifier.encode([example]) for example in examples]
    for cost in (0, 10**6):  # of a pass: every length by itself, or all together
        monkeypatch.setattr("unlearner.models.heads.PASS_TOKENS", cost)
        for whole, parts in zip(
            classifier.encode(examples, 2), zip(*singles, strict=True), strict=True
        ):
            torch.testing.assert_close(whole, torch.cat([*parts, *parts]), rtol=1e-4, atol=1e-5)


def test_a_gradient_through_the_features_reaches_the_body(model, family):
    encoded = Classifier(model).encode(some_examples(family))
    encoded.features.square().sum().backward()
    embeddings = model.get_input_embeddings().weight.grad
    assert embeddings is not None
    assert (embeddings != 0).any()


def test_being_looked_at_leaves_the_model_as_it_was(model, family):
    model.train()
    classifier = Classifier(model)
    assert model.training
    classifier.encode(some_examples(family))
    hooks = [*classifier.linear._forward_hooks, *classifier.linear._forward_pre_hooks]
    assert hooks == []


# Which vector


def test_first_and_mean_are_of_the_last_hidden_states(architecture):
    """By hand from the body's own output; the mean is over the text's tokens, not the padding."""
    model, examples = encoder(architecture, SEQUENCE), some_examples(SEQUENCE)
    batch = batch_of(model, examples)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = model.base_model(**inputs).last_hidden_state
    expected = {
        "first": hidden[:, 0],
        "mean": torch.stack([hidden[row, : len(one)].mean(0) for row, one in enumerate(examples)]),
    }
    said, _ = Classifier(model)(batch)
    for vector, wanted in expected.items():
        logits, features = Classifier(model, vector)(batch)
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, said)


def test_the_second_text_of_a_pair_is_told_from_the_first():
    """Of a BERT; and where all types are 0, giving them or leaving them out is the same."""
    model, (example, *_) = encoder("bert", SEQUENCE), some_examples(SEQUENCE)
    types = np.array([0] * 6 + [1] * 6)
    for given in (types, 0 * types):
        said = Classifier(model).encode([replace(example, token_type_ids=given)]).logits
        with torch.no_grad():
            ids, kinds = (torch.from_numpy(some)[None] for some in (example.input_ids, given))
            expected = model(input_ids=ids, token_type_ids=kinds).logits
        torch.testing.assert_close(said, expected)


def test_the_vector_of_a_word_is_its_hidden_state_whatever_is_asked_for():
    model, batch = encoder("bert", TOKEN), collate_examples(some_examples(TOKEN))
    for vector in ("first", "mean"):
        torch.testing.assert_close(Classifier(model, vector)(batch), Classifier(model)(batch))


def test_the_head_is_found_among_maps_of_the_same_width():
    """A body of 4 units and 4 labels is full of maps with 4 outputs."""
    model = tiny_classifier(
        hidden_size=4,
        num_attention_heads=2,
        intermediate_size=4,
        id2label={n: str(n) for n in range(4)},
        label2id={str(n): n for n in range(4)},
    )
    assert Classifier(model).linear is model.classifier


# Decoders


@pytest.mark.parametrize("padding", [0, 9])
def test_a_decoder_answers_at_the_last_token(padding):
    """Also one whose padding is among the first tokens of the vocabulary.

    GPT-2 has no embedding of which text a token is of, but takes such ids for words.
    """
    model, examples = encoder("gpt2", SEQUENCE, pad_token_id=padding), some_examples(SEQUENCE)
    classifier = Classifier(model)
    logits, features = classifier(batch_of(model, examples))
    torch.testing.assert_close(classifier.linear(features), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier.encode(examples).logits, logits, rtol=1e-4, atol=1e-5)
    for row, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids)[None]
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[0, -1]
        torch.testing.assert_close(features[row], hidden, rtol=1e-4, atol=1e-5)


# Refusals and ensembles


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_logits_that_no_linear_map_gives_are_refused(architecture):
    model = encoder(architecture, SEQUENCE)
    model.classifier = nn.Sequential(model.classifier, nn.Tanh())
    with pytest.raises(UserError, match=r"^MODEL: the logits of .* are not the output") as caught:
        Classifier(model)
    assert "\n" not in str(caught.value)


def test_a_head_without_any_linear_map_is_refused():
    model = encoder("bert", SEQUENCE)
    model.classifier = nn.Bilinear(32, 32, LABELS)
    model.classifier.forward = lambda states: states[..., :LABELS]
    with pytest.raises(UserError, match="use an architecture with a linear classification head"):
        Classifier(model)


def test_an_ensemble_has_the_features_of_its_shards_side_by_side(family):
    shards = [tiny_classifier(family, seed) for seed in (0, 1)]
    classifier = Classifier(make_ensemble(shards, family))
    batch = collate_examples(
        [
            Example(
                0, "e", np.arange(2, 8), np.zeros(6, dtype=np.int64), np.array([0]), np.array([1])
            )
        ]
    )
    logits, features = classifier(batch)
    parts = [Classifier(shard)(batch) for shard in shards]
    torch.testing.assert_close(features, torch.cat([read for _, read in parts], -1))
    mean = torch.stack([said.softmax(-1) for said, _ in parts]).mean(0)
    torch.testing.assert_close(logits.exp(), mean)
