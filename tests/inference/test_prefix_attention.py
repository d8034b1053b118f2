"""Attention over shared and own positions equals attention over all of them at once."""

import numpy as np
import pytest
import torch

from conftest import tiny_model
from unlearner.inference.prefix_attention import PrefixAttention, RowGroups, can_share

WINDOWS = np.array([1, 0, 1, 2, 1])  # of five rows; three windows
SHARED, OWN, HEADS, KEY_HEADS, WIDTH = 5, 3, 4, 2, 8


def plain_attention(query, keys, values, *, sliding_window=None, softcap=None):
    """One row: (H, D) on (K, T, D), the definition in float64."""
    keys, values = (x.double().repeat_interleave(HEADS // KEY_HEADS, 0) for x in (keys, values))
    scores = (keys @ query.double()[..., None])[..., 0]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if sliding_window is not None:
        scores[:, :-sliding_window] = -torch.inf
    return (scores.softmax(-1)[..., None] * values).sum(1)


@pytest.mark.parametrize("sliding_window", [None, 1, 3, 4, 6, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_both_parts_are_one_softmax(sliding_window, softcap):
    """A sliding window of 3 sees none of the 5 shared positions, one of 6 the last three."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, KEY_HEADS, SHARED, WIDTH)
    prefix_keys = torch.randn(shape, generator=generator)
    prefix_values = torch.randn(shape, generator=generator)
    query = torch.randn(5, HEADS, 1, WIDTH, generator=generator)
    keys = torch.randn(5, KEY_HEADS, OWN, WIDTH, generator=generator)
    values = torch.randn(5, KEY_HEADS, OWN, WIDTH, generator=generator)
    attention = PrefixAttention({0: (prefix_keys, prefix_values)})
    attention.position = SHARED + OWN - 1
    attention.groups = RowGroups.of(WINDOWS, 3, torch.device("cpu"))
    options = {"sliding_window": sliding_window, "softcap": softcap}
    found = attention.attend(0, query, keys, values, **options)
    for row, window in enumerate(WINDOWS):
        expected = plain_attention(
            query[row, :, 0],
            torch.cat([prefix_keys[window], keys[row]], 1),
            torch.cat([prefix_values[window], values[row]], 1),
            **options,
        )
        torch.testing.assert_close(found[row, :, 0].double(), expected, rtol=1e-5, atol=1e-6)


def test_rows_are_found_by_window_and_back():
    """Window 1 has rows 0, 2 and 4; the others have one row and two empty places, which hold 0."""
    groups = RowGroups.of(WINDOWS, 3, torch.device("cpu"))
    assert groups.rows.tolist() == [[1, 0, 0], [0, 2, 4], [3, 0, 0]]
    assert groups.rows[groups.window, groups.slot].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["gpt_neo", "llama"])
def test_the_model_has_its_own_attention_back_even_after_an_error(name):
    model = tiny_model(name)
    ids = torch.arange(2, 20)[None]
    before = model(input_ids=ids).logits
    attention = PrefixAttention({})
    attention.attend = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError), attention.installed(model):
        model(input_ids=ids)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_models_of_other_kinds_keep_their_own_attention():
    model = tiny_model("llama")
    assert can_share(model)
    assert not can_share(model.bfloat16())
    model.float().config._attn_implementation = "flex_attention"
    assert not can_share(model)
