"""Formulas with numbers worked by hand, and against float64 autograd on the definition."""

import gc
import math
import weakref

import pytest
import torch

from unlearner import functional


def definition(logits, labels, target, num_target):
    """Log-probabilities and KL written with whole softmax tables."""
    log_probs = logits.log_softmax(-1)
    chosen = log_probs[torch.arange(len(labels)), labels]
    kl = torch.zeros(len(labels), dtype=logits.dtype)
    q = target.log_softmax(-1)
    kl[:num_target] = (q.exp() * (q - log_probs[:num_target])).sum(-1)
    return chosen, kl, -(log_probs.exp() * log_probs).sum(-1)


def test_label_log_probs_by_hand():
    """Logits 0, ln 3: probabilities 1/4 and 3/4. Target 1/2, 1/2: KL = ln(1/2) - ln(3)/2 + ln 4.

    KL = 1/2 ln((1/2)/(1/4)) + 1/2 ln((1/2)/(3/4)) = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3).
    """
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    log_probs, kl, entropy = functional.label_log_probs(
        logits, torch.tensor([0, 1]), lambda rows: torch.zeros(2, 2)[rows], 1
    )
    assert log_probs.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert kl.tolist() == pytest.approx([0.5 * math.log(4 / 3), 0.0])
    assert entropy.tolist() == [0.0, 0.0]


def test_entropies_and_moments_by_hand():
    """Probabilities 1/4 and 3/4: H = 1/4 ln 4 + 3/4 ln(4/3), the mean of log p its negative.

    The two logarithms are ln 3 apart, so their deviation is sqrt(1/4 * 3/4) ln 3.
    """
    logits = torch.tensor([[0.0, math.log(3)]])
    wanted = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    _, _, entropy = functional.label_log_probs(logits, torch.tensor([0]), entropies=True)
    mean, deviation = functional.log_prob_moments(logits)
    assert entropy.tolist() == pytest.approx([wanted])
    assert mean.tolist() == pytest.approx([-wanted])
    assert deviation.tolist() == pytest.approx([math.sqrt(3) / 4 * math.log(3)])


def test_a_certain_distribution_has_no_entropy_and_a_gradient():
    """A probability that underflows to 0 adds nothing."""
    logits = torch.tensor([[0.0, 500.0, 0.0]], requires_grad=True)
    _, _, entropy = functional.label_log_probs(logits, torch.tensor([1]), entropies=True)
    entropy.sum().backward()
    assert entropy.item() == pytest.approx(0.0, abs=1e-30)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("num_target", [0, 1, 70, 150])
@pytest.mark.parametrize("overwrite", [False, True])
def test_values_and_gradients_equal_the_definition(num_target, overwrite):
    """More positions than a chunk holds, and a target for some, all or none of them."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(150, 6, generator=generator)
    weight = torch.randn(11, 6, generator=generator, requires_grad=True)
    labels = torch.randint(11, (150,), generator=generator)
    target = torch.randn(num_target, 11, generator=generator)
    pull = torch.randn(3, 150, generator=generator)
    found = functional.label_log_probs(
        hidden @ weight.T,
        labels,
        lambda rows: target[rows],
        num_target,
        entropies=True,
        overwrite=overwrite,
    )
    sum(torch.dot(value, one) for value, one in zip(found, pull, strict=True)).backward()
    exact = weight.detach().double().requires_grad_()
    wanted = definition(hidden.double() @ exact.T, labels, target.double(), num_target)
    sum(torch.dot(v, one.double()) for v, one in zip(wanted, pull, strict=True)).backward()
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value.double(), other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)


def test_logits_are_left_alone_unless_they_may_be_overwritten():
    logits = torch.randn(3, 5)
    before = logits.clone()
    functional.label_log_probs(logits, torch.tensor([0, 1, 2]))
    assert torch.equal(logits, before)


def test_bfloat16_logits_are_summed_in_float32():
    """ln(4096) from 4096 equal logits: a bfloat16 sum would stall at 256."""
    log_probs, *_ = functional.label_log_probs(
        torch.zeros(1, 4096, dtype=torch.bfloat16), torch.tensor([5])
    )
    assert log_probs.dtype == torch.float32
    assert log_probs.item() == pytest.approx(-math.log(4096), rel=1e-6)


def test_one_backward_only():
    """The buffer has become the gradient, so going back twice must not give wrong numbers."""
    logits = torch.randn(2, 3, requires_grad=True)
    log_probs, *_ = functional.label_log_probs(logits, torch.tensor([0, 1]))
    log_probs.sum().backward()
    with pytest.raises((RuntimeError, AttributeError)):
        log_probs.sum().backward()


@pytest.mark.parametrize("entropies", [False, True])
def test_what_it_keeps_goes_with_its_values(entropies):
    """Not only once the garbage collector comes by: a step's buffers are large."""

    class Target:
        def __call__(self, rows):
            return torch.zeros(4, 3)[rows]

    logits, target = torch.randn(4, 3, requires_grad=True), Target()
    kept, labels = weakref.ref(target), torch.zeros(4, dtype=torch.long)
    gc.disable()
    try:
        found = functional.label_log_probs(logits, labels, target, 4, entropies=entropies)
        torch.cat(found).sum().backward()
        del found, target
        assert kept() is None
    finally:
        gc.enable()


def test_kl_divergence_by_hand():
    """q = 1/4, 3/4 and p = 1/2, 1/2: 1/4 ln(1/2) + 3/4 ln(3/2) = 0.1308 nats."""
    q = torch.tensor([[0.0, math.log(3)]])
    found = functional.kl_divergence(q, torch.zeros(1, 2)).item()
    assert found == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_mean_per_record_is_over_each_records_own_positions():
    """Record 0: (1 + 3) / 2 = 2; record 1: 5; record 2 has no position: 0."""
    values, records = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0, 1, 0])
    assert functional.mean_per_record(values, records, 3).tolist() == [2.0, 5.0, 0.0]


def test_bounded_stops_the_gradient_at_the_bound():
    """min(loss, 2): slope 1 below it, 0 above it; no bound leaves the loss as it is."""
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    functional.bounded(loss, 2.0).sum().backward()
    assert loss.grad.tolist() == [1.0, 0.0]
    assert functional.bounded(loss, None) is loss


@pytest.mark.parametrize("size", [7, 1000])
def test_the_size_of_chunks_changes_nothing_and_says_how_often_the_target_is_asked(
    monkeypatch, size
):
    """30 positions, 20 of them with a target: 20 / size calls forwards and as many backwards."""
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(30, 11), 3 * torch.randn(20, 11)
    labels, weights = torch.randint(11, (30,)), torch.randn(3, 30)

    def figures():
        asked, given = [], logits.clone().requires_grad_()

        def target_logits(rows):
            asked.append(rows)
            return target[rows]

        found = functional.label_log_probs(given, labels, target_logits, 20, entropies=True)
        (torch.stack(found) * weights).sum().backward()
        return torch.stack(found).detach(), given.grad, len(asked)

    values, gradient, _ = figures()
    monkeypatch.setattr(functional, "rows_at_once", lambda _: size)
    other_values, other_gradient, asked = figures()
    assert torch.allclose(other_values, values, atol=1e-6)
    assert torch.allclose(other_gradient, gradient, atol=1e-6)
    assert asked == 2 * math.ceil(20 / size)


def test_an_accelerator_works_on_as_many_positions_as_fill_it():
    """128 MiB of 128,256 floats each are 261 positions; few tokens give more, a processor 64."""
    assert functional.rows_at_once(torch.empty(1, 128_256, device="meta")) == 261
    assert functional.rows_at_once(torch.empty(1, 10**9, device="meta")) == 64
    assert functional.rows_at_once(torch.empty(1, 128_256)) == 64


def test_chunks_cover_every_position_once():
    slices = functional.chunks(150)
    assert [i for rows in slices for i in range(rows.start, rows.stop)] == list(range(150))
    assert functional.chunks(0) == []
