"""Classifiers other than BERT through the commands: encoder-decoders and others."""

import json
import random

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from classifier_commands import SETS, json_lines, row
from classifier_world import LABELS, MAX_LENGTH, SEQUENCE, TOKEN, VOCABULARY, toy_tokenizer
from command_world import caller
from unlearner.cli.app import MET, NOT_MET, WRONG_INPUT
from unlearner.data.labelled import Labelling, tokenize_labelled
from unlearner.data.record import Record, RecordSet
from unlearner.models import loading
from unlearner.models.heads import Classifier, end_token

END = VOCABULARY.index("[SEP]")
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": MAX_LENGTH,
    "decoder_start_token_id": END,
    "eos_token_id": END,
    "pad_token_id": 0,
    "bos_token_id": 2,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": END,
}
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH,
    "pad_token_id": 0,
}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0}
LUKE = ENCODER | {"entity_vocab_size": 8, "entity_emb_size": 8}
PERCEIVER = {
    "num_latents": 8,
    "d_latents": 32,
    "d_model": 32,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
}
REFORMER = {
    "attention_head_size": 8,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "feed_forward_size": 64,
    "max_position_embeddings": MAX_LENGTH,
    "axial_pos_embds": False,
    "attn_layers": ["local", "lsh"],
    "pad_token_id": 0,
}
SHAPES = {
    "bart": SEQ2SEQ,
    "mbart": SEQ2SEQ,
    "plbart": SEQ2SEQ,
    "t5": T5,
    "mt5": T5,
    "fnet": ENCODER,
    "xlnet": XLNET,
    "luke": LUKE,
    "perceiver": PERCEIVER,
    "reformer": REFORMER,
    "llama": ENCODER | {"eos_token_id": END, "bos_token_id": 2},
}
FILES = {
    f"{family}-{role}.jsonl": json_lines(*(row(record) for record in records.records))
    for family, sets in SETS.items()
    for role, records in sets.items()
}


def tokenizer_of(architecture) -> PreTrainedTokenizerFast:
    """The toy tokenizer with an end-of-text token, which that of T5 here does not put itself."""
    tokenizer = toy_tokenizer()
    tokenizer.eos_token = "[SEP]"
    if architecture in ("t5", "mt5"):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="$A", pair="$A $B:1", special_tokens=[]
        )
    return tokenizer


def save_tiny(folder, architecture, family=None):
    """A classifier of the family, or a model without a head; returns the folder's name."""
    autos = {
        SEQUENCE: AutoModelForSequenceClassification,
        TOKEN: AutoModelForTokenClassification,
        # Perceiver's own body reads no text: what it was trained as does.
        None: AutoModelForMaskedLM if architecture == "perceiver" else AutoModel,
    }
    labels = {} if family is None else {"id2label": dict(enumerate(LABELS[family]))}
    config = AutoConfig.for_model(
        architecture, vocab_size=len(VOCABULARY), **SHAPES[architecture], **labels
    )
    torch.manual_seed(0)
    model = autos[family].from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer_of(architecture).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return caller(tmp_path, capsys, FILES)


def report_of(path):
    return json.loads((path / "report.json").read_text())


QUICK = ("bart", "mbart", "t5")
CASES = [(architecture, SEQUENCE) for architecture in SHAPES if architecture != "reformer"]
CASES += [("t5", TOKEN), ("fnet", TOKEN), ("llama", TOKEN), ("luke", TOKEN)]
CASES = [
    pytest.param(*case, marks=[] if case[0] in QUICK and case[1] == SEQUENCE else pytest.mark.slow)
    for case in CASES
]


@pytest.mark.parametrize(("architecture", "family"), CASES)
def test_a_classifier_goes_through_every_command(command, tmp_path, architecture, family):
    model = save_tiny(tmp_path / "model", architecture, family)
    sets = f"--forget {family}-forget.jsonl --retain {family}-retain.jsonl "
    sets += f"--holdout {family}-holdout.jsonl "
    short = " --quiet --force method.max_epochs=1 method.learning_rate=1e-3 evaluation.resamples=20"
    status, _, err, _ = command(f"check {model} {sets}")
    assert status == MET, err
    for method in ("deepcut", "scrub", "random_labels"):
        status, _, err, _ = command(
            f"forget {model} {sets} --output {method} --method {method}{short}"
        )
        assert status in (MET, NOT_MET), err
    status, _, err, _ = command(
        f"evaluate deepcut/model {sets} --target {model} --output judged evaluation.resamples=20"
    )
    assert status in (MET, NOT_MET), err
    measured = [report_of(tmp_path / run)["results"]["unlearned"] for run in ("deepcut", "judged")]
    for role in ("forget", "retain", "holdout"):
        losses = [figures[role]["loss"]["value"] for figures in measured]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("architecture", "family"), CASES)
def test_a_model_without_a_head_learns_one(command, tmp_path, architecture, family):
    encoder = save_tiny(tmp_path / "encoder", architecture)
    status, _, err, _ = command(
        f"finetune {encoder} --records {family}-retain.jsonl --output learned --quiet epochs=1"
    )
    assert status == MET, err
    loaded = loading.load_classifier(str(tmp_path / "learned"))
    assert loaded.family == family
    assert set(loaded.labels) == set(LABELS[family])


def test_a_reformer_is_refused_in_one_line_by_every_command(command, tmp_path):
    model = save_tiny(tmp_path / "model", "reformer", SEQUENCE)
    encoder = save_tiny(tmp_path / "encoder", "reformer")
    sets = f"--forget {SEQUENCE}-forget.jsonl --holdout {SEQUENCE}-holdout.jsonl"
    for arguments in (
        f"check {model} {sets}",
        f"forget {model} {sets} --retain {SEQUENCE}-retain.jsonl --output out",
        f"evaluate {model} {sets} --output out",
        f"finetune {encoder} --records {SEQUENCE}-retain.jsonl --output out",
    ):
        status, _, err, _ = command(arguments)
        assert status == WRONG_INPUT
        assert err.count("\n") == 1
        assert "hashes its attention at random" in err
        assert "use a classifier of another architecture" in err


@pytest.mark.parametrize("architecture", ["bart", "t5", "fnet", "perceiver"])
def test_figures_do_not_depend_on_the_size_of_batches(command, tmp_path, architecture):
    """Pairs beside single texts, long beside short ones: one batch of all, and one of each."""
    model = save_tiny(tmp_path / "model", architecture, SEQUENCE)
    draw = random.Random(0)
    words = VOCABULARY[5:]
    for role in ("f", "h"):
        rows = [
            {
                "text": " ".join(draw.choices(words, k=draw.randint(1, 40))),
                "text_pair": " ".join(draw.choices(words, k=3)) if number % 3 else None,
                "label": number % 3,
            }
            for number in range(9)
        ]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    losses = []
    for size in (1, 100_000):
        status, _, err, _ = command(
            f"evaluate {model} --forget f.jsonl --holdout h.jsonl --output at{size} "
            f"evaluation.batch_tokens={size} evaluation.resamples=20"
        )
        assert status in (MET, NOT_MET), err
        losses.append(report_of(tmp_path / f"at{size}")["results"]["unlearned"])
    for role in ("forget", "holdout"):
        one, other = (figures[role]["loss"]["value"] for figures in losses)
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("length", [8, 32])
@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_every_text_holds_its_end_whether_or_not_the_tokenizer_puts_it(
    tmp_path, architecture, length
):
    loaded = loading.load_classifier(save_tiny(tmp_path / "m", architecture, SEQUENCE))
    texts = ["cat", " ".join(["dog"] * 50)]
    records = [Record(str(n), text=text, label="animal") for n, text in enumerate(texts)]
    labelling = Labelling(loaded.labels, length, SEQUENCE, end=end_token(loaded.model))
    found = tokenize_labelled(
        RecordSet("forget", tuple(records), "memory"), loaded.tokenizer, labelling
    )
    assert found.truncated == 1
    for example in found.examples:
        assert example.input_ids[-1] == END
        assert len(example.token_type_ids) == len(example)
    assert len(found.examples[1]) == length
    assert Classifier(loaded.model).encode(found.examples).logits.shape == (2, 3)
