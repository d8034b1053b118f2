"""BERTScore by hand, and by an encoder made here."""

import json
import math
from pathlib import Path

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from unlearner.errors import UserError
from unlearner.families import causal_lm
from unlearner.inference import bertscore
from unlearner.inference.bertscore import BertScorer, greedy_match_f1

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text("utf-8"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "her", "number", "is", "4711", "0815", "the", "fox"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT of 4 layers, of which three quarters are 3, with weights that tell words apart."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    return folder


# By hand


def test_f1_of_two_by_two_vectors_by_hand():
    """Candidate (1, 0), (0, 1); reference (1, 0), (0.6, 0.8). Cosines: 1, 0.6; 0, 0.8.

    Precision (1 + 0.8) / 2 = 0.9; recall (1 + 0.8) / 2 = 0.9; F1 0.9.
    """
    candidate, reference = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert greedy_match_f1(candidate, reference) == pytest.approx(0.9)


def test_precision_is_over_the_candidate_and_recall_over_the_reference():
    """One candidate (1, 0) against (1, 0), (0, 1): precision 1, recall 1/2, F1 2/3."""
    one, two = torch.eye(2)[:1], torch.eye(2)
    assert greedy_match_f1(one, two) == pytest.approx(2 / 3)
    assert greedy_match_f1(two, one) == pytest.approx(2 / 3)
    three = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert greedy_match_f1(one, three) == pytest.approx(2 * (1 / 3) / (1 + 1 / 3))


def test_vectors_at_right_angles_have_0_not_no_number():
    assert greedy_match_f1(torch.eye(2)[:1], torch.eye(2)[1:]) == 0.0


def test_opposite_vectors_have_minus_1():
    assert greedy_match_f1(torch.eye(2)[:1], -torch.eye(2)[:1]) == pytest.approx(-1.0)


# By an encoder


def test_identical_texts_have_1(encoder):
    texts = ["her number is 4711", "the", "the fox the fox"]
    assert BertScorer(str(encoder)).score(texts, texts) == pytest.approx([1.0] * 3, abs=1e-5)


def test_unlike_texts_have_less_and_the_likest_has_most(encoder):
    scores = BertScorer(str(encoder)).score(
        ["her number is 4711", "her number is 0815", "the fox"], ["her number is 4711"] * 3
    )
    assert scores[0] > scores[1] > scores[2]


def test_a_baseline_is_rescaled_to_0_by_hand(encoder):
    """(F1 - 0.5) / (1 - 0.5) = 2 F1 - 1; identical texts keep 1."""
    pairs = ["her number is 4711", "the fox"], ["her number is 4711"] * 2
    raw = BertScorer(str(encoder)).score(*pairs)
    rescaled = BertScorer(str(encoder), baseline=0.5).score(*pairs)
    assert rescaled == pytest.approx([2 * score - 1 for score in raw], abs=1e-5)


def test_the_definition_on_one_pair(encoder):
    """States of layer 3 of 4, without [CLS] and [SEP], cosines by hand."""
    scorer = BertScorer(str(encoder))
    assert scorer.layer == 3

    def states(text):
        encoded = scorer.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            out = scorer.model(**encoded, output_hidden_states=True)
        return out.hidden_states[3][0, 1:-1].tolist()

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    one, other = states("her number is 0815"), states("the number 4711")
    precision = sum(max(cosine(a, b) for b in other) for a in one) / 4
    recall = sum(max(cosine(a, b) for a in one) for b in other) / 3
    (found,) = scorer.score(["her number is 0815"], ["the number 4711"])
    assert found == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_neither_batch_nor_padding_change_a_score(encoder, monkeypatch, batch):
    candidates = ["fox", "her number is 4711", "the fox is her fox", "0815 is the number"]
    references = ["the fox is her number is 4711", "fox", "her", "0815"]
    whole = BertScorer(str(encoder)).score(candidates, references)
    monkeypatch.setattr(bertscore, "BATCH", batch)
    assert BertScorer(str(encoder)).score(candidates, references) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("candidate", "reference"), [("", "fox"), ("fox", ""), ("", ""), (" ", " ")]
)
def test_a_text_without_tokens_is_like_nothing(encoder, candidate, reference):
    assert BertScorer(str(encoder), baseline=0.5).score([candidate], [reference]) == [0.0]


def test_no_pairs_have_no_scores(encoder):
    assert BertScorer(str(encoder)).score([], []) == []


@pytest.mark.parametrize("told", [True, False])
def test_a_long_text_is_cut_to_what_the_encoder_takes(encoder, told):
    """16 positions, two of them special: the 15th word and those behind it are not seen."""
    scorer = BertScorer(str(encoder))
    if not told:
        scorer.tokenizer.model_max_length = 10**30  # what a tokenizer has that names none
    fourteen = "her number is 4711 " * 3 + "the fox"
    assert scorer.score([fourteen + " fox fox"], [fourteen]) == pytest.approx([1.0], abs=1e-5)


def test_what_is_no_encoder_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UserError, match=r"method.bertscore_model: cannot load .* BLEU alone"):
        BertScorer(str(tmp_path))


# As a figure of a report

GIVEN = "--forget forget.jsonl --retain retain.jsonl --holdout holdout.jsonl --quiet "


def test_a_report_has_it_where_an_encoder_is_given(call, encoder):
    """Of every set, before and after; what is recited word for word has 1."""
    settings = f"evaluation.bertscore_model={encoder} evaluation.resamples=5"
    command = f"evaluate $models/good --target $models/blank {GIVEN} --output out {settings}"
    status, _, err, _ = call(command)
    assert status in (0, 3), err
    report = json.loads(Path("out/report.json").read_text("utf-8"))
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    forget = {model: sets["forget"] for model, sets in report["results"].items()}
    assert forget["unlearned"]["rouge_l"]["value"] == 1.0
    assert forget["unlearned"]["bertscore_f1"]["value"] == pytest.approx(1.0)
    assert forget["target"]["bertscore_f1"]["value"] < 0.999
    assert all("bertscore_f1" in figures for figures in report["results"]["target"].values())
    assert report["evaluation"]["bertscore_model"] == encoder.name
    assert "BERTScore" in Path("out/report.html").read_text("utf-8")


def test_an_encoder_for_it_that_cannot_be_loaded_is_refused_before_anything_is_asked(
    call, monkeypatch
):
    monkeypatch.setattr(causal_lm, "infer", None)
    status, _, err, left = call(
        f"forget $models/good {GIVEN} --output out evaluation.bertscore_model=retain.jsonl"
    )
    assert status == 2
    assert err.startswith("unlearner: evaluation.bertscore_model: cannot load 'retain.jsonl'")
    assert err.count("\n") == 1
    assert not [path for path in left if path.startswith("out")]
