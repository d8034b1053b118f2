"""The fast answers equal the slow definitions on every architecture."""

import json

import numpy as np
import pytest
import torch

from conftest import VOCAB, tiny_model
from oracle import continuations, extraction_likelihood, greedy, log_probs, memorization_accuracy
from unlearner.data.windows import Window
from unlearner.errors import UserError
from unlearner.inference.generation import eos_ids
from unlearner.inference.language_model import Questions, decoding_room, infer
from unlearner.metrics._ngrams import extraction_likelihood as fast_el
from unlearner.models.loading import load_causal_lm


def window(index: int, ids: list[int]) -> Window:
    tokens = np.array(ids, dtype=np.int64)
    return Window(index, str(index), tokens, np.ones(len(ids) - 1, dtype=bool), len(ids) // 2)


def texts(model, lengths=(24, 13, 5), seed=3) -> list[list[int]]:
    """Random text, text that the model itself goes on with (memorised), and a mix of both."""
    rng = np.random.default_rng(seed)
    found = []
    for index, length in enumerate(lengths):
        ids = [int(token) for token in rng.integers(2, VOCAB, length)]
        if index % 2:  # memorised from the third token on
            ids = (ids[:3] + greedy(model, ids[:3], length))[:length]
        found.append(ids)
    memorised = greedy(model, found[0][:4], 24)
    mixed = (found[0][:4] + memorised + found[0])[:24]
    mixed[12] = (mixed[12] + 1) % VOCAB  # one token off, then the text goes its own way
    mixed[15] = 1  # an end-of-text token inside
    return [*found, mixed]


def test_metrics_equal_one_generate_per_prompt(architecture, tokenizer):
    model = tiny_model(architecture)
    ids = texts(model)
    answers = infer(model, tokenizer, [window(i, x) for i, x in enumerate(ids)], Questions())
    for x, answer in zip(ids, answers, strict=True):
        continued = continuations(model, x)
        assert answer.hits.mean() == memorization_accuracy(continued, x)
        for n in (3, 10):
            if len(x) > n:
                total, weight = fast_el(answer, n)
                assert total / weight == extraction_likelihood(continued, x, n)
        np.testing.assert_allclose(answer.log_probs, log_probs(model, x), rtol=0, atol=2e-5)


def test_in_lower_arithmetic_answers_are_near_and_whole(architecture, tokenizer):
    """bfloat16 has three digits; the same questions have answers, and probabilities are float32."""
    model = tiny_model(architecture)
    some = [window(i, x) for i, x in enumerate(texts(model))]
    full, low = (infer(model, tokenizer, some, Questions(lower=lower)) for lower in (False, True))
    for one, other in zip(full, low, strict=True):
        assert other.log_probs.dtype == np.float32
        assert not np.array_equal(other.log_probs, one.log_probs)
        np.testing.assert_allclose(other.log_probs, one.log_probs, rtol=0.05, atol=0.3)
        assert set(other.decoded) == {t for t in other.breaks if t < len(other.input_ids)}
    again = infer(model, tokenizer, some, Questions())
    assert [a.log_probs.tobytes() for a in again] == [a.log_probs.tobytes() for a in full]


def test_continuations_of_a_real_model_are_those_of_generate(shared_data):
    """stories260k and 40 tokens of TOFU, which it has never seen: it breaks, and is decoded."""
    loaded = load_causal_lm(str(shared_data / "models" / "stories260k"))
    rows = (shared_data / "tofu" / "full.json").read_text(encoding="utf-8")
    row = json.loads(rows.partition("\n")[0])
    ids = loaded.tokenizer(f"{row['question']} {row['answer']}")["input_ids"][:40]
    (answer,) = infer(loaded.model, loaded.tokenizer, [window(0, ids)], Questions(prompt_start=12))
    assert len(answer.decoded) > 5
    for length in range(12, 40):
        expected = greedy(loaded.model, ids[:length], 40)
        assert answer.continuation(length).tolist() == expected


def test_a_later_prompt_start_equals_the_definition_with_that_range(tokenizer):
    model = tiny_model("gpt_neo")
    ids = texts(model)[0]
    answer = infer(model, tokenizer, [window(0, ids)], Questions(prompt_start=12))[0]
    assert answer.prompt_start == 12
    total, weight = fast_el(answer, 3, 12)
    assert weight == 24 - 3 - 12 + 1
    assert total / weight == extraction_likelihood(continuations(model, ids), ids, 3, 12)


def test_spans_equal_the_definition_of_each_as_a_text_behind_its_context(architecture, tokenizer):
    """Template 0-2, prompt 3-9, template 10-11, response 12-21, template 22-23."""
    model = tiny_model(architecture)
    own = texts(model, lengths=(24,))
    counted = np.zeros(24, dtype=bool)
    counted[3:10] = counted[12:22] = True
    asked = [
        Window(i, str(i), np.array(x), counted[1:], 12, first_counts=False)
        for i, x in enumerate(own)
    ]
    for some, answer in zip(asked, infer(model, tokenizer, asked, Questions()), strict=True):
        x = some.input_ids.tolist()
        for n in (1, 3):
            total, prompts = 0.0, 0
            for start, stop in ((3, 10), (12, 22)):
                count = stop - n - start
                continued = continuations(model, x[:stop])
                total += count * extraction_likelihood(continued, x[:stop], n, start + 1)
                prompts += count
            assert fast_el(answer, n) == (pytest.approx(total, abs=1e-12), prompts)
        response = continuations(model, x[:22])
        assert answer.continuation(12).tolist() == response[12]
        assert answer.continuation_text == tokenizer.decode(response[12], skip_special_tokens=True)
        assert answer.reference_text == tokenizer.decode(x[12:22], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gpt_neo", "gpt2", "gemma2"])  # the three kinds of attention
def test_batch_size_order_and_memory_change_nothing(name, tokenizer):
    model = tiny_model(name)
    windows = [window(i, x) for i, x in enumerate(texts(model))]
    whole = infer(model, tokenizer, windows, Questions())
    for questions in (Questions(batch_tokens=1), Questions(memory_bytes=1)):
        for first, second in zip(whole, infer(model, tokenizer, windows, questions), strict=True):
            assert first.argmax.tolist() == second.argmax.tolist()
            assert {m: t.tolist() for m, t in first.decoded.items()} == {
                m: t.tolist() for m, t in second.decoded.items()
            }
            np.testing.assert_allclose(first.log_probs, second.log_probs, atol=1e-5)


def test_a_cuda_device_gives_half_of_its_free_memory_to_continuations(monkeypatch):
    """10 GiB free and 2 of 5 reserved ones unused: half of 12. Elsewhere, or divided, 1 GiB."""
    gib, cuda = 1 << 30, torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3 * gib)
    assert decoding_room(cuda) == 6 * gib
    assert decoding_room(cuda, divided=True) == decoding_room(torch.device("cpu")) == gib


def test_continuation_of_any_prompt_is_what_generate_gives(tokenizer):
    model = tiny_model("llama")
    for x in texts(model):
        answer = infer(model, tokenizer, [window(0, x)], Questions())[0]
        continued = continuations(model, x)
        assert {t: answer.continuation(t).tolist() for t in continued} == continued


def test_memorised_text_needs_no_decoding(tokenizer):
    model = tiny_model("gpt2")
    start = [5, 9, 40]
    x = start + greedy(model, start, 30)
    answer = infer(model, tokenizer, [window(0, x)], Questions())[0]
    assert all(length < 3 or answer.argmax[length - 1] == 1 for length in answer.decoded)


def test_text_questions_decode_one_continuation(tokenizer):
    model = tiny_model("gpt2")
    x = [int(token) for token in np.random.default_rng(0).integers(2, VOCAB, 20)]
    answer = infer(model, tokenizer, [window(0, x)], Questions(continuations="text"))[0]
    assert len(answer.decoded) == 1
    assert answer.continuation(10).tolist() == greedy(model, x[:10], 20)
    with pytest.raises(KeyError):
        answer.continuation(2)


def test_end_of_text_tokens_are_those_of_generation():
    model = tiny_model("llama")
    model.generation_config.eos_token_id = [1, 7]
    assert eos_ids(model) == {1, 7}
    model.generation_config.eos_token_id = None
    assert eos_ids(model) == {1}  # the configuration's


@pytest.mark.parametrize("tokens", [1.5, "a", [1, 2.5], {"a": 1}])
def test_what_is_no_end_of_text_token_is_refused(tokens):
    model = tiny_model("llama")
    model.generation_config.eos_token_id = tokens
    with pytest.raises(UserError, match=r"eos_token_id .* is no token"):
        eos_ids(model)
