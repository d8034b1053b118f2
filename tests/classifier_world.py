"""Tiny BERT classifiers, a toy vocabulary and small labelled sets of it."""

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from unlearner.data.labelled import Labelling, tokenize_labelled
from unlearner.data.record import Record, RecordSet
from unlearner.models.heads import Classifier
from unlearner.settings import TrainingSettings
from unlearner.training.data import ClassifierData, Recipe
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

SEQUENCE, TOKEN = "sequence-classification", "token-classification"
LABELS = {
    SEQUENCE: ("animal", "colour", "place"),
    TOKEN: ("O", "B-animal", "I-animal", "B-place"),
}
KINDS = {SEQUENCE: BertForSequenceClassification, TOKEN: BertForTokenClassification}
WORDS = {
    "animal": ["cat", "dog", "horse", "mouse", "sheep"],
    "colour": ["red", "blue", "green", "white", "black"],
    "place": ["oslo", "paris", "delhi", "quito", "cairo"],
    "other": ["the", "a", "is", "was", "near", "old", "new", "here", "then", "seen", "of", "very"],
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *(word for words in WORDS.values() for word in words)]
MAX_LENGTH = 32


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the toy vocabulary, between [CLS] and [SEP]."""
    ids = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_config(family, **changes):
    labels = dict(enumerate(LABELS[family]))
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": MAX_LENGTH,
        "id2label": labels,
        "label2id": {name: number for number, name in labels.items()},
    }
    return BertConfig(**settings | changes)


def tiny_classifier(family=SEQUENCE, seed=0, **changes):
    """A BERT of hidden size 32 and 2 layers whose weights are wider than the initial ones."""
    torch.manual_seed(seed)
    model = KINDS[family](tiny_config(family, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


def save_encoder(folder, seed=0):
    """A pretrained encoder without a head, and its tokenizer; returns the folder's name."""
    torch.manual_seed(seed)
    BertModel(tiny_config(SEQUENCE)).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return str(folder)


def text_record(number, label, draw, *, odd):
    """Two words of the label's among others; where odd, filed under the next label."""
    words = draw.choices(WORDS["other"], k=draw.randint(2, 6)) + draw.sample(WORDS[label], 2)
    draw.shuffle(words)
    names = LABELS[SEQUENCE]
    given = names[(names.index(label) + odd) % len(names)]
    return Record(f"r{number}", text=" ".join(words), label=given)


def tagged_record(number, _, draw, *, odd):
    """Two animals in a row and a place among other words; where odd, the place is an animal."""
    words = [(word, "O") for word in draw.choices(WORDS["other"], k=draw.randint(2, 6))]
    pair = draw.sample(WORDS["animal"], 2)
    words[draw.randint(0, len(words)) : 0] = [(pair[0], "B-animal"), (pair[1], "I-animal")]
    words.append((draw.choice(WORDS["place"]), "B-animal" if odd else "B-place"))
    tokens, tags = zip(*words, strict=True)
    return Record(f"r{number}", tokens=tokens, tags=tags)


def labelled(count, family=SEQUENCE, name="records", *, seed=0, label=None, odd=False):
    """A set of `count` records, about the labels in turn or about one label.

    Args:
        odd: Labels that no other record suggests, which can only be known by heart.
    """
    draw = random.Random(f"{name}{seed}")
    make = text_record if family == SEQUENCE else tagged_record
    names = [label] if label else LABELS[SEQUENCE]
    records = tuple(make(n, names[n % len(names)], draw, odd=odd) for n in range(count))
    labelling = Labelling(LABELS[family], MAX_LENGTH, family)
    return tokenize_labelled(RecordSet(name, records, "memory"), toy_tokenizer(), labelling)


def tiny_data(family=SEQUENCE, sizes=(6, 24, 6), recipe=None, forget_class=None):
    """Forget, retain and holdout sets of these sizes; the forget set's labels are odd."""
    named = zip(("forget", "retain", "holdout"), sizes, strict=True)
    sets = {name: labelled(size, family, name, odd=name == "forget") for name, size in named}
    return ClassifierData(
        tokenizer=toy_tokenizer(),
        family=family,
        labels=LABELS[family],
        **sets,
        forget_class=forget_class,
        recipe=recipe,
    )


def recipe_from(folder, **finetune):
    return Recipe(str(folder), {"learning_rate": 2e-3, "batch_size": 8, "epochs": 2} | finetune)


def tiny_trainer(seed=0, **settings):
    return Trainer(TrainingSettings(seed=seed, device="cpu", **settings), Log())


def learn_by_heart(model, *sets, steps=60):
    """Fit a model to some sets with plain Adam and without dropout."""
    examples = [example for some in sets for example in some.examples]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    classifier = Classifier(model.eval())
    for _ in range(steps):
        encoded = classifier.encode(examples)
        optimiser.zero_grad()
        cross_entropy(encoded.logits, encoded.labels).backward()
        optimiser.step()
    return model


@torch.no_grad()
def mean_loss(model, records):
    """The mean cross-entropy of a set, in nats."""
    encoded = Classifier(model.eval()).encode(records.examples)
    return float(cross_entropy(encoded.logits, encoded.labels))
