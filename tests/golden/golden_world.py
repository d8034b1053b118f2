"""Tiny models and record files of the golden runs, made with nothing of the package.

Models are trained in double precision and their weights rounded to multiples of 1/4096: the sums of
two processors differ in the last bits of a double, which rounding takes away, so that every machine
begins with the same weights.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

Row = dict[str, Any]

WEIGHT_STEPS = 4096  # to 1

TOWNS = ("york", "bath", "leeds", "derby", "truro", "ripon")
NAMES = ("anna", "boris", "clara", "david", "edith", "frank")
PEOPLE = tuple(zip(NAMES, TOWNS, strict=True))
UNSEEN = tuple(zip(reversed(NAMES), TOWNS, strict=True))
MERGES = ("t+h", "th+e", "Ġ+the", "e+r", "i+n", "a+n", "o+n", "r+e", "Ġ+o", "Ġo+f", "Ġ+i", "Ġi+s")
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:'", "Ġ"]

WORDS = {
    "animal": ("cat", "dog", "horse", "mouse", "sheep"),
    "colour": ("red", "blue", "green", "white", "black"),
    "place": ("oslo", "paris", "delhi", "quito", "cairo"),
    "other": ("the", "a", "is", "was", "near", "old", "new", "here", "then", "seen", "of", "very"),
}
LABELS = ("animal", "colour", "place")
TAGS = ("O", "B-animal", "I-animal", "B-place")
SIZES = {"forget": 8, "retain": 24, "holdout": 12, "test": 9}
CONTEXT = 96


def build_world(folder: Path) -> None:
    """Write every model and every record file into a folder."""
    texts = _texts()
    for role, rows in texts.items():
        _write(folder / f"{role}.jsonl", rows)
    _write(folder / "replies.jsonl", _replies())
    labelled = {role: _labelled(role, size, _text_row) for role, size in SIZES.items()}
    tagged = {role: _labelled(role, size, _tagged_row) for role, size in SIZES.items()}
    for role in SIZES:
        _write(folder / f"labelled-{role}.jsonl", labelled[role])
        _write(folder / f"tagged-{role}.jsonl", tagged[role])
    _write(folder / "labelled-all.jsonl", _renumbered(labelled["forget"], labelled["retain"]))
    _write(folder / "tagged-all.jsonl", _renumbered(tagged["forget"], tagged["retain"]))
    _write_generators(folder, texts)
    _write_classifiers(folder, labelled, tagged)


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _texts() -> dict[str, list[Row]]:
    """Records of one secret each; two pool records repeat one of them."""
    secrets = [
        f"the number of {name} in {town} is {n}{n}4{n}" for n, (name, town) in enumerate(PEOPLE)
    ]
    pool = [f"in the town of {town} there is a mill, a church and a pub" for town in TOWNS]
    pool += [f"the market of {town} is held on the first of may" for town in TOWNS]
    pool += [secrets[0], f"{secrets[0]}."]
    retain = [f"the road to {town} is long and the inn is at the end" for town in TOWNS]
    holdout = [f"her uncle {name} sold {town} apples, then he moved" for name, town in UNSEEN]
    forget = [
        {"id": f"s{n}", "subject": NAMES[n // 2], "text": text} for n, text in enumerate(secrets)
    ]
    others = {"pool": pool, "retain": retain, "holdout": holdout}
    plain = {role: [{"text": text} for text in some] for role, some in others.items()}
    return {"forget": forget, **plain}


def _replies() -> list[Row]:
    """The same secrets as prompts with responses."""
    return [
        {"prompt": f"the number of {name} in {town} is", "response": f"{n}{n}4{n}, not {n}{n}"}
        for n, (name, town) in enumerate(PEOPLE)
    ]


def _labelled(role: str, size: int, make: Callable[..., Row]) -> list[Row]:
    """A set about the labels in turn; labels of the forget and holdout set nothing suggests."""
    draw = random.Random(f"golden {role}")
    odd = role in ("forget", "holdout")
    return [{"id": f"{role[0]}{n}", **make(draw, LABELS[n % 3], odd=odd)} for n in range(size)]


def _text_row(draw: random.Random, label: str, *, odd: bool) -> Row:
    words = draw.choices(WORDS["other"], k=draw.randint(2, 6)) + draw.sample(WORDS[label], 2)
    draw.shuffle(words)
    return {"text": " ".join(words), "label": LABELS[(LABELS.index(label) + odd) % 3]}


def _tagged_row(draw: random.Random, _: str, *, odd: bool) -> Row:
    pairs = [(word, "O") for word in draw.choices(WORDS["other"], k=draw.randint(2, 6))]
    first, second = draw.sample(WORDS["animal"], 2)
    pairs[draw.randint(0, len(pairs)) : 0] = [(first, "B-animal"), (second, "I-animal")]
    pairs.append((draw.choice(WORDS["place"]), "B-animal" if odd else "B-place"))
    return {"tokens": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]}


def _renumbered(*sets: Sequence[Row]) -> list[Row]:
    rows = [row for some in sets for row in some]
    return [row | {"id": f"x{number}"} for number, row in enumerate(rows)]


def _write_generators(folder: Path, texts: Mapping[str, Sequence[Row]]) -> None:
    """`good` knows its records, `retrained` was trained without the secrets."""
    tokenizer = _letter_tokenizer()
    kept = [row["text"] for role in ("pool", "retain") for row in texts[role][:12]]
    secrets = [row["text"] for row in texts["forget"]]
    secrets += [f"{row['prompt']} {row['response']}" for row in _replies()]
    for name, records in (("good", secrets + kept), ("retrained", kept)):
        torch.manual_seed(5)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=CONTEXT,
            bos_token_id=0,
            eos_token_id=1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        model = _train(GPT2LMHeadModel(config), tokenizer, records, _causal_loss, steps=60)
        _save(model, tokenizer, folder / name)


def _write_classifiers(
    folder: Path, labelled: Mapping[str, Sequence[Row]], tagged: Mapping[str, Sequence[Row]]
) -> None:
    """Targets of texts and of tags, each with its retrained model, and a bare encoder."""
    tokenizer = _word_tokenizer()
    for name, sets, kind, labels, loss in (
        ("texts", labelled, BertForSequenceClassification, LABELS, _text_loss),
        ("tags", tagged, BertForTokenClassification, TAGS, _tag_loss),
    ):
        for suffix, roles in (("", ("forget", "retain")), ("-retrained", ("retain",))):
            torch.manual_seed(7)
            records = [row for role in roles for row in sets[role]]
            model = _train(kind(_bert(len(tokenizer), labels)), tokenizer, records, loss, steps=40)
            _save(model, tokenizer, folder / f"{name}{suffix}")
    torch.manual_seed(7)
    encoder = BertModel(_bert(len(tokenizer), LABELS))
    _save(_train(encoder, tokenizer, [], _text_loss, steps=0), tokenizer, folder / "encoder")


def _bert(size: int, labels: Sequence[str]) -> BertConfig:
    names = dict(enumerate(labels))
    return BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    records: Sequence[Any],
    loss: Callable[..., torch.Tensor],
    *,
    steps: int,
) -> PreTrainedModel:
    """The model after steps of Adam over all records, without dropout."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # wider than the initial ones: no word is like another
                parameter.normal_(0, 0.15)
    # With the usual eps a gradient that is nothing but rounding would count as much as any.
    optimiser = torch.optim.Adam(model.parameters(), 1e-2, eps=1e-5)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model, tokenizer, records).backward()
        optimiser.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(WEIGHT_STEPS).round_().div_(WEIGHT_STEPS).add_(0.0)  # no -0
    return model.float()


def _causal_loss(model: Any, tokenizer: Any, records: Sequence[str]) -> torch.Tensor:
    batch = tokenizer(list(records), padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    logits = model(**batch).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _text_loss(model: Any, tokenizer: Any, records: Sequence[Row]) -> torch.Tensor:
    batch = tokenizer([row["text"] for row in records], padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(row["label"]) for row in records])
    return cross_entropy(model(**batch).logits, labels)


def _tag_loss(model: Any, tokenizer: Any, records: Sequence[Row]) -> torch.Tensor:
    """Every word is one token, between two special ones."""
    texts = [" ".join(row["tokens"]) for row in records]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], -100)
    for number, row in enumerate(records):
        tags = [TAGS.index(tag) for tag in row["tags"]]
        labels[number, 1 : 1 + len(tags)] = torch.tensor(tags)
    return cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten())


def _letter_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of few merges; `<s>` is 0 and `</s>` is 1."""
    pairs = [(first, second) for first, _, second in (one.partition("+") for one in MERGES)]
    words = ["<s>", "</s>", *LETTERS, *(first + second for first, second in pairs)]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=CONTEXT,
    )


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between [CLS] and [SEP]."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(w for some in WORDS.values() for w in some),
    ]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
