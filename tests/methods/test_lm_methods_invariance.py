"""The losses for language models do not depend on how a step's windows are put together.

In float64, in a tiny model of real layers: what padding, order and company may change is noise.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from conftest import VOCAB, tiny_model
from in_processes import in_processes
from unlearner.data.batches import collate, share_of
from unlearner.data.windows import Window
from unlearner.inference.reference import KeptReference
from unlearner.methods.counterfactual import Counterfactual
from unlearner.methods.dpo import DPO
from unlearner.methods.idk import IDK
from unlearner.methods.kl_minimization import KLMinimization
from unlearner.methods.npo import NPO
from unlearner.methods.quantile_matching import QuantileMatching
from unlearner.methods.simnpo import SimNPO
from unlearner.methods.undial import UNDIAL
from unlearner.methods.weighted_gradient_ascent import WeightedGradientAscent

# Betas at which the terms are neither saturated nor straight.
METHODS = [
    NPO(beta=0.05),
    NPO(beta=0.05, retain_term="kl"),
    SimNPO(beta=0.5, gamma=0.2, forget_weight=2.0),
    DPO(beta=0.05),
    IDK(forget_weight=2.0),
    UNDIAL(beta=3.0),
    KLMinimization(forget_weight=2.0, retain_weight=0.5),
    WeightedGradientAscent(beta=0.5),
    Counterfactual(sharp_share=0.9, forget_weight=2.0),
    QuantileMatching(entropy_weight=0.5, forget_weight=2.0),
]


def by_name(method):
    return f"{method.name}-{getattr(method, 'retain_term', 'nll')}"


@pytest.fixture(scope="module")
def models():
    """The model and its reference, of other weights."""
    return tuple(tiny_model("gpt2", seed).double().requires_grad_(seed == 1) for seed in (1, 2))


@pytest.fixture(params=METHODS, ids=by_name)
def method(request):
    return request.param


def window(record, length, seed, scored_from=1):
    ids = np.random.default_rng(seed).integers(2, VOCAB, length)
    return Window(record, str(record), ids, np.arange(1, length) >= scored_from, length // 2)


# Four records each; forget record 2 is of two windows. Refusals count from their fifth token on.
SOME = {
    "forget": [
        window(0, 9, 0),
        window(1, 23, 1),
        window(2, 12, 2),
        window(2, 5, 3),
        window(3, 80, 4),
    ],
    "retain": [window(i, length, 10 + i) for i, length in enumerate((14, 6, 30, 90))],
    "refusal": [window(i, length, 20 + i, 5) for i, length in enumerate((8, 21, 11, 7))],
    "partners": [window(i, length, 30 + i) for i, length in enumerate((17, 40, 8, 12))],
    "holdout": [window(i, length, 40 + i) for i, length in enumerate((9, 22, 16, 33))],
}


def batch(sets=SOME):
    return {name: collate(windows) for name, windows in sets.items()}


def terms(method, model, some, reference):
    return {name: term.item() for name, term in method.loss(model, some, reference).items()}


def padded(tensors, columns=7):
    """The same windows with more columns, of tokens that are not 0."""
    more = torch.full((len(tensors["input_ids"]), columns), 5)
    return tensors | {
        "input_ids": torch.cat([tensors["input_ids"], more], 1),
        "attention_mask": torch.cat([tensors["attention_mask"], torch.zeros_like(more)], 1),
    }


def alike(one, other):
    assert one == pytest.approx(other, rel=1e-10, abs=1e-10)


def test_padding_does_not_change_the_loss(method, models):
    model, reference = models
    plain = batch()
    wide = {name: padded(tensors) for name, tensors in plain.items()}
    alike(terms(method, model, wide, reference), terms(method, model, plain, reference))


def test_the_order_of_records_does_not_change_the_loss(method, models):
    """Forget records and their refusals stay in step; kept windows go their own way."""
    model, reference = models
    turned = {
        "forget": [SOME["forget"][i] for i in (4, 2, 3, 0, 1)],
        **{name: [SOME[name][i] for i in (3, 2, 0, 1)] for name in ("refusal", "partners")},
        "holdout": SOME["holdout"][::-1],
        "retain": [SOME["retain"][i] for i in (2, 0, 3, 1)],
    }
    alike(terms(method, model, batch(turned), reference), terms(method, model, batch(), reference))


def shares(method, name, records):
    """What a part of a batch counts for: its records, or the tokens of which a term is a mean."""
    per_record = name == "forget" and isinstance(method, NPO | SimNPO | DPO | QuantileMatching)
    if per_record:
        return len(records)
    read = "refusal" if name == "forget" and isinstance(method, IDK) else name
    read = {"retain_kl": "retain", "unseen_kl": "holdout"}.get(read, read)
    return sum(w.scored.sum() for w in SOME[read] if w.record in records)


def test_a_batch_is_the_mean_of_its_parts(method, models):
    """Records 1 and 2 alone, and 0 and 3: weighted by records or tokens, the loss of all four."""
    model, reference = models
    parts = ((1, 2), (0, 3))
    whole, split = terms(method, model, batch(), reference), {}
    for records in parts:
        some = {n: [w for w in all_ if w.record in records] for n, all_ in SOME.items()}
        split[records] = terms(method, model, batch(some), reference)
    for name, value in whole.items():
        weights = [shares(method, name, records) for records in parts]
        mean = np.average([split[records][name] for records in parts], weights=weights)
        alike(mean, value)


def test_what_is_kept_of_the_reference_is_as_good_as_the_reference(method, models):
    """A step of some of the windows of larger sets, in another order."""
    model, reference = models
    places = {"forget": [4, 2, 3], "refusal": [3, 2], "retain": [3, 0]}
    places |= {"partners": [3, 2], "holdout": [1, 3]}
    step = batch({name: [SOME[name][i] for i in some] for name, some in places.items()})
    kept = KeptReference.of(reference, SOME, method.asks).at(places, step)
    alike(terms(method, model, step, kept), terms(method, model, step, reference))


def shared_terms(model, reference):
    """Of every method: a step of which this process has a share, with one forget window in all."""
    places = {"forget": [3], "refusal": [2], "retain": [3, 0, 1]}
    places |= {"partners": [2], "holdout": [1, 3]}
    step = {name: share_of([SOME[name][i] for i in some]) for name, some in places.items()}
    found = []
    for method in METHODS:
        kept = KeptReference.of(reference, SOME, method.asks).at(places, step)
        found.append(terms(method, model, step, kept))
    return found


def test_two_processes_find_what_one_does():
    """The second has no forget window, and finds the loss of the first's all the same.

    In float32, as runs are: a process without windows gives no numbers, and those are float32.
    """
    models = tiny_model("gpt2", 1), tiny_model("gpt2", 2)
    alone = shared_terms(*models)
    for found in in_processes(2, lambda: shared_terms(*models)):
        for one, other in zip(found, alone, strict=True):
            assert one == pytest.approx(other, rel=1e-5)


# By definition: one record at a time, the whole table of probabilities, autograd for the gradient.


def table(model, windows):
    """Log-probabilities of every token at the scored positions, and the labels there."""
    rows, labels = [], []
    for one in windows:
        ids = torch.from_numpy(one.input_ids)
        at = torch.from_numpy(one.scored).nonzero()[:, 0]
        rows.append(model(input_ids=ids[None]).logits[0, at].log_softmax(-1))
        labels.append(ids[at + 1])
    return torch.cat(rows), torch.cat(labels)


def token_log_probs(model, name, record=None):
    rows, labels = table(model, [w for w in SOME[name] if record in (None, w.record)])
    return rows.gather(-1, labels[:, None])[:, 0]


def record_sums(model, name):
    return torch.stack([token_log_probs(model, name, record).sum() for record in range(4)])


def kept_kl(model, reference):
    said, known = (table(some, SOME["retain"])[0] for some in (model, reference))
    return (known.exp() * (known - said)).sum(-1).mean()


def teacher_kl(model, reference, beta):
    said, labels = table(model, SOME["forget"])
    adjusted = table(reference, SOME["forget"])[0].clone()
    adjusted[torch.arange(len(labels)), labels] -= beta
    adjusted = adjusted.log_softmax(-1)
    return (adjusted.exp() * (adjusted - said)).sum(-1).mean()


def definition(method, model, reference):
    """The forget and the retain term before their weights."""
    retain = -token_log_probs(model, "retain").mean()
    token = token_log_probs(model, "forget")
    ratio = record_sums(model, "forget") - record_sums(reference, "forget")
    match method:
        case NPO():
            if method.retain_term == "kl":
                retain = kept_kl(model, reference)
            return -2 / method.beta * logsigmoid(-method.beta * ratio).mean(), retain
        case SimNPO():
            lengths = torch.tensor([8, 22, 15, 79])  # labels of the four records
            mean = record_sums(model, "forget") / lengths
            odds = -method.beta * mean - method.gamma
            return -2 / method.beta * logsigmoid(odds).mean(), retain
        case DPO():
            gained = record_sums(model, "refusal") - record_sums(reference, "refusal")
            return -logsigmoid(method.beta * (gained - ratio)).mean() / method.beta, retain
        case IDK():
            return -token_log_probs(model, "refusal").mean(), retain
        case UNDIAL():
            return teacher_kl(model, reference, method.beta), retain
        case KLMinimization():
            return token.mean(), kept_kl(model, reference)
        case WeightedGradientAscent():
            return (token.detach().exp() ** method.beta * token).mean(), retain


@pytest.mark.parametrize("method", METHODS[:-2], ids=by_name)  # the last two in files of their own
def test_loss_and_gradient_equal_the_definition(method, models):
    """124 scored forget tokens and 136 kept ones: more than one chunk of the reference's logits."""
    model, reference = models
    forget, retain = definition(method, model, reference)
    wanted = {"forget": method.forget_weight * forget, "retain": method.retain_weight * retain}
    found = method.loss(model, batch(), reference)
    for name, term in found.items():
        alike(term.item(), wanted[name].item())
        slopes = [
            torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
            for value in (term, wanted[name])
        ]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
