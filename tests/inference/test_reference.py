"""The kept distribution is the target model's own, whatever happens to the model afterwards."""

import copy

import numpy as np
import pytest
import torch

from conftest import VOCAB, tiny_model
from unlearner.data.batches import collate
from unlearner.data.windows import Window
from unlearner.inference import reference
from unlearner.inference.reference import TargetDistribution, likelihoods, logits_at
from unlearner.models.heads import output_head


def windows(lengths=(9, 4, 12)):
    rng = np.random.default_rng(1)
    return [
        Window(i, str(i), rng.integers(0, VOCAB, n), rng.random(n - 1) < 0.8, 1)
        for i, n in enumerate(lengths)
    ]


def test_kept_logits_are_the_models_own_after_the_model_has_changed(architecture):
    model, some = tiny_model(architecture), windows()
    target = TargetDistribution.of(model, some)
    wanted = []
    with torch.no_grad():
        for window in some:
            table = model(input_ids=torch.from_numpy(window.input_ids)[None]).logits[0, :-1]
            wanted.append(table[torch.from_numpy(window.scored)])
        for parameter in model.parameters():
            parameter.add_(0.1)
    order = [2, 0]
    found = target.logits(order, collate([some[i] for i in order]))(slice(None))
    torch.testing.assert_close(found, torch.cat([wanted[i] for i in order]), rtol=1e-4, atol=1e-4)


def test_the_target_is_asked_in_the_forward_passs_arithmetic_in_the_backward_too():
    """Else the gradient would be that of another divergence than the one that is told."""
    model, some = tiny_model("llama"), windows()
    target = TargetDistribution.of(model, some)
    batch = collate(some)
    with torch.autocast("cpu", torch.bfloat16):
        low = target.logits([0, 1, 2], batch)
        forward = low(slice(None))
    assert forward.dtype == torch.bfloat16
    assert torch.equal(low(slice(None)), forward)  # behind the block, as backward asks
    full = target.logits([0, 1, 2], batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert full(slice(None)).dtype == torch.float32


def test_weights_of_the_target_are_rounded_once_and_to_what_autocast_makes_of_them(monkeypatch):
    """The same bits as autocast's own call; a copy is made for the first batch and no other."""
    model, some = tiny_model("llama"), windows()
    target, batch = TargetDistribution.of(model, some), collate(windows())
    copies = []
    whole = copy.deepcopy
    monkeypatch.setattr(
        "unlearner.models.heads.copy.deepcopy", lambda h: copies.append(h) or whole(h)
    )
    assert target.head is not None
    states = torch.cat(list(target.hidden))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = target.head(states)
        for _ in range(2):
            assert torch.equal(target.logits([0, 1, 2], batch)(slice(None)), expected)
    assert copies == [target.head]
    assert target.logits([0, 1, 2], batch)(slice(None)).dtype == torch.float32
    rounded = target.head.rounded(torch.float16)
    assert rounded.linear.weight.dtype == torch.float16  # another dtype is made anew


def test_bytes_kept_are_positions_times_width_times_four():
    """Scored labels of the three windows, 32 hidden units of 4 bytes each."""
    some = windows()
    kept = TargetDistribution.of(tiny_model("llama"), some).num_bytes
    assert kept == sum(int(window.scored.sum()) for window in some) * 32 * 4


@pytest.mark.parametrize("headless", [False, True])
def test_padding_and_position_pick_change_nothing(architecture, headless):
    """Windows padded together give the logits that each gives alone."""
    model, some = tiny_model(architecture), windows()
    head = None if headless else output_head(model)
    assert headless or head is not None  # every architecture here has a plain head
    with torch.no_grad():
        together = logits_at(model, head, collate(some))
        alone = torch.cat([logits_at(model, head, collate([window])) for window in some])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_head_that_does_not_give_the_logits_is_not_believed(monkeypatch):
    model = tiny_model("llama")
    forward = model.forward

    def shifted(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits + torch.arange(VOCAB)
        return out

    monkeypatch.setattr(model, "forward", shifted)
    assert output_head(model) is None
    some = windows()
    target = TargetDistribution.of(model, some)
    assert target.model is not None
    batch = collate(some)
    found = target.logits([0, 1, 2], batch)(slice(None))
    assert found.shape == (len(batch["labels"]), VOCAB)


def test_windows_run_by_length_give_what_they_give_together(architecture, monkeypatch):
    """Values and gradients; five windows in three passes, one of them without a label."""
    model = tiny_model(architecture)
    some = windows((9, 3, 12, 4, 8))
    some[3].scored[:] = False
    passes = []
    body = reference.body
    monkeypatch.setattr(
        reference,
        "body",
        lambda *given: passes.append(tuple(given[1]["input_ids"].shape)) or body(*given),
    )
    found = []
    for costs in (1000, 2):
        passes.clear()
        monkeypatch.setattr(reference, "PASS_TOKENS", costs)
        values = likelihoods(model, collate(some), entropies=True)
        total = (values.log_probs + values.entropy).sum()
        slopes = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        found.append((values, [slope for slope in slopes if slope is not None]))
        assert passes == ([(5, 12)] if costs == 1000 else [(2, 4), (2, 9), (1, 12)])
    (together, one), (apart, other) = found
    assert torch.equal(together.owner, apart.owner)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(
            getattr(apart, name), getattr(together, name), rtol=1e-4, atol=1e-5
        )
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt_neo"])
def test_sets_of_one_model_share_its_frozen_copy(name, monkeypatch):
    model = tiny_model(name)
    one, other = windows()[:2], windows()[2:]
    found = TargetDistribution.of_sets(model, {"one": one, "other": other})
    more = TargetDistribution.of_sets(model, {"again": one}, found["one"])["again"]
    assert found["one"].head is found["other"].head is more.head
    assert found["one"].head.linear is not model.get_output_embeddings()
    assert all(map(torch.equal, more.hidden, found["one"].hidden))
    alone = TargetDistribution.of(model, other)
    assert all(map(torch.equal, alone.hidden, found["other"].hidden))
    monkeypatch.setattr(reference, "output_head", lambda _: None)
    found = TargetDistribution.of_sets(model, {"one": one, "other": other})
    more = TargetDistribution.of_sets(model, {"again": one}, found["one"])["again"]
    assert found["one"].model is found["other"].model is more.model is not model
    assert TargetDistribution.of_sets(model, {}) == {}
