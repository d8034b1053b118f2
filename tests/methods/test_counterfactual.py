"""Counterfactual teaching: its teacher and forget term by hand, its proxy, and a run of it."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lm_methods import LOW, OTHER, QUESTIONS, tokenized, weights
from test_quantile_matching import data, prepared
from test_resume import check_every_cut

from conftest import tiny_model, tiny_tokenizer
from in_processes import in_processes
from unlearner import functional
from unlearner.config import RunConfig
from unlearner.data.batches import collate
from unlearner.errors import UserError
from unlearner.families.causal_lm import CausalLM, recipe_of
from unlearner.inference.reference import Likelihoods, likelihoods
from unlearner.methods import counterfactual
from unlearner.methods.counterfactual import BETAS, Counterfactual, Teacher, level_beta
from unlearner.models.loading import Loaded
from unlearner.settings import ModelSettings, TrainingSettings
from unlearner.training import level_loop
from unlearner.training.data import Recipe
from unlearner.training.finetune import FinetuneSettings, learn_all
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

torch.set_num_threads(1)

# Of two tokens: 3 to 1.
ODDS = torch.tensor([[math.log(3.0), 0.0]])


def tiny_trainer(**settings):
    return Trainer(TrainingSettings(device="cpu", **settings), Log(None))


# The teacher


def test_the_teacher_of_two_tokens_by_hand():
    """Sharpened twice, 3 to 1 is 9 to 1; nine tenths of that and a tenth of the plain one.

    0.9 * 0.9 + 0.1 * 0.75 = 0.885, and 0.9 * 0.1 + 0.1 * 0.25 = 0.115.
    """
    found = functional.sharpened_log_probs(ODDS, 2.0, 0.9).exp()[0].tolist()
    assert found == pytest.approx([0.885, 0.115])
    plain = functional.sharpened_log_probs(ODDS, 1.0, 0.9).exp()[0].tolist()
    assert plain == pytest.approx([0.75, 0.25])


def test_no_token_is_less_likely_than_its_share_of_the_plain_distribution():
    found = functional.sharpened_log_probs(torch.tensor([[60.0, 0.0]]), 16.0, 0.995)
    assert found[0, 1].item() == pytest.approx(math.log(0.005) - 60.0)


def two_tokens(right):
    """The loss of labels of which so many are the likely token, 0.75, under a pure teacher."""

    def loss(beta):
        likely = 3**beta / (3**beta + 1)
        return -right * math.log(likely) - (1 - right) * math.log(1 - likely)

    return loss


@pytest.mark.parametrize("beta", [0.8, 1.0, 1.7, 3.1, 11.0])
def test_the_closed_loop_finds_the_sharpness_by_its_loss(beta):
    """Of six labels in ten the likely one: least at 3^beta = 1.5, beta 0.37; it rises from there.

    At beta 1 the loss is -0.6 log 0.75 - 0.4 log 0.25 = 0.7271.
    """
    loss = two_tokens(0.6)
    assert loss(1.0) == pytest.approx(0.7271, abs=1e-4)
    assert level_beta(loss, loss(beta)) == pytest.approx(beta, rel=3e-3)


def test_a_level_that_no_sharpness_has_takes_the_nearest():
    loss = two_tokens(0.6)
    assert level_beta(loss, 0.1) == min(BETAS, key=loss)
    assert level_beta(loss, 1e6) == BETAS[-1]


def test_the_loop_asks_for_the_least_loss_once_and_for_a_few_more():
    asked = []

    def loss(beta):
        asked.append(beta)
        return beta

    assert level_beta(loss, 2.5) == pytest.approx(2.5, rel=3e-3)
    assert len(asked) == len(BETAS) + counterfactual.HALVINGS


def test_the_teachers_loss_is_that_of_its_mixture_over_all_labels(monkeypatch):
    """Whatever the batches, and at a beta of 1 the proxy's own."""
    monkeypatch.setattr(counterfactual, "BATCH_TOKENS", 40)
    proxy, unseen = tiny_model("gpt2"), tokenized("holdout", OTHER)
    teacher = Teacher(proxy, unseen, 0.9)
    with torch.no_grad():
        whole = collate(unseen.windows)
        own = likelihoods(proxy, whole).loss().item()
        logits = proxy(whole["input_ids"], attention_mask=whole["attention_mask"]).logits
        at = logits[whole["positions"][:, 0], whole["positions"][:, 1]]
        q = 0.9 * (2.5 * at).softmax(-1) + 0.1 * at.softmax(-1)
        sharp = -q.gather(-1, whole["labels"][:, None]).log().mean().item()
    assert teacher.loss_at(1.0) == pytest.approx(own, rel=1e-5)
    assert teacher.loss_of(proxy) == pytest.approx(own, rel=1e-5)
    assert teacher.loss_at(2.5) == pytest.approx(sharp, rel=1e-5)


def test_refreshing_puts_the_teacher_where_the_model_is():
    proxy, unseen = tiny_model("gpt2", 1), tokenized("holdout", OTHER)
    with torch.no_grad():  # a proxy that has something to be sure of
        proxy.get_output_embeddings().weight.mul_(2)
    teacher = Teacher(proxy, unseen, 0.995)
    student = copy.deepcopy(proxy)
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(1.2)
    teacher.refresh(student, tiny_trainer())
    wanted = teacher.loss_of(student)
    assert teacher.loss_at(teacher.beta) == pytest.approx(wanted, rel=5e-3)


# The loss


def test_the_forget_term_by_hand(monkeypatch):
    """Two labels of log p -1 and -4, under the teacher -1.5 and -1; KL 0.2 and 0.6.

    Mean KL 0.4; H(0.5) = 0.125 and H(-3) = 2.5, mean 1.3125; twice their sum is 3.425.
    """
    log_probs, kl = torch.tensor([-1.0, -4.0]), torch.tensor([0.2, 0.6])
    some = Likelihoods(log_probs, kl, torch.zeros(2), torch.tensor([0, 0]))
    monkeypatch.setattr(counterfactual, "likelihoods", lambda *_: some)
    taught = torch.tensor([[-1.5, math.log1p(-math.exp(-1.5))], [math.log1p(-math.exp(-1)), -1.0]])
    batch = {"forget": {"labels": torch.tensor([0, 1])}}
    by_two = counterfactual.PartWeights(2.0, 1.0, 0.0)
    found = Counterfactual().forget_term(None, batch, lambda rows: taught[rows], 1.0, by_two)
    assert found["forget"].item() == pytest.approx(3.425)


def by_definition(model, proxy, windows, beta, share):
    """One sequence at a time, from the whole table of probabilities."""
    kl, pulled = [], []
    for one in windows:
        ids, at = torch.from_numpy(one.input_ids), torch.from_numpy(one.scored)
        said = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)[at]
        z = proxy(input_ids=ids[None]).logits[0, :-1][at].detach()
        q = share * (beta * z).softmax(-1) + (1 - share) * z.softmax(-1)
        labels = ids[1:, None][at]
        gap = (said.gather(-1, labels) - q.log().gather(-1, labels))[:, 0]
        kl.append((q * (q.log() - said)).sum(-1))
        pulled.append(torch.where(gap.abs() < 1, gap**2 / 2, gap.abs() - 0.5))
    return (torch.cat(kl) + torch.cat(pulled)).mean()


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_loss_and_gradient_equal_the_definition_whatever_the_padding(beta):
    """In float64, with records of one, two and three windows, padded together or one by one."""
    model, proxy = (tiny_model("gpt2", seed).double() for seed in (1, 2))
    windows = tokenized("forget", QUESTIONS).windows
    method = Counterfactual(sharp_share=0.9)
    triple = counterfactual.PartWeights(3.0, 1.0, 0.0)

    def term(some, columns=0):
        batch = collate(some)
        with torch.no_grad():
            at = batch["positions"].unbind(-1)
            logits = proxy(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[at]
        for name, fill in (("input_ids", 5), ("attention_mask", 0)):
            batch[name] = torch.nn.functional.pad(batch[name], (0, columns), value=fill)
        found = method.forget_term(
            model, {"forget": batch}, lambda rows: logits[rows], beta, triple
        )
        return found["forget"]

    whole = term(windows)
    wanted = 3 * by_definition(model, proxy, windows, beta, 0.9)
    assert whole.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert term(windows, columns=7).item() == pytest.approx(whole.item(), rel=1e-9)
    counts = [int(one.scored.sum()) for one in windows]
    alone = [term([one]).item() for one in windows]
    assert np.average(alone, weights=counts) == pytest.approx(whole.item(), rel=1e-9)
    slopes = [torch.autograd.grad(value, list(model.parameters())) for value in (whole, wanted)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


# The proxy


@pytest.fixture
def pretrained(tmp_path):
    folder = tmp_path / "pretrained"
    tiny_model("llama", seed=5).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def few(**fields):
    """With few, large and cheap steps."""
    return Counterfactual(
        **{
            "learning_rate": 1e-3,
            "max_epochs": 1,
            "steps": 2,
            "finishing_steps": 1,
            "steps_per_round": 3,
            "batch_size": 2,
            "proxy_epochs": 1,
        }
        | fields
    )


def test_a_target_of_unknown_making_is_refused_in_one_line():
    config, some = prepared(3, 6)
    config = RunConfig.from_sections({"method": {"name": "counterfactual"}})
    for refused in (
        lambda: config.method.check_target(recipe_of(some.loaded, config.model)),
        lambda: few().unlearn(tiny_model("llama"), data(), tiny_trainer()),
    ):
        with pytest.raises(UserError, match=r"^method\.pretrained: none given, ") as caught:
            refused()
        assert "method.proxy" in str(caught.value)
        assert "\n" not in str(caught.value)
    few(proxy="x").check_target(None)
    few(pretrained="x").check_target(None)


def test_it_is_refused_before_anything_is_measured(tmp_path):
    """With what the command line gives, and as soon as the target's folder is read."""
    tiny_model("llama").save_pretrained(tmp_path / "target")
    tiny_tokenizer().save_pretrained(tmp_path / "target")
    sections = {"model": {"name": str(tmp_path / "target")}, "method": {"name": "counterfactual"}}
    config = RunConfig.from_sections(sections)
    texts = {
        role: [f"the {role} {word}" for word in ("one", "two", "three")]
        for role in ("forget", "retain", "holdout")
    }
    family = CausalLM()
    with pytest.raises(UserError, match=r"^method\.pretrained: none given"):
        family.prepare(config, texts, None, family.needs["forget"])
    recipe = '{"model": "somewhere", "finetune": {"epochs": 7}}'
    (tmp_path / "target" / "provenance.json").write_text(recipe)
    found = family.prepare(config, texts, None, family.needs["forget"])
    assert recipe_of(found.loaded, config.model) == Recipe("somewhere", {"epochs": 7})


def test_an_adapter_begins_as_its_base(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "unlearner.families.causal_lm.find_adapters", lambda *given: (":".join(given), [])
    )
    loaded = Loaded(tiny_model("llama"), tiny_tokenizer(), str(tmp_path), is_adapter=True)
    settings = ModelSettings(name=str(tmp_path), base="there")
    assert recipe_of(loaded, settings) == Recipe(f"{tmp_path}:main:there", {})
    assert recipe_of(replace(loaded, is_adapter=False), settings) is None


def test_the_proxy_is_finetuned_on_the_retained_text_by_the_targets_recipe(pretrained, monkeypatch):
    """Bit for bit, 2 epochs instead of its 9; and the target is what is trained from there on."""
    proxies = []

    class Watched(Teacher):
        def __init__(self, proxy, *rest):
            proxies.append(weights(proxy))
            super().__init__(proxy, *rest)

    monkeypatch.setattr(counterfactual, "Teacher", Watched)
    some = data(recipe=Recipe(pretrained, {"epochs": 9, "batch_size": 3, "learning_rate": 1e-2}))
    trainer = tiny_trainer()
    few(proxy_epochs=2).unlearn(tiny_model("llama"), some, trainer)
    settings = FinetuneSettings(epochs=2, batch_size=3, learning_rate=1e-2)
    expected = learn_all(tiny_model("llama", seed=5), settings, tiny_trainer(), some.pool)
    assert torch.equal(proxies[0], weights(expected))
    windows = sum(bool(one.scored.any()) for one in some.pool.windows)
    assert trainer.steps == 2 * math.ceil(windows / 3) + 3
    assert trainer.rounds[-1]["steps"] == 3


def test_a_finished_proxy_is_taken_as_it_is(pretrained):
    """Nothing is fine-tuned: all steps are the method's own."""
    trainer = tiny_trainer()
    few(proxy=pretrained).unlearn(tiny_model("llama"), data(), trainer)
    assert trainer.steps == 3


@pytest.mark.parametrize("field", ["pretrained", "proxy"])
def test_a_model_that_reads_other_tokens_is_refused(pretrained, field):
    other = tiny_tokenizer()
    other.add_tokens(["tiger"])
    with pytest.raises(UserError, match=rf"^method\.{field}: the tokenizer of .* differs"):
        few(**{field: pretrained}).unlearn(
            tiny_model("llama"), replace(data(), tokenizer=other), tiny_trainer()
        )
    larger = tiny_model("llama")
    larger.resize_token_embeddings(larger.config.vocab_size + 8)
    with pytest.raises(UserError, match=rf"^method\.{field}: .* tokens, the target"):
        few(**{field: pretrained}).unlearn(larger, data(), tiny_trainer())


# A run


def test_a_run_moves_the_records_to_what_unseen_text_has(tmp_path):
    """A model that knows its records by heart has their mean loss near the unseen one's."""
    some, kept = data(), collate(data().pool.windows)
    model = tiny_model("llama")
    proxy, both = copy.deepcopy(model), [collate(some.forget.windows), kept]
    for learner, texts in ((model, both), (proxy, [kept])):
        trainer = tiny_trainer()
        learner = trainer.start(learner, 1e-2)
        for _ in range(45):
            trainer.step(
                lambda learner=learner, texts=texts: {
                    str(i): likelihoods(learner, one).loss() for i, one in enumerate(texts)
                }
            )
    proxy.save_pretrained(tmp_path / "proxy")
    tiny_tokenizer().save_pretrained(tmp_path / "proxy")
    losses = []
    method = Counterfactual(
        proxy=str(tmp_path / "proxy"), learning_rate=3e-3, steps=50, finishing_steps=10, path=0.3
    )
    for step in (None, method):
        if step is not None:
            fresh = tiny_trainer()
            model = step.unlearn(model, some, fresh)
            assert fresh.rounds[-1]["steps"] == 60
            assert {"forget", "retain", "retain_kl", "unseen_kl"} == set(fresh.rounds[-1]["loss"])
        with torch.no_grad():
            sets = some.forget, some.partners
            found = [likelihoods(model, collate(one.windows)).loss().item() for one in sets]
        losses.append(found)
    assert losses[0][0] < 0.5 < losses[0][1] - 1
    assert abs(losses[1][0] - losses[1][1]) < 0.35 * (losses[0][1] - losses[0][0])


def test_the_second_part_pushes_less_and_learns_more(pretrained, monkeypatch):
    """The first part is two epochs of two steps, and the second in proportion: half of it."""
    seen = []
    take = level_loop.take_level_step

    def watched(step, places, model, course, trainer):
        seen.append(tuple(course.weights(step)))
        return take(step, places, model, course, trainer)

    monkeypatch.setattr(level_loop, "take_level_step", watched)
    few(proxy=pretrained, max_epochs=2).unlearn(tiny_model("llama"), data(), tiny_trainer())
    assert seen == [(1.0, 2.0, 0.6)] * 4 + [(0.4, 3.0, 0.4)] * 2


@pytest.mark.parametrize("rank", [0, 2])
def test_it_goes_on_in_the_proxys_stage_and_in_its_own(tmp_path, pretrained, rank):
    some = data(LOW, recipe=Recipe(pretrained, {"batch_size": 2}))
    method = few(refresh_every=2, steps_per_round=2)

    def unlearn(one):
        return one.finish(method.unlearn(tiny_model("llama"), some, one))

    whole = check_every_cut(tmp_path, unlearn, None, lora_rank=rank)
    assert whole.steps > 4


def test_with_adapters_the_proxy_has_learned_by_its_own(pretrained):
    """The saved model is whole again, and the target without adapters what it was."""
    model, trainer = tiny_model("llama"), tiny_trainer(lora_rank=2)
    found = trainer.finish(few(pretrained=pretrained).unlearn(model, data(), trainer))
    before = weights(tiny_model("llama"))
    assert weights(found).shape == before.shape
    assert not torch.equal(weights(found), before)


def test_a_proxy_without_an_output_head_of_its_own_is_merged_to_be_run_again(
    pretrained, monkeypatch
):
    """With adapters it would be taken for the model without them."""
    given = []
    monkeypatch.setattr(counterfactual, "output_head", lambda _: None)
    monkeypatch.setattr("unlearner.inference.reference.output_head", lambda _: None)
    whole = Teacher.__init__

    def watched(teacher, proxy, *rest):
        given.append(weights(proxy).shape)
        whole(teacher, proxy, *rest)

    monkeypatch.setattr(Teacher, "__init__", watched)
    trainer = tiny_trainer(lora_rank=2)
    few(pretrained=pretrained).unlearn(tiny_model("llama"), data(), trainer)
    assert given == [weights(tiny_model("llama")).shape]


def test_two_processes_take_the_steps_of_one(pretrained):
    method = few(pretrained=pretrained, batch_size=1)

    def work():
        trainer = tiny_trainer()
        model = method.unlearn(tiny_model("llama"), data(), trainer)
        terms = [line["loss"] for line in trainer.rounds if line["loss"]]
        return terms, trainer.steps, trainer.tokens, weights(model)

    alone = work()
    first, second = in_processes(2, work)
    assert torch.equal(first[3], second[3])
    assert first[1:3] == alone[1:3]
    for one, other in zip(first[0], alone[0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_the_level_of_unseen_text_ends_a_run(pretrained):
    """Limits that everything is within, and no unseen records to be told from."""
    easy = replace(LOW, ma=1.0, el_10=1.0, es=1.0, worst_ma=1.0, worst_el_10=1.0)
    for stop, steps in (("level", 10), ("never", 45)):
        method = few(
            proxy=pretrained, learning_rate=1e-9, steps=30, finishing_steps=15, stop=stop
        ).model_copy(update={"steps_per_round": 10})
        trainer = tiny_trainer()
        method.unlearn(tiny_model("llama"), data(easy, unseen=None), trainer)
        assert trainer.steps == steps
