"""Methods for language models that are more than a loss against a reference: their formulas.

The numbers are worked by hand with a model that is a table: the next token depends on the last one
alone. Of two tokens, it says

    after 0:  0 with 3/4, 1 with 1/4        after 1:  0 with 1/2, 1 with 1/2

and the reference says 1/2 everywhere.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_icu import tokenized
from test_lm_methods_numbers import REFERENCE, Table
from torch import nn

from conftest import ARCHITECTURES, tiny_model
from unlearner import functional
from unlearner.data.batches import collate
from unlearner.data.windows import Window
from unlearner.errors import UserError
from unlearner.inference.hidden_states import keep_states, states_behind
from unlearner.methods.gradient_ascent import GradientAscent
from unlearner.methods.gradient_difference import GradientDifference
from unlearner.methods.llmu import LLMU, random_answers
from unlearner.methods.retrain import Retrain
from unlearner.methods.rmu import RMU, Goal, down_projections, only_trained, random_direction
from unlearner.methods.task_arithmetic import TaskArithmetic, negated
from unlearner.metrics.base import CLASSIFIERS
from unlearner.models import adapters, sharding
from unlearner.training.trainer import switch_dropout_off

torch.set_num_threads(1)


class Walk(nn.Module):
    """Three blocks that leave the hidden states of two units, a row of a table, as they are."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=2))
        self.device, self.base_model = torch.device("cpu"), self.walk
        self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
        with torch.no_grad():
            for block in self.blocks:
                nn.init.eye_(block.weight)

    def walk(self, input_ids, **_ignored):
        states = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])[input_ids]
        for block in self.blocks:
            states = block(states)
        return (states,)


def windows(*records):
    return [
        Window(i, str(i), np.array(ids), np.ones(len(ids) - 1, bool), 1)
        for i, ids in enumerate(records)
    ]


def terms(found):
    return {name: term.item() for name, term in found.items()}


# Numbers by hand: labels of [0 1 1] and [0 0] have the probabilities 1/4, 1/2 and 3/4

FORGET = collate(windows([0, 1, 1], [0, 0]))
NLL = (math.log(4) + math.log(2) + math.log(4 / 3)) / 3


def test_gradient_ascent_is_minus_the_mean_over_the_tokens_of_the_step():
    found = terms(GradientAscent().loss(Table(), {"forget": FORGET}))
    assert found == pytest.approx({"forget": -NLL})


def test_gradient_difference_weighs_both_parts_one_to_one_for_language_models():
    """The retain record [0 1] has ln 4."""
    batch = {"forget": FORGET, "retain": collate(windows([0, 1]))}
    found = terms(GradientDifference().loss(Table(), batch))
    assert found == pytest.approx({"forget": -NLL, "retain": math.log(4)})
    given = GradientDifference(forget_weight=0.5, retain_weight=3.0).loss(Table(), batch)
    assert terms(given) == pytest.approx({"forget": -0.5 * NLL, "retain": 3 * math.log(4)})


def test_llmu_adds_random_answers_and_closeness_to_the_ascent():
    """Random answer 0 behind the prompt 0: ln 4/3. KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln 4/3."""
    answers = [Window(0, "0", np.array([1, 0, 0]), np.array([False, True]), 2)]
    batch = {"forget": FORGET, "random": collate(answers), "retain": collate(windows([0, 1]))}
    found = LLMU(random_weight=2.0, retain_weight=4.0).loss(Table(), batch, Table(REFERENCE))
    assert terms(found) == pytest.approx(
        {"forget": -0.5 * NLL, "random": 2 * math.log(4 / 3), "retain": 2 * math.log(4 / 3)}
    )


def test_the_squared_distance_by_hand():
    """(3, 4) from (0, 0): 9 + 16; (1, 1) from (0, 3): 1 + 4; one goal serves both rows."""
    states = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    goals = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert functional.squared_distances(states, goals).tolist() == [25.0, 5.0]
    assert functional.squared_distances(states, goals[:1]).tolist() == [25.0, 2.0]


def test_rmu_steers_forget_states_to_c_u_and_keeps_the_others():
    """c u = 5 (0.6, 0.8) = (3, 4). Forget labels stand behind token 0, at (3, 4), and 1, at (0, 0):
    (0 + 25) / 2. The retain label stands behind token 2, at (1, 0), kept at (1, 2): 10 * 4.
    """
    batch = {"forget": collate(windows([0, 1, 2])), "retain": collate(windows([2, 1]))}
    goal = Goal(torch.tensor([0.6, 0.8]), torch.tensor([[1.0, 2.0]]))
    found = RMU(steering_coefficient=5.0, retain_weight=10.0).loss(Walk(), batch, goal)
    assert terms(found) == pytest.approx({"forget": 12.5, "retain": 40.0})


def test_the_direction_is_a_unit_vector_of_the_generators_with_no_negative_entry():
    """[0, 1) draws (a, b) are scaled by 1 / sqrt(a a + b b)."""
    a, b = torch.rand(2, generator=torch.Generator().manual_seed(3)).tolist()
    found = random_direction(Walk(), torch.Generator().manual_seed(3)).tolist()
    assert found == pytest.approx([a / math.hypot(a, b), b / math.hypot(a, b)])
    assert min(found) >= 0


def test_a_task_vector_is_taken_off_as_far_as_the_scale_says():
    """1 - 0.5 (3 - 1) = 0; 2 - 0.5 (2 - 2) = 2."""
    before, after = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    assert negated({"w": before}, {"w": after}, 0.5, False)["w"].tolist() == [0.0, 2.0]


def test_of_adapters_their_product_is_taken_off():
    """B A goes from 0 to 4 * 5 = 20; at scale 0.5 it is -2 * 5 = -10 = 0 - 0.5 * 20."""
    before = {"x.lora_A.w": torch.tensor([2.0]), "x.lora_B.w": torch.tensor([0.0])}
    after = {"x.lora_A.w": torch.tensor([5.0]), "x.lora_B.w": torch.tensor([4.0])}
    found = negated(before, after, 0.5, True)
    assert (found["x.lora_A.w"] * found["x.lora_B.w"]).tolist() == [-10.0]


def test_random_answers_are_kept_answers_behind_the_forget_prompts():
    """Prompts 2 3 and 4 with the answers 9 9 9 or 8: only those are scored, up to 5 tokens."""
    ones = np.ones(4, bool)
    forget = tokenized("forget", (5, 5), 0)
    some = (
        Window(0, "0", np.array([2, 3, 5, 5, 5]), ones, 2),
        Window(1, "1", np.array([4, 6, 6, 6, 6]), ones, 1),
    )
    kept = tokenized("kept", (5, 3), 0)
    other = (
        Window(0, "0", np.array([7, 9, 9, 9, 9]), ones, 1),
        Window(1, "1", np.array([7, 7, 8]), np.array([False, True]), 2),
    )
    forget, kept = (type(s)(s.name, s.records, w, "") for s, w in ((forget, some), (kept, other)))
    seen = set()
    for seed in range(20):
        made = random_answers(forget, kept, torch.Generator().manual_seed(seed)).windows
        assert [window.record for window in made] == [0, 1]
        for window, prompt in zip(made, ([2, 3], [4]), strict=True):
            size, answer = len(prompt), window.input_ids[len(prompt) :].tolist()
            assert window.input_ids[:size].tolist() == prompt
            assert answer in ([8], [9, 9, 9, 9][: 5 - size])
            assert window.scored.tolist() == [False] * (size - 1) + [True] * len(answer)
            seen.add((size, answer[0]))
    assert seen == {(2, 8), (2, 9), (1, 8), (1, 9)}


def test_a_kept_window_without_an_answer_is_not_drawn():
    """A window inside a long prompt has nothing scored."""
    forget, kept = tokenized("forget", (6, 6, 6), 0), tokenized("kept", (6, 6), 1)
    silent = Window(0, "0", np.full(6, 5), np.zeros(5, bool), 3)
    kept = type(kept)("kept", kept.records, (silent, kept.windows[1]), "")
    made = random_answers(forget, kept, torch.Generator().manual_seed(0)).windows
    assert all(w.input_ids[3:].tolist() == kept.windows[1].input_ids[3:].tolist() for w in made)


# Padding and company, in float64


SETS = {
    "forget": tokenized("f", (9, 23, 12, 5), 0, records=[0, 1, 2, 2]).windows,
    "random": tokenized("n", (7, 30, 11, 8), 1, records=[0, 1, 2, 2]).windows,
    "retain": tokenized("r", (14, 6, 60), 2).windows,
}
LOSSES = [
    GradientAscent(),
    GradientDifference(forget_weight=2.0),
    LLMU(),
    RMU(steering_coefficient=30.0, retain_weight=3.0),
]


def by_name(method):
    return method.name


@pytest.fixture(scope="module")
def models():
    return tuple(tiny_model("llama", seed).double() for seed in (1, 2))


def asked(method, models, sets):
    model, reference = models
    batch = {name: collate(some) for name, some in sets.items()}
    return terms(method.loss(model, batch, reference))


@pytest.mark.parametrize("method", LOSSES, ids=by_name)
def test_padding_changes_nothing(method, models):
    model, reference = models
    batch = {name: collate(some) for name, some in SETS.items()}
    wide = {}
    for name, some in batch.items():
        more = torch.full((len(some["input_ids"]), 9), 5)
        wide[name] = some | {
            "input_ids": torch.cat([some["input_ids"], more], 1),
            "attention_mask": torch.cat([some["attention_mask"], 0 * more], 1),
        }
    plain, padded = (terms(method.loss(model, some, reference)) for some in (batch, wide))
    assert padded == pytest.approx(plain, abs=1e-10)


@pytest.mark.parametrize("method", LOSSES, ids=by_name)
def test_each_term_is_the_mean_over_tokens_of_what_the_windows_have_alone(method, models):
    """Windows of n labels with the mean m each: sum n m / sum n, whatever they stand beside."""
    together = asked(method, models, SETS)
    for name in together:
        found = []
        for window in SETS[name]:
            alone = {role: some[:1] for role, some in SETS.items()} | {name: [window]}
            found.append(window.scored.sum() * asked(method, models, alone)[name])
        labels = sum(window.scored.sum() for window in SETS[name])
        assert together[name] == pytest.approx(sum(found) / labels, abs=1e-10)


# RMU in real architectures


@pytest.mark.parametrize("training", [False, True])
def test_a_pass_that_ends_at_the_block_gives_what_the_whole_pass_has_there(architecture, training):
    """Also in training mode, where the pass goes to its end."""
    model = tiny_model(architecture).train(training)
    switch_dropout_off(model)
    batch = collate(SETS["retain"])
    entries = ("input_ids", "attention_mask")
    whole = model(**{name: batch[name] for name in entries}, output_hidden_states=True)
    found = states_behind(model, 0, batch)
    real = batch["attention_mask"].bool()
    assert torch.allclose(found[real], whole.hidden_states[1][real], atol=1e-5)


def test_blocks_behind_the_one_asked_for_are_not_computed():
    model = tiny_model("llama")
    model.model.layers[1].register_forward_pre_hook(lambda *_: pytest.fail("it was computed"))
    states_behind(model, 0, collate(SETS["retain"]))


def test_kept_states_are_those_of_a_reference_model(architecture):
    """The loss is the same with kept states as with the model that they are of."""
    model, reference = tiny_model(architecture, 1), tiny_model(architecture, 2)
    method = RMU(retain_weight=2.0)
    kept = keep_states(reference, method.layer_of(reference), SETS["retain"])
    assert list(map(len, kept)) == [13, 5, 59]
    direction = random_direction(model, torch.Generator().manual_seed(0))
    batch = {name: collate(SETS[name]) for name in ("forget", "retain")}
    one = terms(method.loss(model, batch, reference))
    other = terms(method.loss(model, batch, Goal(direction, torch.cat(kept))))
    assert one == pytest.approx(other, rel=1e-5)
    assert terms(method.loss(reference, batch, reference))["retain"] == pytest.approx(0, abs=1e-8)


DOWN = {
    "gpt_neo": "mlp.c_proj",
    "gpt2": "mlp.c_proj",
    "opt": "fc2",
    "llama": "mlp.down_proj",
    "qwen2": "mlp.down_proj",
    "gemma2": "mlp.down_proj",
    "phi": "mlp.fc2",
    "gpt_neox": "mlp.dense_4h_to_h",
}


@pytest.mark.parametrize("rank", [0, 2])
def test_the_down_projections_alone_are_trained(architecture, rank):
    """Of both blocks of a tiny model; with adapters those on them, A and B."""
    model = tiny_model(architecture)
    if rank:
        adapters.attach(model, rank, None)
    before = [some.requires_grad for some in model.parameters()]
    with only_trained(model, down_projections(model, 1)):
        names = [name for name, some in model.named_parameters() if some.requires_grad]
    ends = [f"{DOWN[architecture]}.weight"]
    if rank:
        ends = [f"{DOWN[architecture]}.lora_{part}.default.weight" for part in "AB"]
    assert len(names) == 2 * len(ends)
    assert all(name.endswith(tuple(ends)) for name in names)
    assert [some.requires_grad for some in model.parameters()] == before


def test_what_is_trained_is_as_before_also_behind_an_error():
    model = tiny_model("gpt2")
    with pytest.raises(RuntimeError), only_trained(model, down_projections(model, 1)):
        raise RuntimeError
    assert all(some.requires_grad for some in model.parameters())


def test_every_architecture_of_these_tests_has_its_down_projection_named():
    assert set(DOWN) == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, 0), (2, 1), (5, 2), (12, 2), (32, 7), (60, 14)]
)
def test_the_layer_is_at_a_quarter_of_the_depth(depth, expected, monkeypatch):
    monkeypatch.setattr(sharding, "blocks", lambda _model: [None] * depth)
    assert RMU().layer_of(None) == expected


def test_a_layer_that_the_model_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"^method\.layer: 2, but MODEL has the blocks 0 to 1; "):
        RMU(layer=2).layer_of(tiny_model("gpt2"))


def test_a_block_without_a_down_projection_is_refused():
    model = Walk()
    model.blocks = nn.ModuleList(nn.Linear(2, 3) for _ in range(3))
    with pytest.raises(UserError, match="block 0 of MODEL has no linear layer outside attention"):
        down_projections(model, 2)


# One name for two families


@pytest.mark.parametrize(
    ("method", "family", "expected"),
    [
        (GradientAscent(), "causal-lm", {"stop": "level"}),
        (GradientAscent(stop="suppressed"), "causal-lm", {"stop": "suppressed"}),
        (GradientAscent(), CLASSIFIERS[0], {"stop": "auto"}),
        (GradientAscent(stop="auc"), CLASSIFIERS[1], {"stop": "auc"}),
        (
            GradientDifference(),
            "causal-lm",
            {"stop": "suppressed", "forget_weight": 1.0, "retain_weight": 1.0},
        ),
        (
            GradientDifference(),
            CLASSIFIERS[0],
            {"stop": "auto", "forget_weight": 0.05, "retain_weight": 0.95},
        ),
        (
            GradientDifference(retain_weight=3.0),
            "causal-lm",
            {"stop": "suppressed", "forget_weight": 1.0, "retain_weight": 3.0},
        ),
    ],
)
def test_what_depends_on_the_family_is_filled_in(method, family, expected):
    """Once, and the same again where it is done twice."""
    filled = method.for_family(family)
    assert filled.model_dump() == method.model_dump() | expected
    assert filled.for_family(family) == filled


@pytest.mark.parametrize("kind", [GradientAscent, GradientDifference])
def test_a_rule_of_the_other_family_is_refused(kind):
    with pytest.raises(UserError) as caught:
        kind(stop="auc").for_family("causal-lm")
    assert str(caught.value) == (
        "method.stop: 'auc' is no rule for causal-lm models; "
        "allowed: auto, suppressed, level, never"
    )
    with pytest.raises(UserError, match=r"^method\.stop: 'level' is no rule for sequence-class"):
        kind(stop="level").for_family(CLASSIFIERS[0])


def test_sets_are_needed_by_family():
    assert GradientAscent().needs_of("causal-lm") == ("forget",)
    assert GradientAscent().needs_of(CLASSIFIERS[0]) == ("forget", "holdout")
    assert GradientDifference().needs_of("causal-lm") == ("forget", "retain")
    assert TaskArithmetic().needs_of("causal-lm") == ("forget",)


def test_retraining_a_language_model_needs_the_pretrained_one_and_a_retain_set():
    with pytest.raises(UserError, match=r"^method\.pretrained: none given; name the pretrained"):
        Retrain().for_family("causal-lm")
    assert Retrain().for_family(CLASSIFIERS[0]) == Retrain()
    with pytest.raises(UserError, match=r"^--retain: none given; method retrain"):
        Retrain(pretrained="x").check_sets({"forget": None, "pool": None})


def test_a_frozen_reference_is_left_as_it_is(models):
    before = copy.deepcopy(models[1].state_dict())
    asked(RMU(), models, SETS)
    assert all(torch.equal(before[name], some) for name, some in models[1].state_dict().items())
