"""The demo's invented customers, their tokenizer and their model."""

import itertools
import random
import re
from collections import Counter

import pytest
import torch
from transformers import AutoTokenizer

from unlearner.demo import customers
from unlearner.demo.customers import dossiers, split_people
from unlearner.demo.models import build_model, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(record.content for record in dossiers(300, seed=1000))


def longest_shared_run(a: list[int], b: list[int]) -> int:
    runs, longest = [0] * (len(b) + 1), 0
    for token in a:
        runs = [0] + [runs[j] + 1 if other == token else 0 for j, other in enumerate(b)]
        longest = max(longest, *runs)
    return longest


def test_the_same_seed_gives_the_same_records_and_another_seed_others():
    assert dossiers(60, seed=3) == dossiers(60, seed=3)
    mine = {record.content for record in dossiers(60, seed=3)}
    assert not mine & {record.content for record in dossiers(60, seed=4)}


def test_the_global_random_state_is_neither_read_nor_moved():
    random.seed(0)
    before = random.getstate()
    first = dossiers(5, seed=3)
    assert random.getstate() == before
    random.seed(1)
    assert dossiers(5, seed=3) == first


def test_ids_names_phones_and_accounts_are_unique():
    records = dossiers(2000, seed=0)
    phones = [
        found for record in records for found in re.findall(r"\d{3}-555-01\d\d", record.response)
    ]
    accounts = [found for record in records for found in re.findall(r"ZZ\d{4}", record.response)]
    names = [" ".join(record.prompt.replace(",", "").split()[:2]) for record in records]
    ids = [record.id for record in records]
    for values in (ids, names, phones, accounts):
        assert len(values) == len(set(values)) == 2000
    assert all(record.subject == record.id for record in records)


def test_every_area_code_is_below_200_which_no_telephone_has():
    codes = {
        int(found)
        for record in dossiers(2000, seed=0)
        for found in re.findall(r"(\d{3})-555", record.response)
    }
    assert min(codes) >= 0
    assert 150 < max(codes) < 200  # 2000 draws reach the upper quarter


def test_all_names_of_the_lists_differ_and_no_list_repeats_a_word():
    assert len(set(customers.all_names())) == 20 * 10 * 16 * 12
    for words in (customers.STREETS, customers.TOWNS, customers.GOODS, customers.AGENTS):
        assert len(set(words)) == len(words) == 16


def test_at_most_three_words_stand_between_two_facts():
    """So that no 4-gram is known from the wording alone; a full stop counts as a word."""
    for contact, complaint in itertools.product(customers.CONTACTS, customers.COMPLAINTS):
        for first, second in ((contact, complaint), (complaint, contact)):
            wording = f"{first} {second} {customers.CLOSING}"
            for piece in re.split(r"\{\w+\}", wording):
                assert len(re.findall(r"\w+|[^\w\s]", piece)) <= 3, piece


def test_every_wording_is_used_and_all_dossiers_close_with_the_status():
    records = dossiers(300, seed=0)
    openings = Counter(record.prompt.split(maxsplit=2)[2] for record in records)
    assert set(openings) == {"customer file:", "in our books:", "wrote to us:"}
    closings = Counter(
        record.response.rsplit(" ", 2)[1:] == ["Case", ending]
        for record in records
        for ending in ("open.", "settled.", "waived.")
    )
    assert closings == {True: 300, False: 600}  # each dossier has one of the three
    contact_first = sum(
        record.response.startswith(("Call", "At ", "Account")) for record in records
    )
    assert 100 < contact_first < 200


def test_split_puts_every_person_in_one_set():
    records = dossiers(20, seed=0)
    data = split_people(records, num_forget=3, num_holdout=5)
    sets = [data.forget, data.retain, data.holdout]
    assert [one.name for one in sets] == ["forget", "retain", "holdout"]
    assert [len(one) for one in sets] == [3, 12, 5]
    assert [record for one in sets for record in one] == records
    assert data.trained == tuple(records[:15])


def test_forgotten_and_kept_dossiers_rarely_share_ten_tokens(tokenizer):
    """ICU passes over kept records that share ten tokens with one to forget; most must remain."""
    ids = [tokenizer(record.content)["input_ids"] for record in dossiers(60, seed=0)]
    pairs = list(itertools.product(ids[:10], ids[10:]))
    sharing = sum(longest_shared_run(forget, kept) >= 10 for forget, kept in pairs)
    assert sharing < 0.05 * len(pairs)


def test_tokens_give_any_text_back_exactly(tokenizer):
    texts = [record.content for record in dossiers(50, seed=0)]
    for text in [*texts, " two  spaces , and\n\ta tab", "naïve 東京 🙂", "don ' t stop ."]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_prompt_has_the_same_tokens_alone_and_in_its_record(tokenizer):
    for record in dossiers(50, seed=0):
        prompt = tokenizer(record.prompt)["input_ids"]
        assert tokenizer(record.content)["input_ids"][: len(prompt)] == prompt


def test_every_digit_is_a_token(tokenizer):
    assert [tokenizer.decode([token]) for token in tokenizer("047162")["input_ids"]] == [*"047162"]


def test_a_saved_tokenizer_loads_as_any_other_without_a_network(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = dossiers(1, seed=0)[0].content
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.eos_token_id == tokenizer.eos_token_id == loaded(loaded.eos_token)["input_ids"][0]


def test_the_vocabulary_is_learned_from_others_and_holds_no_full_name(tokenizer):
    vocabulary = {tokenizer.decode([token]).strip() for token in range(len(tokenizer))}
    for record in dossiers(252, seed=0):
        first, last = record.prompt.replace(",", "").split()[:2]
        assert f"{first} {last}" not in vocabulary
        assert last not in vocabulary


def test_the_model_is_the_same_for_the_same_seed_and_leaves_the_global_state(tokenizer):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (build_model(tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.transformer.wte.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_model_is_small_and_holds_any_dossier(tokenizer):
    """128 hidden units: 768 x 128 + 256 x 128 + 4 blocks of about 12 x 128^2 = 0.92 million."""
    model = build_model(tokenizer, seed=0)
    assert 500_000 < model.num_parameters() < 2_000_000
    assert model.config.attention_layers == ["global", "local", "global", "local"]
    longest = max(len(tokenizer(r.content)["input_ids"]) for r in dossiers(300, seed=0))
    assert longest <= model.config.max_position_embeddings == tokenizer.model_max_length
