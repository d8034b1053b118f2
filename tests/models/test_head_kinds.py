"""Heads of many architectures: what they answer about a text is the same in any company."""

import inspect

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from classifier_world import SEQUENCE, TOKEN
from unlearner.data.labelled import Example, collate_examples
from unlearner.errors import UserError
from unlearner.models.heads import Classifier, end_token, has_dropout, hidden_size, padding_id

VOCAB, LABELS, END = 60, 3, 2
# Sizes by all the names that architectures have for them; each takes those that it knows.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(
        ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layer"), 2
    ),
    **dict.fromkeys(("num_decoder_layers", "n_layers", "num_key_value_heads"), 2),
    **dict.fromkeys(
        ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"), 4
    ),
    **dict.fromkeys(("num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("d_inner", "hidden_dim", "ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("d_kv", "d_head", "head_dim"), 8),
    **dict.fromkeys(("num_self_attention_heads", "num_cross_attention_heads"), 4),
    **dict.fromkeys(("num_latents", "entity_vocab_size", "entity_emb_size"), 8),
    "d_latents": 32,
    "num_self_attends_per_block": 1,
    "true_hidden_size": 32,
    "intra_bottleneck_size": 32,
    "decoder_start_token_id": END,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END,
    "cls_token_id": 3,
    "sep_token_id": END,
}
BY_END = ("bart", "mbart", "mt5", "mvp", "plbart", "t5", "umt5")
ENCODERS = [
    "albert",
    "bert",
    "camembert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "eurobert",
    "flaubert",
    "luke",
    "modernbert",
    "roberta",
    "xlm-roberta",
    "xlnet",
]
READ_PADDING = ("convbert", "fnet", "funnel", "mobilebert", "nystromformer", "yoso")
DECODERS = [
    "gemma",
    "gemma2",
    "gpt2",
    "llama",
    "mistral",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
]
OF_TEXTS = (*BY_END, *ENCODERS, "perceiver", *READ_PADDING, *DECODERS)
OF_WORDS = ("mt5", "t5", "umt5", *ENCODERS, *READ_PADDING, "gpt2", "llama", "qwen3")
BOTH = [(name, SEQUENCE) for name in OF_TEXTS] + [(name, TOKEN) for name in OF_WORDS]


def tiny(architecture, family, **changes):
    config = type(AutoConfig.for_model(architecture))
    known = {*inspect.signature(config.__init__).parameters, *config.attribute_map}
    given = {name: size for name, size in (SIZES | changes).items() if name in known}
    if "t5" in architecture:
        given["decoder_start_token_id"] = 0
    torch.manual_seed(0)
    auto = AutoModelForSequenceClassification
    auto = AutoModelForTokenClassification if family == TOKEN else auto
    config = config(vocab_size=VOCAB, num_labels=LABELS, **given)
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


def examples(family, lengths=(12, 5, 9, 5, 17), ends=None):
    """Texts that end with the end-of-text token, which some hold more than once."""
    draw, found = np.random.default_rng(0), []
    for number, length in enumerate(lengths):
        ids = np.array([3, *draw.integers(10, VOCAB, size=length - 2), END])
        ids[1 : 1 + (ends or {}).get(number, 0)] = END
        at = np.arange(1, length - 1, 2) if family == TOKEN else np.array([0])
        labels = draw.integers(LABELS, size=len(at))
        found.append(Example(number, f"e{number}", ids, np.zeros_like(ids), at, labels))
    return found


@torch.no_grad()
def alone(model, some, family):
    """What the model itself says of each example by itself, without a batch."""
    found = []
    for example in some:
        logits = model(input_ids=torch.from_numpy(example.input_ids)[None]).logits[0]
        found.append(
            logits[torch.from_numpy(example.positions)] if family == TOKEN else logits[None]
        )
    return torch.cat(found)


@pytest.mark.parametrize(("architecture", "family"), BOTH)
def test_logits_in_a_batch_are_those_of_each_example_alone(architecture, family):
    """Padded to different lengths, and the head's own map gives them from the features."""
    model, some = tiny(architecture, family), examples(family)
    classifier = Classifier(model)
    logits, features = classifier(collate_examples(some, padding=padding_id(model)))
    assert logits.std() > 0.05
    near = {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(logits, alone(model, some, family), **near)
    torch.testing.assert_close(classifier.linear(features), logits, **near)
    again = classifier.encode(some, 2)
    torch.testing.assert_close(again.logits, torch.cat([logits, logits]), **near)
    torch.testing.assert_close(again.features, torch.cat([features, features]), **near)
    assert classifier.head.takes_padding == (
        architecture not in READ_PADDING and (architecture, family) != ("xlnet", SEQUENCE)
    )


@pytest.mark.parametrize("architecture", BY_END)
def test_texts_with_different_numbers_of_end_tokens_go_in_one_batch(architecture):
    """A pair of texts has more of them than a single one, and the model itself stacks them."""
    model, some = tiny(architecture, SEQUENCE), examples(SEQUENCE, ends={0: 1, 3: 2})
    assert end_token(model) == END
    batch = collate_examples(some, padding=padding_id(model))
    with pytest.raises(ValueError, match="same number of <eos>"):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    logits, _ = Classifier(model)(batch)
    torch.testing.assert_close(logits, alone(model, some, SEQUENCE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "family"), [("bert", SEQUENCE), ("t5", TOKEN)])
def test_other_models_ask_for_no_end_token(architecture, family):
    assert end_token(tiny(architecture, family)) is None


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_decoder_whose_padding_ends_texts_has_the_features_of_its_logits(architecture):
    """It answers at the last token that is not the padding's, which the end of a text then is."""
    model, some = tiny(architecture, SEQUENCE, pad_token_id=END), examples(SEQUENCE)
    classifier = Classifier(model)
    logits, features = classifier(collate_examples(some, padding=END))
    torch.testing.assert_close(logits, alone(model, some, SEQUENCE), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier.linear(features), logits, rtol=1e-4, atol=1e-5)


def test_a_model_that_reads_more_than_tokens_is_refused_in_one_line():
    with pytest.raises(UserError, match="does not run on the tokens of a text alone") as caught:
        Classifier(tiny("bros", TOKEN))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vector", ["first", "mean"])
def test_a_vector_of_tokens_is_refused_where_the_body_gives_none(vector):
    """Perceiver's body ends with its decoder, which asks once for a text."""
    classifier = Classifier(tiny("perceiver", SEQUENCE), vector)
    with pytest.raises(UserError, match=f"^method.vector={vector}: .* leave it at head$"):
        classifier.encode(examples(SEQUENCE))


@pytest.mark.parametrize(
    ("architecture", "expected"), [("bert", 32), ("t5", 32), ("perceiver", 32)]
)
def test_the_hidden_size_is_found_by_every_name(architecture, expected):
    assert hidden_size(tiny(architecture, SEQUENCE)) == expected


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("bert", {}, True),
        ("bert", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, False),
        ("llama", {}, False),
        ("llama", {"attention_dropout": 0.5}, True),
        ("modernbert", {}, False),
        ("bart", {}, True),
    ],
)
def test_whether_a_model_has_dropout_is_seen_without_touching_the_random_numbers(
    architecture, changes, expected
):
    model = tiny(architecture, SEQUENCE, **changes)
    before = torch.random.get_rng_state()
    assert has_dropout(model) == expected
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
