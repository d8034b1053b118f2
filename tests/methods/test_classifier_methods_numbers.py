"""The losses of the methods for classifiers, with numbers worked by hand.

Everywhere the vectors of a model are given instead of computed: of token t a `Table` makes the row
t of its features, which are its logits too. Or logits (N, C), features (N, D) and labels (N,) of N
labelled positions are given.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.modeling_outputs import TokenClassifierOutput

from classifier_world import SEQUENCE, TOKEN, labelled, tiny_classifier
from unlearner import functional
from unlearner.data.labelled import Example, collate_examples
from unlearner.methods.bad_teacher import BadTeacher
from unlearner.methods.calibrated_distillation import (
    CalibratedDistillation,
    CalibratedTeacher,
    QuantileMap,
)
from unlearner.methods.contrastive_unlearning import ContrastiveUnlearning
from unlearner.methods.finetune import FineTune
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.methods.gradient_difference import GradientDifference
from unlearner.methods.l1_sparse import L1Sparse
from unlearner.methods.random_labels import RandomLabels, relabel
from unlearner.methods.salun import SalUn
from unlearner.methods.scrub import SCRUB
from unlearner.models.heads import Encoded
from unlearner.training.losses import compared

torch.set_num_threads(1)

# Probabilities 1/4 and 3/4, and 1/2 twice.
QUARTER, EVEN = [0.0, math.log(3)], [0.0, 0.0]
# KL((1/2, 1/2) || (1/4, 3/4)) = 1/2 ln(2) + 1/2 ln(2/3) = 1/2 ln(4/3)
HALF_TO_QUARTER = 0.5 * math.log(4 / 3)
# KL((1/4, 3/4) || (1/2, 1/2)) = 1/4 ln(1/2) + 3/4 ln(3/2)
QUARTER_TO_HALF = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)


class TableForTokenClassification(nn.Module):
    """A tagger whose logits of a token are a row of a table, whatever stands around it."""

    def __init__(self, *rows):
        super().__init__()
        self.config = BertConfig(vocab_size=len(rows), num_labels=len(rows[0]), pad_token_id=None)
        self.device = torch.device("cpu")
        self.rows = nn.Embedding.from_pretrained(torch.tensor(rows))
        self.head = nn.Linear(len(rows[0]), len(rows[0]), bias=False)
        self.head.weight = nn.Parameter(torch.eye(len(rows[0])))

    def forward(self, input_ids, **_):
        return TokenClassifierOutput(logits=self.head(self.rows(input_ids)))


def part(*tokens_and_labels):
    """One example with these tokens, every one with its label, as a batch has it."""
    tokens, labels = zip(*tokens_and_labels, strict=True)
    ids, places = np.array(tokens), np.arange(len(tokens))
    zeros = np.zeros_like(ids)
    return collate_examples([Example(0, "r", ids, zeros, places, np.array(labels))])


def encoded(logits, labels, features=None):
    features = torch.zeros(len(labels), 2) if features is None else torch.tensor(features)
    return Encoded(torch.tensor(logits), features, torch.tensor(labels))


Table = TableForTokenClassification


def close(terms: dict[str, Tensor], **expected: float) -> bool:
    return {name: term.item() for name, term in terms.items()} == pytest.approx(expected)


def test_finetune_is_the_mean_cross_entropy_of_the_remaining_positions():
    """-ln(1/4) and -ln(3/4): their mean is (ln 4 + ln 4/3) / 2."""
    terms = FineTune().loss(Table(QUARTER), {"retain": part((0, 0), (0, 1))})
    assert close(terms, retain=(math.log(4) + math.log(4 / 3)) / 2)


def test_gradient_ascent_is_minus_the_mean_cross_entropy_of_the_forget_positions():
    terms = GradientAscent().loss(Table(QUARTER), {"forget": part((0, 0), (0, 1))})
    assert close(terms, forget=-(math.log(4) + math.log(4 / 3)) / 2)


def test_gradient_difference_weighs_both_parts():
    """0.05 * -ln 4 for the forget position, 0.95 * ln 4/3 for the remaining one."""
    parts = {"forget": part((0, 0)), "retain": part((0, 1))}
    terms = GradientDifference().loss(Table(QUARTER), parts)
    assert close(terms, forget=-0.05 * math.log(4), retain=0.95 * math.log(4 / 3))


def test_random_labels_learns_both_parts_with_the_labels_it_is_given():
    parts = {"forget": part((0, 1)), "retain": part((0, 0))}
    terms = RandomLabels().loss(Table(QUARTER), parts)
    assert close(terms, forget=math.log(4 / 3), retain=math.log(4))


def test_tempered_kl_by_hand():
    """At T = 2 logits (0, 2 ln 3) have probabilities 1/4 and 3/4, and the KL counts T^2 = 4 times.

    The teacher's (0, 0) stay 1/2 and 1/2.
    """
    half, quarter = torch.zeros(1, 2), torch.tensor([QUARTER])
    assert float(functional.tempered_kl(half, quarter)) == pytest.approx(HALF_TO_QUARTER)
    assert float(functional.tempered_kl(quarter, half)) == pytest.approx(QUARTER_TO_HALF)
    warm = functional.tempered_kl(half, 2 * quarter, temperature=2.0)
    assert float(warm) == pytest.approx(4 * HALF_TO_QUARTER)


def test_bad_teacher_averages_over_the_positions_of_both_parts():
    """One forget and two remaining positions: every divergence counts a third.

    The student says (1/4, 3/4) of the forget position, whose teacher says (1/2, 1/2); of the
    remaining ones it says what the target said, and (1/2, 1/2) instead of (1/4, 3/4).
    """
    student = Table(QUARTER, EVEN)
    teachers = {"forget": Table(EVEN, EVEN), "retain": Table(QUARTER, QUARTER)}
    batch = {"forget": part((0, 0)), "retain": part((0, 0), (1, 0))}
    terms = BadTeacher().loss(student, batch, teachers)
    assert close(terms, forget=HALF_TO_QUARTER / 3, retain=QUARTER_TO_HALF / 3)


def test_scrub_departs_on_forget_positions_and_stays_on_the_others():
    """T = 1, gamma = 2, alpha = 0.5; the student says (1/4, 3/4), the teacher (1/2, 1/2).

    Forget: -KL. Remaining, of label 0: 2 ln 4, and 0.5 KL.
    """
    method = SCRUB(temperature=1.0, retain_weight=2.0, kl_weight=0.5)
    batch = {"forget": part((0, 0)), "retain": part((0, 0))}
    terms = method.loss(Table(QUARTER), batch, Table(EVEN))
    assert close(terms, forget=-HALF_TO_QUARTER, retain=2 * math.log(4), kl=0.5 * HALF_TO_QUARTER)


def test_scrub_takes_each_part_alone():
    for role, names in (("forget", {"forget"}), ("retain", {"retain", "kl"})):
        assert set(SCRUB().loss(Table(QUARTER), {role: part((0, 0))}, Table(EVEN))) == names


def test_salun_learns_the_labels_it_is_given_and_weighs_the_rest():
    """Label 1 of the forget position has 3/4, label 0 of the remaining one 1/4, which counts 3."""
    parts = {"forget": part((0, 1)), "retain": part((0, 0))}
    terms = SalUn(retain_weight=3.0).loss(Table(QUARTER), parts)
    assert close(terms, forget=math.log(4 / 3), retain=3 * math.log(4))


def test_margins_by_hand():
    """Of 1/4 and 3/4: ln(1/4 / 3/4) and ln(3/4 / 1/4); of three equal logits ln(1/3 / 2/3)."""
    two = functional.label_margins(torch.tensor([QUARTER, QUARTER]), torch.tensor([0, 1]))
    assert two.tolist() == pytest.approx([-math.log(3), math.log(3)])
    three = functional.label_margins(torch.zeros(1, 3), torch.tensor([2]))
    assert three.tolist() == pytest.approx([-math.log(2)])


def test_a_margin_of_a_label_that_is_nearly_certain_is_exact():
    """1 - p is 2e-40, of which float32 knows nothing; the margin is 100 - ln(e^0 + e^8)."""
    found = functional.label_margins(torch.tensor([[100.0, 0.0, 8.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(100 - math.log(1 + math.exp(8)), abs=1e-4)


def test_calibrated_distillation_by_hand():
    """The target gives 1/2, 1/4, 1/4 to a record of class 0: a margin of 0, which becomes ln(1/3).

    So c = 1/4 and q = (1/4, 3/8, 3/8). The model says 1/4, 1/4, 1/2:
    KL(q || p) = 3/8 ln(3/8 / 1/4) + 3/8 ln(3/8 / 1/2) = 3/8 ln(9/8). The remaining record of class
    2 has 1/2.
    """
    target, model = Table([math.log(2), 0.0, 0.0]), Table([0.0, 0.0, math.log(2)])
    becomes = QuantileMap(np.array([0.0]), np.array([-math.log(3)]))
    teacher = CalibratedTeacher(target, {False: becomes}, None)
    batch = {"forget": part((0, 0)), "retain": part((0, 2))}
    terms = CalibratedDistillation(forget_weight=2.0).loss(model, batch, teacher)
    assert terms["forget"].item() == pytest.approx(2 * 3 / 8 * math.log(9 / 8), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(math.log(2))


def test_contrastive_unlearning_by_hand():
    """tau = 1/2. Anchor (1, 0) of class 0 meets (1, 0) and (0, 1) of class 0, (-1, 0) of class 1.

    r = ln(e^2 + e^0), the pull is -(-1 / 0.5) = 2: 3 (ln(e^2 + 1) + 2). Lengths do not matter. The
    logits of the three remaining positions are even: ln 2 each.
    """
    forget = encoded([[0.0, 0.0]], [0], [[5.0, 0.0]])
    retain = encoded([[0.0, 0.0]] * 3, [0, 0, 1], [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    terms = ContrastiveUnlearning(temperature=0.5)._terms({"forget": forget, "retain": retain})
    assert close(terms, forget=3 * (math.log(math.exp(2) + 1) + 2), retain=math.log(2))


def test_an_anchor_without_its_class_is_only_pulled():
    """Class 0 is gone from the remaining samples: r = 0, and -mean(1, 0) / 0.5 = -1 is left."""
    scaled = torch.tensor([[2.0, 0.0]], requires_grad=True)
    none, both = torch.tensor([[False, False]]), torch.tensor([[True, True]])
    loss = functional.contrast_remaining(scaled, none, both)
    loss.sum().backward()
    assert loss.tolist() == [-1.0]
    assert scaled.grad.tolist() == [[-0.5, -0.5]]


def test_contrast_with_remaining_samples_is_the_linear_one_where_all_classes_are_there():
    generator = torch.Generator().manual_seed(0)
    scaled = torch.randn(4, 6, generator=generator)
    same = torch.rand(4, 6, generator=generator) < 0.5
    same[:, 0], same[:, 1] = True, False
    torch.testing.assert_close(
        functional.contrast_remaining(scaled, same, ~same),
        functional.contrast_linear(scaled, same, ~same),
    )


def test_an_anchor_without_another_class_is_left_out():
    """The second anchor is of the only class that remains: the mean is the first one's alone."""
    forget = encoded([[0.0, 0.0]] * 2, [0, 1], [[1.0, 0.0], [0.0, 1.0]])
    retain = encoded([[0.0, 0.0]], [1], [[1.0, 0.0]])
    method = ContrastiveUnlearning(temperature=1.0, forget_weight=1.0)
    assert close(
        method._terms({"forget": forget, "retain": retain}), forget=-1.0, retain=math.log(2)
    )
    alone = {name: Encoded(*(some[1:] for some in forget)) for name in ("forget",)}
    assert float(method._terms({**alone, "retain": retain})["forget"]) == 0.0


def test_words_outside_entities_are_no_anchors_and_compared_in_equal_number():
    """Tag 0 is outside. Two anchors and one remaining entity: three of the five others stay."""
    forget, retain = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0, 1, 0, 0])
    anchors, kept = compared(forget, retain, 0, 100, torch.Generator().manual_seed(0))
    assert anchors.tolist() == [1, 2]
    assert sorted(kept.tolist())[-1] <= 5
    assert len(set(kept.tolist())) == 4
    assert 3 in kept.tolist()


def test_every_label_of_a_text_can_be_an_anchor():
    anchors, kept = compared(torch.tensor([0, 1]), torch.tensor([0, 2, 1]), None, 100)
    assert anchors.tolist() == [0, 1]
    assert sorted(kept.tolist()) == [0, 1, 2]


def test_what_is_compared_is_bounded():
    labels = torch.arange(50)
    anchors, kept = compared(labels, labels, None, 10, torch.Generator().manual_seed(0))
    assert len(anchors) == len(kept) == 10


def test_relabelling_never_keeps_a_label_and_is_even():
    """600 texts of label 1 of 4 labels: 200 each of 0, 2 and 3, give or take 5 deviations (58)."""
    examples = labelled(600, SEQUENCE, label="colour").examples
    wrong = relabel(examples, 4, None, torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.tensor([int(example.labels[0]) for example in wrong]))
    assert counts[1] == 0
    assert all(abs(int(count) - 200) < 58 for count in counts[[0, 2, 3]])


def test_relabelling_leaves_words_outside_entities_and_everything_else():
    examples = labelled(20, TOKEN).examples
    wrong = relabel(examples, 4, 0, torch.Generator().manual_seed(0))
    became_outside = 0
    for before, after in zip(examples, wrong, strict=True):
        outside = before.labels == 0
        became_outside += int((after.labels[~outside] == 0).sum())
        assert (after.labels[outside] == 0).all()
        assert (after.labels[~outside] != before.labels[~outside]).all()
        assert (after.input_ids == before.input_ids).all()
    assert became_outside > 0


def test_average_predictions_by_hand():
    """(1/4, 3/4) and (3/4, 1/4) average to (1/2, 1/2); a softmax of the result changes nothing."""
    logits = torch.tensor([[QUARTER], [QUARTER[::-1]]])
    average = functional.average_predictions(logits)
    assert average.exp().tolist() == [pytest.approx([0.5, 0.5])]
    torch.testing.assert_close(average.log_softmax(-1), average)


METHODS = [
    FineTune(),
    GradientAscent(),
    GradientDifference(),
    RandomLabels(),
    SalUn(),
    L1Sparse(),
    BadTeacher(),
    SCRUB(),
    ContrastiveUnlearning(),
    CalibratedDistillation(),
]


# Margins between -3 and 3 become ones between -2 and 0.
LOWERED = QuantileMap(np.array([-3.0, 3.0]), np.array([-2.0, 0.0]))


def reference_of(method, model, other):
    """What the method's loss compares with: `other` as a random model, `model` as the target."""
    if method.name == "calibrated_distillation":
        return CalibratedTeacher(other, {False: LOWERED}, None)
    return {"forget": other, "retain": model} if method.name == "bad_teacher" else other


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_padding_changes_no_loss(method, family):
    """Five more columns of padding on every part: the same terms."""
    model, other = tiny_classifier(family), tiny_classifier(family, seed=1)
    parts = {"forget": labelled(5, family, "f"), "retain": labelled(7, family, "r")}
    batch = {role: collate_examples(some.examples) for role, some in parts.items()}
    wide = {
        role: some
        | {
            name: torch.nn.functional.pad(some[name], (0, 5))
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        for role, some in batch.items()
    }
    reference = reference_of(method, model, other)
    narrow, padded = (method.loss(model, some, reference) for some in (batch, wide))
    assert narrow.keys() == padded.keys()
    for name, value in narrow.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS[:6], ids=lambda method: method.name)
@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_a_loss_is_the_mean_over_positions_of_the_losses_of_its_examples(method, family):
    """The term of a batch is the mean of its single examples' terms, each counted per position."""
    model = tiny_classifier(family)
    parts = {
        "forget": labelled(4, family, "f").examples,
        "retain": labelled(4, family, "r").examples,
    }
    whole = method.loss(model, {role: collate_examples(some) for role, some in parts.items()})
    sums, positions = dict.fromkeys(whole, 0.0), dict.fromkeys(whole, 0)
    for forget, retain in zip(parts["forget"], parts["retain"], strict=True):
        single = {"forget": forget, "retain": retain}
        terms = method.loss(model, {r: collate_examples([some]) for r, some in single.items()})
        for name, value in terms.items():
            sums[name] += value.item() * len(single[name].labels)
            positions[name] += len(single[name].labels)
    for name, value in whole.items():
        assert value.item() == pytest.approx(sums[name] / positions[name], rel=1e-4)


@pytest.mark.parametrize(
    "method", [BadTeacher(), SCRUB(), CalibratedDistillation()], ids=lambda method: method.name
)
def test_no_gradient_flows_into_a_teacher(method):
    model, other = tiny_classifier(), tiny_classifier(seed=1)
    batch = {
        role: collate_examples(labelled(4, name=role).examples) for role in ("forget", "retain")
    }
    teacher = tiny_classifier(seed=2)
    reference = reference_of(method, teacher, other)
    sum(method.loss(model, batch, reference).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for some in (other, teacher):
        assert all(parameter.grad is None for parameter in some.parameters())


def test_the_divergence_from_a_copy_of_itself_is_nothing():
    """The loss of SCRUB at the target: both divergences are 0, only the cross-entropy is left."""
    model, copy = tiny_classifier(), tiny_classifier()
    batch = {
        role: collate_examples(labelled(4, name=role).examples) for role in ("forget", "retain")
    }
    terms = SCRUB().loss(model, batch, copy)
    assert terms["forget"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["retain"].item() > 0.1


def test_descent_on_the_contrast_moves_the_anchor_from_its_class_to_the_others():
    """Gradient steps on the anchor's vector: less like its class, more like the other, always."""
    anchor = torch.tensor([[1.0, 0.4]], requires_grad=True)
    views, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    same = torch.tensor([[0]]) == labels
    seen = []
    for _ in range(5):
        similar = functional.cosine_similarities(anchor, views)
        seen.append(similar[0].tolist())
        loss = functional.contrast_remaining(similar / 0.7, same, ~same).sum()
        (gradient,) = torch.autograd.grad(loss, anchor)
        anchor = (anchor - 0.1 * gradient).detach().requires_grad_()
    assert all(later[0] < earlier[0] for earlier, later in pairwise(seen))
    assert all(later[1] > earlier[1] for earlier, later in pairwise(seen))
