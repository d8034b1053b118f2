"""A real chat model of 135M parameters, through its chat template and through our inference."""

import numpy as np
import pytest
import torch

import real_model
from unlearner.data.record import Record, RecordSet
from unlearner.data.windows import Layout, tokenize_set
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import load_causal_lm

pytestmark = pytest.mark.slow

TURNS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    (
        "Who wrote the play about the prince of Denmark, and when was it first printed?",
        "William Shakespeare wrote Hamlet; the first quarto was printed in 1603, the second in "
        "1604, and the text of the folio of 1623 differs from both.",
    ),
)


@pytest.fixture(scope="module")
def loaded(smollm2):
    return load_causal_lm(str(smollm2))


@pytest.fixture(scope="module")
def windows(loaded):
    """A short and a long record in the form of a chat."""
    records = tuple(
        Record(str(number), prompt=prompt, response=response)
        for number, (prompt, response) in enumerate(TURNS)
    )
    some = RecordSet("forget", records, "memory")
    return tokenize_set(some, loaded.tokenizer, Layout(chat=True, scope="response")).windows


def test_it_answers_through_its_chat_template(smollm2):
    """A model that lost its weights, its template or its end of a turn would go on or ramble."""
    assert real_model.answer(smollm2, "What is the capital of France?") == TURNS[0][1]


def test_a_folder_that_is_there_is_left_as_it_is(smollm2, monkeypatch, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    monkeypatch.setattr("sys.argv", ["real_model.py", "--output", str(smollm2)])
    real_model.main()
    assert "is there already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()} == before


def test_records_are_the_tokens_of_the_chat_template(loaded, windows):
    for (prompt, response), window in zip(TURNS, windows, strict=True):
        chat = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        ids = loaded.tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        assert window.input_ids.tolist() == list(ids)


def test_log_probs_are_those_of_the_plain_model_padded_and_alone(loaded, windows):
    """Float32 sums of another order differ in the sixth digit, a wrong position in the first."""
    assert len(windows[0]) < len(windows[1])  # together the first one is padded
    together = infer(loaded.model, loaded.tokenizer, windows, Questions(continuations="none"))
    for window, padded in zip(windows, together, strict=True):
        alone = infer(loaded.model, loaded.tokenizer, [window], Questions(continuations="none"))[0]
        plain = _plain_log_probs(loaded.model, window.input_ids)
        np.testing.assert_allclose(padded.log_probs, plain, rtol=0, atol=1e-4)
        np.testing.assert_allclose(alone.log_probs, plain, rtol=0, atol=1e-4)


@torch.no_grad()
def _plain_log_probs(model, input_ids):
    ids = torch.from_numpy(input_ids)[None]
    logits = model(input_ids=ids).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].numpy()
