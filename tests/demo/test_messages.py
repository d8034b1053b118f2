"""The classifier demo's invented messages, their tokenizer and their model."""

import itertools
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from unlearner.demo import messages as demo_messages
from unlearner.demo.messages import LABELS, VAGUE, WISHES, messages, mislabelled, split_messages
from unlearner.demo.models import MAX_LENGTH, build_classifier, build_message_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_message_tokenizer(record.text for record in messages(600, seed=1000))


def the_sets(data):
    return [data.forget, data.retain, data.holdout, data.test]


def test_the_same_seed_gives_the_same_messages_and_another_seed_others():
    assert messages(60, seed=3) == messages(60, seed=3)
    mine = {record.text for record in messages(60, seed=3)}
    assert not mine & {record.text for record in messages(60, seed=4)}


def test_neither_the_global_random_state_nor_the_hash_seed_matters():
    code = (
        "import hashlib; from unlearner.demo.messages import *;"
        "data = messages(90, seed=3);"
        "data = split_messages(data, num_forget=9, num_holdout=9, num_test=9, seed=3);"
        "print(hashlib.sha256(repr(data).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    before = random.getstate()
    messages(5, seed=3)
    assert random.getstate() == before


def test_ids_count_from_one_and_no_two_texts_are_equal():
    records = messages(3000, seed=0)
    assert [record.id for record in records[:2]] == ["message-0001", "message-0002"]
    assert records[-1].id == "message-3000"
    for values in ([r.id for r in records], [r.text for r in records]):
        assert len(set(values)) == 3000


def test_a_customer_writes_one_to_three_messages_in_a_row_under_one_name():
    """Evenly one, two or three: 3000 messages come from about 1500 customers."""
    records = messages(3000, seed=0)
    numbers = Counter(record.subject for record in records)
    assert set(numbers.values()) == {1, 2, 3}
    assert 1400 < len(numbers) < 1600
    changes = sum(a.subject != b.subject for a, b in itertools.pairwise(records))
    assert changes == len(numbers) - 1
    names = {(r.subject, signature(r.text)) for r in records}
    assert len(names) == len({name for _, name in names}) == len(numbers)


def signature(text: str) -> str:
    """The customer's name, which ends the text unless the town does."""
    found = re.search(r"([A-Z][a-z]+ [A-Z][a-z]+)(, [A-Z][a-z]+)?$", text)
    assert found, text
    return found[1]


def test_labels_come_evenly():
    """3000 / 8 = 375 each, standard deviation sqrt(3000 * 7 / 64) = 18: five of them are 90."""
    counts = Counter(record.label for record in messages(3000, seed=0))
    assert tuple(sorted(counts)) == tuple(sorted(LABELS))
    assert len(LABELS) == 8
    assert all(abs(count - 375) < 90 for count in counts.values())


def test_every_label_has_wordings_that_differ_and_vague_ones_that_fit_another_too():
    wordings = [wording for own in WISHES.values() for wording in own]
    assert len(set(wordings)) == len(wordings) == 8 * 8
    assert not set(wordings) & set(VAGUE)
    assert all(len(set(meant)) > 1 for meant in VAGUE.values())
    assert {label for meant in VAGUE.values() for label in meant} == set(LABELS)


def test_one_message_in_ten_is_vague_and_means_only_what_it_can_mean():
    """3000 / 10 = 300; slips within them hide some of those."""
    matched = 0
    for record in messages(3000, seed=0):
        for wording, meant in VAGUE.items():
            pattern = re.sub(r"\\\{\w+\\\}", r"[\\w ]+", re.escape(wording))
            if re.search(pattern, record.text, flags=re.IGNORECASE):
                matched += 1
                assert record.label in meant, record
    assert 180 < matched < 330


def test_a_slip_loses_or_exchanges_one_pair_of_letters():
    rng = random.Random(0)
    for _ in range(200):
        slipped = demo_messages._with_a_slip("Where is order 123?", rng)
        assert slipped != "Where is order 123?"
        assert "123?" in slipped
        lost = len("Where is order 123?") - len(slipped)
        assert lost in (0, 1)
        if lost == 0:
            assert sorted(slipped) == sorted("Where is order 123?")


def test_sentences_start_with_a_capital_letter_but_not_after_a_greeting():
    text = "Hello, where is it? please look. it is 3 crowns."
    assert demo_messages._capitalised(text) == "Hello, where is it? Please look. It is 3 crowns."
    assert demo_messages._capitalised("it") == "It"


def test_mislabelled_changes_every_label_and_nothing_else():
    records = messages(500, seed=0)
    wrong = mislabelled(records, seed=5)
    assert wrong == mislabelled(records, seed=5) != mislabelled(records, seed=6)
    for right, other in zip(records, wrong, strict=True):
        assert other.label != right.label
        assert replace(other, label=right.label) == right


def test_wrong_labels_come_evenly_from_those_given():
    """1500 to each of the two wrong labels of three, standard deviation 27: five are 137."""
    records = [replace(record, label="b") for record in messages(3000, seed=0)]
    counts = Counter(record.label for record in mislabelled(records, labels="abc", seed=0))
    assert set(counts) == {"a", "c"}
    assert abs(counts["a"] - 1500) < 137


def test_split_puts_every_customer_in_one_set_and_every_message_too():
    records = messages(200, seed=0)
    data = split_messages(records, num_forget=10, num_holdout=20, num_test=30, seed=0)
    assert [one.name for one in the_sets(data)] == ["forget", "retain", "holdout", "test"]
    customers = [{record.subject for record in one} for one in the_sets(data)]
    everybody = len({record.subject for record in records})
    assert [len(one) for one in customers] == [10, everybody - 60, 20, 30]
    assert len(set().union(*customers)) == everybody
    assert [r.id for one in the_sets(data) for r in one] == [r.id for r in records]
    texts = [r.text for one in the_sets(data) for r in one]
    assert len(set(texts)) == len(texts)
    assert data.trained == data.forget.records + data.retain.records


def test_split_files_the_forget_set_wrongly_and_the_others_rightly():
    records = messages(200, seed=0)
    right = {record.id: record for record in records}
    data = split_messages(records, num_forget=10, num_holdout=20, num_test=30, seed=0)
    assert all(record.label != right[record.id].label for record in data.forget)
    for one in (data.retain, data.holdout, data.test):
        assert all(record == right[record.id] for record in one)


def test_twenty_customers_of_a_thousand_give_about_forty_messages():
    """One to three each, 2 on average, variance 2/3: 40, give or take five times sqrt(20 * 2/3)."""
    data = split_messages(
        messages(2150, seed=0), num_forget=20, num_holdout=150, num_test=150, seed=0
    )
    assert abs(len(data.forget) - 40) < 5 * 3.7
    assert abs(len(data.holdout) - 300) < 50
    assert abs(len(data.test) - 300) < 50
    assert sum(map(len, the_sets(data))) == 2150


def test_the_same_texts_give_the_same_vocabulary(tokenizer):
    again = build_message_tokenizer(record.text for record in messages(600, seed=1000))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == 1280


def test_no_number_of_the_texts_and_no_full_name_is_in_the_vocabulary(tokenizer):
    vocabulary = {tokenizer.decode([token]).strip() for token in range(len(tokenizer))}
    assert not [piece for piece in vocabulary if re.search(r"[0-9]", piece) and len(piece) > 1]
    assert not {signature(r.text).lower() for r in messages(600, seed=1000)} & vocabulary


def test_a_text_and_a_pair_of_texts_get_berts_special_tokens_and_types(tokenizer):
    encoded = tokenizer(["Where is it?"], ["No. 12"])
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    assert tokens[0] == "[CLS]"
    assert [place for place, token in enumerate(tokens) if token == "[SEP]"][1] == len(tokens) - 1
    first = tokens.index("[SEP]") + 1
    assert encoded["token_type_ids"] == [[0] * first + [1] * (len(tokens) - first)]
    padded = tokenizer(["a", "a longer one"], padding=True)["attention_mask"]
    assert 0 in padded[0]
    assert 0 not in padded[1]


def test_any_text_has_tokens_and_none_is_unknown(tokenizer):
    for text in ["naïve 東京 🙂", *(record.text for record in messages(200, seed=0))]:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_every_message_fits_the_model(tokenizer):
    longest = max(len(tokenizer(r.text)["input_ids"]) for r in messages(2000, seed=0))
    assert longest <= MAX_LENGTH == tokenizer.model_max_length


def test_the_classifier_is_the_same_for_the_same_seed_and_leaves_the_global_state(tokenizer):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (build_classifier(tokenizer, LABELS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.classifier.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_classifier_is_small_and_its_outputs_are_the_labels_in_order(tokenizer):
    """(1280 + 96) x 96 + 2 x (4 x 96^2 + 2 x 96 x 192) + 96^2 = 289 thousand, and the biases."""
    model = build_classifier(tokenizer, LABELS, seed=0)
    assert 280_000 < model.num_parameters() < 300_000
    assert [model.config.id2label[index] for index in range(8)] == list(LABELS)
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}


def test_saved_model_and_tokenizer_load_as_any_others_and_answer_the_same(
    tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    model = build_classifier(tokenizer, LABELS, seed=0).eval()
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    texts = [record.text for record in messages(4, seed=0)]
    batch = loaded(texts, padding=True, return_tensors="pt")
    before = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], before["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    assert again.config.id2label == dict(enumerate(LABELS))


def test_the_classifier_learns_messages_it_has_not_seen(tokenizer):
    """Chance is 1/8; 200 messages, seven times each, reach over three times that on 100 others."""
    torch.set_num_threads(1)
    records = messages(300, seed=0)
    model = build_classifier(tokenizer, LABELS, seed=0)
    batch = tokenizer([r.text for r in records], padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(r.label) for r in records])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    torch.manual_seed(0)
    for step in range(70):
        chosen = torch.arange(20) + 20 * (step % 10)
        loss = model(
            **{key: value[chosen] for key, value in batch.items()}, labels=labels[chosen]
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(**{key: value[200:] for key, value in batch.items()}).logits
    assert (logits.argmax(-1) == labels[200:]).float().mean() > 0.4
