"""Models whose state is no cache of keys and values are measured and trained as others are."""

import numpy as np
import pytest
import torch
from test_language_model import texts, window

from conftest import VOCAB, tiny_model
from oracle import continuations, greedy, is_tie, log_probs
from unlearner.data.batches import collate
from unlearner.inference import generation
from unlearner.inference.generation import plain_generation, shares_cache, way_to_generate
from unlearner.inference.language_model import Questions, beam_continuations, infer
from unlearner.inference.reference import likelihoods
from unlearner.models.heads import output_head
from unlearner.settings import TrainingSettings
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)


def test_continuations_and_log_probs_are_those_of_one_row_alone(hybrid, tokenizer):
    """Texts of 24, 13, 5 and 24 tokens in one batch, padded on the right."""
    model = tiny_model(hybrid)
    ids = texts(model)
    answers = infer(model, tokenizer, [window(i, x) for i, x in enumerate(ids)], Questions())
    for x, answer in zip(ids, answers, strict=True):
        continued = continuations(model, x)
        # RecurrentGemma's one row goes on from the row before where the prompt is one token.
        continued[1] = greedy(model, x[:1], len(x), use_cache=False)
        for t, wanted in continued.items():
            found = answer.continuation(t).tolist()
            assert len(found) == len(wanted)
            apart = [k for k in range(len(found)) if found[k] != wanted[k]]
            # On some processors one of zamba's is decided by the last bit.
            assert not apart or is_tie(
                model, [*x[:t], *wanted[: apart[0]]], found[apart[0]], wanted[apart[0]]
            )
        np.testing.assert_allclose(answer.log_probs, log_probs(model, x), rtol=0, atol=1e-4)


def test_a_padded_batch_has_the_gradient_of_its_rows_one_by_one(hybrid):
    model = tiny_model(hybrid)
    windows = [window(i, x) for i, x in enumerate(texts(model))]
    likelihoods(model, collate(windows)).loss().backward()
    together = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = [likelihoods(model, collate([one])).log_probs for one in windows]
    (-torch.cat(alone).mean()).backward()
    largest = max(float(gradient.abs().max()) for gradient in together.values())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                together[name], parameter.grad, rtol=1e-3, atol=1e-5 * largest, msg=name
            )


def test_a_step_lowers_the_loss(hybrid):
    model = tiny_model(hybrid)
    batch = collate([window(i, x) for i, x in enumerate(texts(model))])
    trainer = Trainer(TrainingSettings(device="cpu"), Log())
    trainer.start(model, 1e-5)
    losses = [
        trainer.step(lambda: {"loss": likelihoods(model, batch).loss()})["loss"] for _ in range(3)
    ]
    assert losses == sorted(losses, reverse=True)


def test_none_of_them_is_continued_from_a_cache_of_keys_and_values(hybrid):
    model = tiny_model(hybrid)
    assert not shares_cache(model, output_head(model))


def test_models_with_attention_alone_are_continued_from_their_cache(architecture):
    model = tiny_model(architecture)
    assert shares_cache(model, output_head(model))


def test_a_state_in_the_model_itself_is_noticed(monkeypatch):
    """RecurrentGemma takes any cache of keys and values and keeps the rest in its layers."""
    model = tiny_model("recurrent_gemma")
    monkeypatch.setattr(generation, "_keeps_keys_and_values", lambda _: True)
    assert not shares_cache(model, output_head(model))


def test_rwkv_is_asked_one_row_at_a_time_and_that_is_said():
    way = way_to_generate(tiny_model("rwkv"))
    assert way.rows == 1
    assert way.cached
    assert "one row at a time" in way.note
    assert way_to_generate(tiny_model("mamba")).note == ""


def test_a_model_whose_cache_is_wrong_is_asked_without_it(monkeypatch, tokenizer):
    """Here every pass with a cache but the first sees its tokens shifted by one."""
    model = tiny_model("mamba2")
    x = texts(model)[0]
    right = continuations(model, x)
    real = model.forward

    def wrong(input_ids=None, **given):
        if given.get("use_cache") is not False and input_ids.shape[1] == 1:
            input_ids = (input_ids + 1) % VOCAB
        return real(input_ids=input_ids, **given)

    monkeypatch.setattr(model, "forward", wrong)
    assert way_to_generate(model) == (1, False)
    answer = infer(model, tokenizer, [window(0, x)], Questions())[0]
    assert {t: answer.continuation(t).tolist() for t in right} == right


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_a_penalty_that_the_model_brings_does_not_work_on_measurements(name, tokenizer):
    model = tiny_model(name)
    x = texts(model)[0]
    with plain_generation(model):
        plain = greedy(model, x[:4], 24)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    assert greedy(model, x[:4], 24) != plain
    answer = infer(model, tokenizer, [window(0, x)], Questions())[0]
    assert answer.continuation(4).tolist() == plain
    assert model.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("name", ["mamba", "rwkv", "qwen3_5_text"])
def test_beams_are_those_of_one_row(name, tokenizer):
    model = tiny_model(name)
    windows = [window(i, x) for i, x in enumerate(texts(model)) if len(x) == 24]
    together = beam_continuations(model, tokenizer, windows, num_beams=3)
    alone = [beam_continuations(model, tokenizer, [one], num_beams=3)[0] for one in windows]
    assert together == alone
