"""DeepCUT's loss: by hand on given vectors, and against its definition on tiny models."""

import math

import pytest
import torch
from torch.nn.functional import pad

import deepcut_oracle as oracle
from classifier_world import SEQUENCE, TOKEN, labelled, tiny_classifier, tiny_data, tiny_trainer
from deepcut_oracle import View
from unlearner.data.labelled import collate_examples
from unlearner.methods.deepcut import DeepCUT
from unlearner.models.heads import Classifier, Encoded
from unlearner.training.losses import encode_parts

torch.set_num_threads(1)

LOG2 = math.log(2)
OUTSIDE = 0  # of the toy taggers
# What the numbers by hand are worked with, whatever the defaults are.
PLAIN = {"temperature": 1.0, "forget_weight": 1.0}
OPTIONS = [
    {},
    {"own_view": False},
    {"contrast_with": "retain"},
    {"stop_gradient": True},
    {"form": "contrastive_unlearning"},
    {"form": "flipped_supcon"},
    {"hard_samples": 3},
    {"temperature": 0.1, "forget_weight": 0.3},
    {"own_view": False, "hard_samples": 2, "form": "flipped_supcon"},
]


def step(method, model, forget, retain, outside):
    """The terms of a step with these batches, as the loop has them computed."""
    encoded = encode_parts(model, method._views(forget, retain), method.vector)
    return method._terms(**encoded, outside=outside, generator=torch.Generator())


def settled(*, tags=False, **fields):
    """The method with numbers in place of "auto", as `unlearn` and `loss` take it."""
    return DeepCUT(**fields)._resolved(tags=tags)


def words(options):
    return "-".join(f"{name}={value}" for name, value in options.items()) or "default"


def encoded(vectors, labels):
    """Given vectors, each with even logits of three classes: their cross-entropy is ln 3."""
    vectors = torch.tensor(vectors).requires_grad_()
    return Encoded(torch.zeros(len(labels), 3), vectors, torch.tensor(labels))


def contrast(forget, retain, outside=None, **options):
    """gamma L_f of given vectors, or None where no anchor counts."""
    method = settled(**PLAIN | {"num_views": 1} | options)
    terms = method._terms(forget, retain, outside=outside)
    return terms["forget"].item() if "forget" in terms else None


# By hand


def test_the_objective_is_ce_of_the_rest_plus_gamma_times_the_contrast():
    """Two views of one sample of class 0, at (1, 0) and (0, 1); one of class 1, at (0, 1). tau = 1.

    View 1: its own other view and the other class are both at cosine 0: softplus(0) = ln 2.
    View 2: own at 0, other at 1: softplus(-1) = ln(1 + 1/e). gamma = 0.5.
    Logits (0, ln 3) of class 1 lose ln(4/3); the forget views' own logits count nothing.
    """
    forget = Encoded(torch.full((2, 2), 9.0), torch.eye(2), torch.tensor([0, 0]))
    retain = Encoded(
        torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 2.0]]), torch.tensor([1])
    )
    terms = settled(temperature=1.0, forget_weight=0.5)._terms(forget, retain)
    assert float(terms["retain"]) == pytest.approx(math.log(4 / 3))
    expected = 0.5 * (LOG2 + math.log(1 + 1 / math.e)) / 2
    assert float(terms["forget"]) == pytest.approx(expected)


def test_similarities_are_divided_by_the_temperature():
    """Own at 1, other at 0, tau = 1/2: softplus(2 - 0)."""
    forget = encoded([[1.0, 0.0]], [0])
    retain = encoded([[3.0, 0.0], [0.0, 5.0]], [0, 1])
    assert contrast(forget, retain, temperature=0.5) == pytest.approx(math.log(1 + math.exp(2)))


def test_an_anchor_that_lacks_own_or_other_class_is_left_out_of_the_mean():
    """Class 2 is the second anchor's alone. The first, own and other at 0, stays: ln 2."""
    forget = encoded([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 2])
    retain = encoded([[0.0, 0.0, 1.0]], [0])
    assert contrast(forget, retain) == pytest.approx(LOG2)


@pytest.mark.parametrize("labels", [[1, 2], [0, 0]])
def test_without_any_anchor_only_the_cross_entropy_is_left(labels):
    """The rest has no class 0, or nothing else: L_f is 0, and its weight does not matter."""
    method = settled(num_views=1, forget_weight=5.0)
    terms = method._terms(encoded([[1.0, 0.0]], [0]), encoded([[1.0, 0.0], [0.0, 1.0]], labels))
    assert set(terms) == {"retain"}
    assert float(terms["retain"]) == pytest.approx(math.log(3))


def test_a_view_is_not_its_own_partner():
    """One view of one sample: no own class, although its cosine with itself is 1."""
    assert contrast(encoded([[1.0, 0.0]], [0]), encoded([[0.0, 1.0]], [1])) is None


def test_without_own_view_the_other_views_of_the_sample_are_left_out():
    """Samples a and b of class 0, two views each, a at (1, 0) and b at (0, 1); class 1 at (0, 1).

    Views are in the order a, b, a, b. Without its own other view a has b, b at 0 and the other at
    0: softplus(ln 2) = ln 3. b has a, a at 0 and the other at 1: softplus(ln 2 - 1) = ln(1 + 2/e).
    With it a has e^1 + 2 against 1: ln(1 + e + 2), and b: ln(1 + (e + 2) / e).
    """
    forget = encoded([[1.0, 0.0], [0.0, 1.0]] * 2, [0] * 4)
    retain = encoded([[0.0, 1.0]], [1])
    without = contrast(forget, retain, num_views=2, own_view=False)
    assert without == pytest.approx((math.log(3) + math.log(1 + 2 / math.e)) / 2)
    with_it = contrast(forget, retain, num_views=2)
    e = math.e
    assert with_it == pytest.approx((math.log(3 + e) + math.log(1 + (e + 2) / e)) / 2)


def test_contrast_with_the_rest_leaves_the_other_forget_views_out():
    """A forget view of the other class at cosine 1 would count softplus(0 - 1)."""
    forget = encoded([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    retain = encoded([[0.0, 1.0], [0.0, 1.0]], [0, 1])
    assert contrast(forget, retain, contrast_with="retain") == pytest.approx(LOG2)
    both = (LOG2 + math.log(1 + 1 / math.e)) / 2
    assert contrast(forget, retain) == pytest.approx(both)


def test_hard_samples_are_halfway_to_the_nearest_other_views():
    """Anchor (1, 0), own at 0. Others at (0, 1) and (-1, 0): halfway to the first is 45 degrees.

    One hard sample: the mean of softplus(0 - s) over s = 0, -1 and cos 45 = 0.7071.
    """
    forget = encoded([[1.0, 0.0]], [0])
    retain = encoded([[0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]], [0, 1, 1])
    expected = sum(math.log(1 + math.exp(-s)) for s in (0.0, -1.0, math.sqrt(0.5))) / 3
    assert contrast(forget, retain, hard_samples=1) == pytest.approx(expected)


def test_there_are_no_more_hard_samples_than_other_views():
    """5 are asked for, one view is of another class: it and one hard sample count."""
    forget, retain = encoded([[1.0, 0.0]], [0]), encoded([[0.0, 1.0], [0.0, 2.0]], [0, 1])
    expected = (LOG2 + math.log(1 + math.exp(-math.sqrt(0.5)))) / 2
    assert contrast(forget, retain, hard_samples=5) == pytest.approx(expected)


# Gradients


@pytest.mark.parametrize(
    "options", [{}, {"hard_samples": 2}, {"contrast_with": "retain"}], ids=words
)
def test_stop_gradient_leaves_the_remaining_vectors_where_they_are(options):
    vectors = torch.randn(10, 6, generator=torch.Generator().manual_seed(0)).tolist()
    for stop in (False, True):
        forget, retain = encoded(vectors[:4], [0, 1] * 2), encoded(vectors[4:], [0, 1, 2] * 2)
        method = settled(num_views=2, stop_gradient=stop, **options)
        method._terms(forget, retain)["forget"].backward()
        assert (forget.features.grad != 0).any(-1).all()
        assert (retain.features.grad is None) is stop


def test_a_step_moves_the_anchor_off_its_class_and_towards_the_other():
    forget, retain = encoded([[1.0, 0.2]], [0]), encoded([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    settled(num_views=1)._terms(forget, retain)["forget"].backward()
    before = forget.features.detach()
    after = before - 0.1 * forget.features.grad
    assert after[0, 0] < before[0, 0]
    assert after[0, 1] > before[0, 1]


# Against the definition


def views_of(model, method, forget, retain):
    """The oracle's views of the examples, as many as the method makes."""
    return (
        oracle.views_of(model, forget, method.num_views),
        oracle.views_of(model, retain, method.retain_views),
    )


def given(num_forget, num_retain, num_views, *, num_labels=3, seed=0):
    """Random vectors as views of samples, in the method's form and in the oracle's."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for count in (num_forget, num_retain):
        labels = torch.randint(num_labels, (count,), generator=draw).repeat(num_views)
        vectors = torch.randn(count * num_views, 5, generator=draw)
        logits = torch.randn(count * num_views, num_labels, generator=draw)
        views = [
            View(vectors[i].tolist(), logits[i].tolist(), int(labels[i]), (i % count,))
            for i in range(count * num_views)
        ]
        parts.append((Encoded(logits, vectors, labels), views))
    return parts


def same(terms, expected):
    """Up to rounding; a part is missing in both or in none."""
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx(
        {name: value for name, value in expected.items() if value is not None}, rel=1e-5
    )


@pytest.mark.parametrize("num_views", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=words)
def test_terms_equal_the_definition_on_views_that_differ(options, num_views):
    method = settled(num_views=num_views, **options)
    for seed in range(5):
        (forget, some), (retain, others) = given(3, 4, num_views, seed=seed)
        same(method._terms(forget, retain), oracle.terms(some, others, method))


@pytest.mark.parametrize("options", OPTIONS, ids=words)
@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
@pytest.mark.parametrize("retain_views", [1, 2])
def test_a_step_on_a_model_equals_the_definition(family, retain_views, options):
    """Dropout off. 5 sentences of 3 entities and 2 to 6 other words each, forget and remaining.

    At least 30 anchors and 15 entities in a view: none of the at most 60 views of others in two
    is left out.
    """
    model = tiny_classifier(family)
    method = settled(**PLAIN | {"num_views": 2, "retain_views": retain_views} | options)
    forget, retain = (labelled(5, family, name).examples for name in ("forget", "retain"))
    outside = OUTSIDE if family == TOKEN else None
    found = step(method, model, forget, retain, outside)
    views = views_of(model, method, forget, retain)
    same(found, oracle.terms(*views, method, outside))


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_the_loss_of_a_batch_equals_the_definition_whatever_the_padding(family):
    """In a loop of one's own every labelled position is an anchor, also a word outside entities."""
    model, method = tiny_classifier(family), settled(tags=family == TOKEN)
    parts = {name: labelled(5, family, name).examples for name in ("forget", "retain")}
    expected = oracle.terms(*views_of(model, method, *parts.values()), method)
    batch = {name: collate_examples(some) for name, some in parts.items()}
    same(method.loss(model, batch), expected)
    for some in batch.values():
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            some[name] = pad(some[name], (0, 5))
    same(method.loss(model, batch), expected)


@pytest.mark.parametrize("family", [SEQUENCE, TOKEN])
def test_neither_order_nor_grouping_by_length_changes_a_step(family, monkeypatch):
    """Passes that cost nothing split every length from the others; costly ones split nothing."""
    model, method = tiny_classifier(family), settled(tags=family == TOKEN)
    forget, retain = (labelled(6, family, name).examples for name in ("forget", "retain"))
    outside = OUTSIDE if family == TOKEN else None
    found = []
    for cost, order in ((0, 1), (10**6, 1), (0, -1)):
        monkeypatch.setattr("unlearner.models.heads.PASS_TOKENS", cost)
        parts = (forget[::order], retain[::order])
        terms = step(method, model, *parts, outside)
        found.append({name: term.item() for name, term in terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


# Views and bounds


def test_every_view_has_dropout_of_its_own():
    """Three views of 2 samples in training mode: 3 x 2 vectors that all differ."""
    model = tiny_classifier().train()
    examples = labelled(2).examples
    features = Classifier(model).encode(examples, views=3).features
    assert len({tuple(row) for row in features.tolist()}) == 6
    alike = Classifier(model.eval()).encode(examples, views=3).features
    torch.testing.assert_close(alike[:2], alike[4:])


def test_tokens_are_counted_once_for_every_view():
    """One step: both records in a batch, and three remaining ones."""
    data, trainer = tiny_data(sizes=(2, 3, 2)), tiny_trainer()
    once = DeepCUT(
        max_epochs=1, remaining_per_forget=1, repair_steps=0, related_share=0.0, stop="never"
    )
    method = once.model_copy(
        update={"num_views": 3, "retain_views": 2, "retain_batch_size": 3, "per_record": False}
    )
    method.unlearn(tiny_classifier(), data, trainer)
    assert trainer.steps == 1
    assert trainer.tokens == 3 * data.forget.num_tokens + 2 * data.retain.num_tokens


@pytest.fixture
def compared(monkeypatch):
    """Labels of anchors and of the other views of every contrast, as they were compared."""
    seen = []
    real = DeepCUT._contrast

    def contrast(self, features, labels, samples):
        seen.append((labels[: len(samples)].tolist(), labels[len(samples) :].tolist()))
        return real(self, features, labels, samples)

    monkeypatch.setattr(DeepCUT, "_contrast", contrast)
    return seen


def test_words_outside_entities_are_no_anchors_and_as_many_as_entities_stay(compared):
    """Anchors: 2 of 4 forget words. Of 9 remaining words 1 is an entity: 2 + 1 of the 8 stay."""
    draw = torch.Generator().manual_seed(0)
    forget = encoded(torch.randn(4, 3, generator=draw).tolist(), [0, 1, 0, 2])
    retain = encoded(torch.randn(9, 3, generator=draw).tolist(), [0] * 4 + [1] + [0] * 4)
    terms = settled(num_views=1)._terms(forget, retain, outside=OUTSIDE, generator=draw)
    assert compared == [([1, 2], [1, 0, 0, 0])]
    assert float(terms["retain"]) == pytest.approx(math.log(3))  # of all 9 words


def test_sentences_without_entities_leave_the_cross_entropy_alone():
    forget, retain = encoded([[1.0, 0.0]] * 2, [0, 0]), encoded([[0.0, 1.0]] * 2, [1, 0])
    assert contrast(forget, retain, outside=OUTSIDE) is None


def test_the_views_of_a_step_are_bounded(compared):
    """At most 10: 5 anchors of 12 and 5 of 30 others, drawn by the run's generator."""
    (forget, _), (retain, _) = given(6, 15, 2)
    method = settled(max_views=10)
    values = {
        float(
            method._terms(forget, retain, generator=torch.Generator().manual_seed(seed))["forget"]
        )
        for seed in (0, 0, 1)
    }
    assert {(len(anchors), len(others)) for anchors, others in compared} == {(5, 5)}
    assert len(values) == 2


def test_a_drawn_anchor_keeps_its_sample():
    """Of 4 samples with 2 views each, half the views are drawn: an own view is still told."""
    (forget, some), (retain, others) = given(4, 4, 2)
    method = settled(max_views=8, own_view=False)
    for seed in range(5):
        drawn = torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:4].sort().values
        generator = torch.Generator().manual_seed(seed)
        terms = method._terms(forget, retain, generator=generator)
        rest = torch.randperm(8, generator=_after(seed))[:4].sort().values
        expected = oracle.terms([some[i] for i in drawn], [others[i] for i in rest], method)
        same({"forget": terms["forget"]}, {"forget": expected["forget"]})


def _after(seed):
    """The generator once the anchors are drawn."""
    generator = torch.Generator().manual_seed(seed)
    torch.randperm(8, generator=generator)
    return generator


# Settings


def test_the_paper_preset_is_the_reconstruction():
    method = DeepCUT(preset="paper")
    assert (method.learning_rate, method.temperature, method.forget_weight) == (2e-5, 0.1, 0.3)
    assert (method.batch_size, method.retain_batch_size) == (16, 16)
    assert (method.num_views, method.retain_views) == (2, 2)
    assert (method.remaining_per_forget, method.max_epochs, method.max_gradient_norm) == (
        4,
        20,
        1.0,
    )
    assert (method.stop, method.steps_per_round, method.form) == ("score", "epoch", "deepcut")
    assert (method.own_view, method.contrast_with, method.stop_gradient) == (True, "all", False)
    assert (method.hard_samples, method.related_share, method.balanced) == (0, 0.0, False)


def test_what_is_set_goes_before_the_preset():
    method = DeepCUT(preset="paper", temperature=0.7, stop="auc")
    assert (method.temperature, method.stop, method.learning_rate) == (0.7, "auc", 2e-5)


@pytest.mark.parametrize(
    ("family", "weight", "stops"), [(SEQUENCE, 0.375, False), (TOKEN, 0.3, True)]
)
def test_auto_is_measured_for_texts_and_for_tags(family, weight, stops):
    """`loss` settles by the model: an eighth of three classes, or 0.3, times the contrast."""
    model = tiny_classifier(family)
    parts = {name: labelled(4, family, name).examples for name in ("forget", "retain")}
    batch = {name: collate_examples(some) for name, some in parts.items()}
    plain = DeepCUT(forget_weight=1.0).loss(model, batch)["forget"].item()
    assert DeepCUT().loss(model, batch)["forget"].item() == pytest.approx(weight * plain)
    chosen = settled(tags=family == TOKEN)
    many = 2.0 if family == SEQUENCE else weight  # of a model with sixteen classes or more
    assert (chosen.forget_weight, chosen.stop_gradient) == (many, stops)
    given = settled(tags=True, forget_weight=1.5, stop_gradient=False)
    assert (given.forget_weight, given.stop_gradient) == (1.5, False)


@pytest.mark.parametrize(
    ("rule", "batches", "steps"),
    [("auto", 2, 2), ("auto", 10, 5), ("epoch", 2, 8), ("epoch", 10, 40), (3, 10, 3)],
)
def test_a_round_is_as_long_as_the_forget_set_has_batches_or_as_asked(rule, batches, steps):
    """Each forget batch meets 4 remaining ones in an epoch."""
    assert DeepCUT(steps_per_round=rule)._round_length(batches) == steps


# Views of a model without dropout

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_equal_views_are_reported_and_no_others():
    without, with_it = tiny_classifier(**NO_DROPOUT), tiny_classifier()
    (said,) = DeepCUT().remarks(without)
    assert "equal copies; method.view_dropout=0.1 makes them differ" in said
    assert DeepCUT().remarks(with_it) == DeepCUT(view_dropout=0.1).remarks(without) == ()


def test_view_dropout_drops_units_by_the_runs_own_generator():
    """Each unit is 0 or twice what it was; the same for every process that draws so."""
    method, ones = settled(view_dropout=0.5), encoded([[1.0] * 50] * 4, [0, 1, 0, 1])
    one, again = (
        method._dropped(ones, torch.Generator().manual_seed(seed)).features for seed in (3, 3)
    )
    assert torch.equal(one, again)
    assert set(one.unique().tolist()) == {0.0, 2.0}
    assert 0.3 < (one == 0).float().mean() < 0.7
    assert not torch.equal(one[0], one[1])
    assert torch.equal(one, method._dropped(ones, torch.Generator().manual_seed(3)).features)


def test_with_view_dropout_two_views_of_one_sample_differ(monkeypatch):
    """And the cross-entropy is of the whole vectors."""
    seen = []
    monkeypatch.setattr(DeepCUT, "_contrast", lambda _, features, *__: seen.append(features))
    model = tiny_classifier(**NO_DROPOUT).train()
    data = tiny_data(sizes=(2, 3, 2))
    terms = [
        step(settled(view_dropout=p), model, data.forget.examples, data.retain.examples, None)
        for p in (0.0, 0.3)
    ]
    equal, different = (features[:4] for features in seen)
    torch.testing.assert_close(equal[:2], equal[2:])
    assert not torch.allclose(different[:2], different[2:], atol=1e-3)
    assert torch.equal(terms[0]["retain"], terms[1]["retain"])
