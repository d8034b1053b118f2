"""The losses of the methods for language models, with numbers worked by hand.

The model is a table: the next token depends on the last one alone. Of two tokens, it says

    after 0:  0 with 3/4, 1 with 1/4        after 1:  0 with 1/2, 1 with 1/2

and the reference says 1/2 everywhere. Two forget records, [0 1 1] and [0 0], have the probabilities
1/4 * 1/2 = 1/8 and 3/4 under the model, and 1/4 and 1/2 under the reference.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unlearner.data.batches import collate
from unlearner.data.windows import Window
from unlearner.inference.reference import likelihoods
from unlearner.methods.dpo import DPO
from unlearner.methods.idk import IDK
from unlearner.methods.kl_minimization import KLMinimization
from unlearner.methods.npo import NPO
from unlearner.methods.simnpo import SimNPO
from unlearner.methods.undial import UNDIAL
from unlearner.methods.weighted_gradient_ascent import WeightedGradientAscent

MODEL = ((3 / 4, 1 / 4), (1 / 2, 1 / 2))
REFERENCE = ((1 / 2, 1 / 2), (1 / 2, 1 / 2))
# KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln(2)
HALF_TO_MODEL = 0.5 * math.log(4 / 3)


class Table(nn.Module):
    """Gives the logits of a row of a table for each token."""

    def __init__(self, rows=MODEL):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(rows, dtype=torch.float64).log())
        self.device = torch.device("cpu")

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids, **_ignored):
        return SimpleNamespace(logits=self.logits[input_ids])


def windows(*records):
    return collate(
        [
            Window(i, str(i), np.array(ids), np.ones(len(ids) - 1, bool), 1)
            for i, ids in enumerate(records)
        ]
    )


FORGET = windows([0, 1, 1], [0, 0])
BATCH = {"forget": FORGET, "retain": windows([0, 1]), "refusal": windows([0, 0], [0, 0])}


def said(method, model=None, reference=None, **changed):
    """The terms of a step as numbers."""
    with torch.no_grad():
        terms = method.loss(model or Table(), BATCH | changed, reference or Table(REFERENCE))
    return {name: float(term) for name, term in terms.items()}


def gradient(model, value):
    return torch.autograd.grad(value, model.logits)[0]


def forget_gradient(method, reference=REFERENCE):
    model = Table()
    return gradient(model, method.loss(model, BATCH, Table(reference))["forget"])


# NPO


def test_npo_by_hand():
    """Ratios 1/2 and 3/2; beta = 1: -2 mean(ln 1/(1 + 1/2), ln 1/(1 + 3/2)) = ln(3/2 * 5/2).

    The retain record [0 1] has -ln 1/4 = ln 4, or the divergence at its one position.
    """
    terms = said(NPO(beta=1.0, forget_weight=2.0, retain_weight=0.5))
    assert terms == pytest.approx({"forget": 2 * math.log(3.75), "retain": 0.5 * math.log(4)})
    close = said(NPO(beta=1.0, retain_term="kl"))
    assert close == pytest.approx({"forget": math.log(3.75), "retain": HALF_TO_MODEL})


def test_npo_at_the_reference_is_two_log_two_over_beta():
    """The ratio is 1, so -(2 / 0.5) ln(1/2) = 4 ln 2, whatever the record's length."""
    terms = said(NPO(beta=0.5, retain_term="kl"), reference=Table())
    assert terms == pytest.approx({"forget": 4 * math.log(2), "retain": 0.0}, abs=1e-12)


def test_npo_without_temperature_pushes_as_gradient_ascent_does():
    """2 sigma(beta r) -> 1: the gradient of the mean log-probability of records."""
    model = Table()
    ascent = gradient(model, likelihoods(model, FORGET).sums().mean())
    torch.testing.assert_close(forget_gradient(NPO(beta=1e-7)), ascent, rtol=1e-6, atol=1e-9)


# SimNPO


def test_simnpo_by_hand():
    """Mean log-probabilities -ln(8) / 2 and ln 3/4; beta = 2: the odds are 8 and 16/9.

    -(2 / 2) mean(ln 8/9, ln 16/25). With gamma = ln 2 the odds are halved: 4 and 8/9.
    """
    terms = said(SimNPO(beta=2.0, forget_weight=1.0, retain_weight=0.5))
    forget = (math.log(9 / 8) + math.log(25 / 16)) / 2
    assert terms == pytest.approx({"forget": forget, "retain": 0.5 * math.log(4)})
    margin = said(SimNPO(beta=2.0, forget_weight=4.0, gamma=math.log(2)))
    assert margin["forget"] == pytest.approx(4 * (math.log(5 / 4) + math.log(17 / 8)) / 2)


def test_simnpo_never_asks_the_reference():
    method = SimNPO()
    assert method.asks == {}
    with torch.no_grad():
        assert method.loss(Table(), BATCH).keys() == {"forget", "retain"}


def test_simnpo_without_temperature_pushes_each_record_alike():
    model = Table()
    ascent = gradient(model, likelihoods(model, FORGET).means().mean())
    found = forget_gradient(SimNPO(beta=1e-7, forget_weight=1.0))
    torch.testing.assert_close(found, ascent, rtol=1e-6, atol=1e-9)


def test_simnpo_of_records_of_one_token_is_npo_against_a_reference_that_is_sure():
    """With |y| = 1 and p_ref = 1 the ratio is p itself."""
    one = windows([0, 1], [1, 0])
    sure = Table(((1e-12, 1 - 1e-12), (1 - 1e-12, 1e-12)))
    simple = said(SimNPO(beta=0.7, forget_weight=1.0), forget=one)
    assert simple["forget"] == pytest.approx(
        said(NPO(beta=0.7), forget=one, reference=sure)["forget"]
    )


# WGA


def test_weighted_gradient_ascent_by_hand():
    """Tokens of 1/4, 1/2 and 3/4: the mean of p ln p over three; squared weights with beta = 2."""
    for beta in (1, 2):
        terms = said(WeightedGradientAscent(beta=beta, forget_weight=3.0, retain_weight=0.5))
        forget = sum(p**beta * math.log(p) for p in (1 / 4, 1 / 2, 3 / 4)) / 3
        assert terms == pytest.approx({"forget": 3 * forget, "retain": 0.5 * math.log(4)})


def test_the_weight_of_a_token_has_no_gradient():
    """One token of 1/4: d(1/4 ln p) / d logits = 1/4 (onehot - p) = 1/4 (-3/4, 3/4).

    With a gradient through the weight it would be (1 + ln 1/4) times that.
    """
    model = Table()
    batch = BATCH | {"forget": windows([0, 1])}
    found = gradient(model, WeightedGradientAscent().loss(model, batch)["forget"])
    torch.testing.assert_close(found[0], torch.tensor([-3 / 16, 3 / 16], dtype=torch.float64))


def test_weighted_gradient_ascent_of_power_nought_is_gradient_ascent():
    terms = said(WeightedGradientAscent(beta=0))
    assert terms["forget"] == pytest.approx(math.log(1 / 4 * 1 / 2 * 3 / 4) / 3)


# UNDIAL


def test_undial_by_hand():
    """After 0 the reference's (1/2, 1/2) with the label 1 lowered by ln 4 is 4/5 to 1/5.

    Against (3/4, 1/4) the divergence is 4/5 ln(16/15) + 1/5 ln(4/5). The gradient of the logits is
    the model's probabilities less the teacher's: (3/4 - 4/5, 1/4 - 1/5), as of the cross-entropy.
    """
    method, model, one = UNDIAL(beta=math.log(4)), Table(), windows([0, 1])
    terms = method.loss(model, BATCH | {"forget": one}, Table(REFERENCE))
    forget = 0.8 * math.log(16 / 15) + 0.2 * math.log(4 / 5)
    assert terms["forget"].item() == pytest.approx(forget)
    assert terms["retain"].item() == pytest.approx(math.log(4))
    found = gradient(model, terms["forget"])
    torch.testing.assert_close(found[0], torch.tensor([-1 / 20, 1 / 20], dtype=torch.float64))


def test_undial_averages_over_the_tokens_and_lowers_each_token_s_own_label():
    """[0 1 1] and [0 0]: teachers (4/5, 1/5) after 0 before 1, the same after 1, (1/5, 4/5)."""
    first = 0.8 * math.log(16 / 15) + 0.2 * math.log(4 / 5)
    second = 0.8 * math.log(8 / 5) + 0.2 * math.log(2 / 5)
    third = 0.2 * math.log(4 / 15) + 0.8 * math.log(16 / 5)
    terms = said(UNDIAL(beta=math.log(4), forget_weight=2.0, retain_weight=0.5))
    expected = {"forget": 2 * (first + second + third) / 3, "retain": 0.5 * math.log(4)}
    assert terms == pytest.approx(expected)


def test_undial_leaves_the_reference_as_it_is():
    reference = Table(REFERENCE)
    terms = [said(UNDIAL(), reference=reference) for _ in range(2)]
    assert terms[0] == terms[1]
    assert torch.equal(reference.logits, Table(REFERENCE).logits)


# KL minimisation


def test_kl_minimization_by_hand():
    """Tokens of 1/4, 1/2, 3/4: the mean log-probability; and the divergence of [0 1]."""
    terms = said(KLMinimization(forget_weight=2.0, retain_weight=3.0))
    forget = math.log(1 / 4 * 1 / 2 * 3 / 4) / 3
    assert terms == pytest.approx({"forget": 2 * forget, "retain": 3 * HALF_TO_MODEL})


def test_kl_minimization_at_the_reference_only_ascends():
    model = Table()
    terms = KLMinimization().loss(model, BATCH, Table())
    assert terms["retain"].item() == pytest.approx(0, abs=1e-12)
    assert gradient(model, terms["retain"]).abs().max() < 1e-12


# Refusals


def test_idk_by_hand_and_blind_to_the_forget_records():
    """Refusals [0 0] of 3/4 each: ln 4/3."""
    terms = said(IDK(forget_weight=2.0, retain_weight=0.5), forget=None)
    assert terms == pytest.approx({"forget": 2 * math.log(4 / 3), "retain": 0.5 * math.log(4)})


def test_dpo_by_hand():
    """Refusals gain 3/2 on the reference, the forget records 1/2 and 3/2: odds 3 and 1.

    beta = 1: -mean(ln 3/4, ln 1/2). With beta = 2 the odds are 9 and 1: -(1/2) mean(ln 9/10, ln
    1/2).
    """
    terms = said(DPO(beta=1.0, forget_weight=2.0, retain_weight=0.5))
    forget = (math.log(4 / 3) + math.log(2)) / 2
    assert terms == pytest.approx({"forget": 2 * forget, "retain": 0.5 * math.log(4)})
    sharp = said(DPO(beta=2.0))
    assert sharp["forget"] == pytest.approx((math.log(10 / 9) + math.log(2)) / 4)


def test_dpo_at_the_reference_is_log_two_over_beta():
    assert said(DPO(beta=0.5), reference=Table())["forget"] == pytest.approx(2 * math.log(2))


def test_dpo_without_temperature_trades_half_the_answers_for_half_the_refusals():
    """sigma(-beta d) -> 1/2."""
    model = Table()
    traded = likelihoods(model, FORGET).sums() - likelihoods(model, BATCH["refusal"]).sums()
    half = gradient(model, traded.mean() / 2)
    torch.testing.assert_close(forget_gradient(DPO(beta=1e-7)), half, rtol=1e-6, atol=1e-9)
