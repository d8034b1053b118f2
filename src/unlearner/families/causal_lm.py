"""Causal language models: how they are loaded, read, run, and what a method gets."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Unpack, cast

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.data.record import RecordSet
from unlearner.data.windows import TokenizedSet, tokenize_set
from unlearner.errors import UserError
from unlearner.evaluation.harness import TaskFigures, check_tasks, run_tasks
from unlearner.evaluation.measure import Scores, quick_figures, score_sets
from unlearner.evaluation.retrained_gap import token_loss_distances
from unlearner.evaluation.verdict import Criterion, Verdict
from unlearner.families.base import (
    Baseline,
    Family,
    Measured,
    Prepared,
    References,
    check_finite,
    sample,
)
from unlearner.families.causal_lm_criteria import (
    Recall,
    is_memorised,
    judge_text,
    measure_holdout_baseline,
    text_criteria,
    text_statuses,
)
from unlearner.families.causal_lm_sets import (
    check_needs,
    check_unseen,
    has_prompts,
    notes_on_holdout,
    partners_of,
    pool_of,
    prepare_text,
    without_copies,
)
from unlearner.inference.answers import Answer
from unlearner.inference.bertscore import BertScorer, measuring_scorer, with_scores
from unlearner.inference.dialogue import with_responses
from unlearner.inference.generation import shares_cache, way_to_generate
from unlearner.inference.judge import JudgeEndpoint, check_judge, count_failures, with_ratings
from unlearner.inference.language_model import Questions, infer
from unlearner.inference.reference import TargetDistribution
from unlearner.metrics import ma
from unlearner.models.adapter_folders import find_adapters
from unlearner.models.heads import output_head
from unlearner.models.loading import HowLoaded, Loaded, load_causal_lm
from unlearner.models.offloading import HOW_THEY_WAIT, has_offloaded_layers
from unlearner.output import Json
from unlearner.retrieval.analogous import AnalogousSettings, find_analogous
from unlearner.settings import (
    WHOLE,
    EvaluationSettings,
    Holding,
    ModelSettings,
    further_kind,
    own_name,
)
from unlearner.training.data import HoldoutBaseline, Recipe, UnlearningData
from unlearner.training.finetune import read_recipe


class CausalLM(Family[TokenizedSet, Answer]):
    """Models that write text: verbatim reproduction is what they have to lose."""

    name = "causal-lm"
    described = "a causal language model"
    roles = ("forget", "retain", "pool", "holdout", "test")
    needs: ClassVar = {"check": (), "evaluate": ("level",), "forget": ("pool", "level")}
    writes_text = True
    rounds_are_epochs = True

    def load(self, name: str, *, holding: Holding = WHOLE, **how: Unpack[HowLoaded]) -> Loaded:
        """A causal language model and its tokenizer."""
        return load_causal_lm(name, holding=holding, **how)

    def reads_alike(self, loaded: Loaded, prepared: Prepared[TokenizedSet]) -> bool:
        """By their windows, of which each token has to be one of the model's."""
        size = loaded.vocabulary
        for some in prepared.sets.values():
            records = RecordSet(some.name, some.records, some.source)
            try:
                again = tokenize_set(records, loaded.tokenizer, prepared.layout)
            except UserError:  # it has no chat template, or gives a record no tokens
                return False
            ids = [[window.input_ids.tolist() for window in one.windows] for one in (some, again)]
            if ids[0] != ids[1] or max(map(max, ids[0])) >= size:
                return False
        return True

    def notes(self, loaded: Loaded) -> tuple[str, ...]:
        """With where its layers wait, and how its continuations are made if not as for most."""
        model, notes = loaded.model, loaded.notes
        if has_offloaded_layers(model):
            notes = (*notes, HOW_THEY_WAIT)
        if shares_cache(model, output_head(model)):
            return notes
        how = way_to_generate(model).note
        return (*notes, how) if how else notes

    def prepare(
        self,
        config: RunConfig,
        given: Mapping[str, Any],
        loaded: Loaded | None,
        needs: Collection[str],
    ) -> Prepared[TokenizedSet]:
        """Read the sets first, so that a wrong record is refused before a model is loaded."""
        if config.data.forget_class:
            raise UserError("--forget-class: for classifiers; MODEL is a causal language model")
        records = self.read_sets(config.data, given)
        if "forget" not in records:
            raise UserError("--forget: none given; name the file of records to be forgotten")
        check_needs(config, records, needs)
        if "pool" in needs:
            check_unseen(config, records.get("holdout"))
        bert_scorer(config.evaluation)  # refused here, not after the target has been measured
        check_tasks(config.evaluation)
        check_judge(config.evaluation.judge)
        provenance.set_seeds(config.training.seed)
        prepared = prepare_text(self, loaded or self.load_named(config), records, config.data)
        config.method.check_sets(prepared.sets)
        if "pool" in needs:
            config.method.check_target(recipe_of(prepared.loaded, config.model))
            pool_of(config, prepared)  # refused here too
        return prepared

    def infer(
        self,
        loaded: Loaded,
        sets: Mapping[str, TokenizedSet],
        evaluation: EvaluationSettings,
        references: References | None = None,
    ) -> dict[str, list[Answer]]:
        """The answers, with BERTScores where there is an encoder for them.

        The model is run once on sets of the same records. Neutral text is not continued, and to
        dialogues it gives a response.
        """
        scorer, found = bert_scorer(evaluation), {}
        questions = questions_of(evaluation)
        for role, some in sets.items():
            if further_kind(role):
                forced = replace(questions, continuations="none")
                found[role] = infer(loaded.model, loaded.tokenizer, some.windows, forced)
                if further_kind(role) == "dialogue":
                    num_tokens = evaluation.dialogue_tokens
                    found[role] = with_responses(found[role], some.windows, loaded, num_tokens)
                continue
            asked = (other for other in found if not further_kind(other))  # alike
            same = next((other for other in asked if sets[other].records == some.records), None)
            if same is not None:
                found[role] = found[same]
                continue
            reference = (references or {}).get(role)
            answers = infer(loaded.model, loaded.tokenizer, some.windows, questions, reference)
            found[role] = answers if scorer is None else with_scores(answers, scorer)
        judge = JudgeEndpoint.of(evaluation.judge)
        if judge is not None and "forget" in found:
            found["forget"] = with_ratings(found["forget"], judge, loaded.tokenizer)
        return found

    def run_tasks(self, loaded: Loaded, evaluation: EvaluationSettings) -> TaskFigures:
        """Those of the lm-evaluation-harness."""
        return run_tasks(loaded, evaluation)

    def infer_quickly(
        self, loaded: Loaded, sets: Mapping[str, TokenizedSet], config: RunConfig
    ) -> dict[str, list[Answer]]:
        """On forget and unseen records: no text is continued."""
        asked = replace(questions_of(config.evaluation), continuations="none")
        return {
            role: infer(loaded.model, loaded.tokenizer, sets[role].windows, asked)
            for role in ("forget", "holdout")
            if role in sets
        }

    def forget_figures(
        self,
        loaded: Loaded,
        answers: Mapping[str, list[Answer]],
        sets: Mapping[str, TokenizedSet],
    ) -> dict[str, float]:
        """MA, and membership by loss."""
        return quick_figures(answers, {"ma": ma.metric}, sets)

    def references(
        self,
        loaded: Loaded,
        sets: Mapping[str, TokenizedSet],
        known: References | None = None,
    ) -> References:
        """The distributions on every set but the forget set, from which it is to move away."""
        return TargetDistribution.of_sets(
            loaded.model,
            {
                role: some.windows
                for role, some in sets.items()
                if role != "forget" and not further_kind(role)
            },
            next(iter((known or {}).values()), None),
        )

    def level(
        self, answers: Mapping[str, list[Answer]], config: RunConfig, *, under: str
    ) -> HoldoutBaseline | None:
        """What unseen text scores, measured or given by hand; None where neither is there."""
        holdout = answers.get("holdout")
        if holdout is None and not config.criteria.by_hand:
            return None
        count = len({answer.record for answer in answers["forget"]})
        return measure_holdout_baseline(holdout, config.criteria, num_forget=count, under=under)

    def known(
        self,
        prepared: Prepared[TokenizedSet],
        answers: Mapping[str, list[Answer]],
        scores: Scores,
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[bool | None, str]:
        """Whether the records are memorised beyond what unseen text could show by chance."""
        check_finite(scores, prepared.loaded.name)
        forget = scores["forget"]
        found = f"MA {forget['ma'].value:.3f}"
        found += f", EL_10 {forget['el_10'].value:.3f}" if "el_10" in forget else ""
        if level is None:
            return None, (
                f"{found}; without --holdout there is no level of unseen text to compare with"
            )
        memorised = is_memorised(answers["forget"], scores, level)
        found += f", unseen text has {level.ma:.3f} and {level.el_10:.3f}"
        if not memorised and not level.can_tell:
            few = len(prepared["forget"]), len(prepared.get("holdout") or ())
            return None, (
                f"too few records to tell: {found}, with {few[0]} to forget and {few[1]} unseen; "
                "give more unseen records (--holdout), or go on with --force"
            )
        answer = "memorised" if memorised else "nothing to unlearn by these measures"
        return memorised, f"{answer}: {found}"

    def criteria(
        self,
        prepared: Prepared[TokenizedSet],
        scores: Mapping[str, Scores],
        level: HoldoutBaseline | None,
        config: RunConfig,
    ) -> tuple[Criterion, ...]:
        """Verbatim claims at what unseen text scores, utility near the target."""
        assert level is not None
        return text_criteria(level, scores, config.criteria)

    def method_data(
        self,
        prepared: Prepared[TokenizedSet],
        sets: Mapping[str, TokenizedSet],
        level: HoldoutBaseline | None,
        config: RunConfig,
        scores: Mapping[str, Scores],
    ) -> UnlearningData:
        """The sets without copies of forget records, and what unseen text scores."""
        assert level is not None
        floor = config.criteria.perplexity_ratio
        if "original" in scores:  # as a multiple of the target's, which is what a method compares
            first, now = (
                scores[one]["retain"]["perplexity"].value for one in ("original", "target")
            )
            floor *= first / now
        return UnlearningData(
            tokenizer=prepared.loaded.tokenizer,
            forget=prepared["forget"],
            pool=without_copies(prepared, pool_of(config, prepared)),
            retain=prepared.get("retain"),
            analogous=None,
            level=level,
            questions=replace(
                questions_of(config.evaluation), lower=config.evaluation.look_autocast
            ),
            utility_floor=floor,
            unseen_floor=_unseen_floor(scores, config),
            layout=prepared.layout,
            unseen=sets.get("holdout"),
            recipe=recipe_of(prepared.loaded, config.model),
        )

    def for_method(
        self,
        config: RunConfig,
        prepared: Prepared[TokenizedSet],
        baseline: Baseline[TokenizedSet, Answer],
    ) -> Baseline[TokenizedSet, Answer]:
        """The baseline with the analogous set and unseen partners, where the method needs them."""
        baseline = self._without_partners(config, prepared, baseline)
        if "analogous" not in config.method.needs:
            return baseline
        assert isinstance(baseline.data, UnlearningData)
        loaded, settings = prepared.loaded, cast("AnalogousSettings", config.method)
        pool = pool_of(config, prepared)
        found = find_analogous(prepared["forget"], pool, loaded.tokenizer, settings)
        limit = config.evaluation.limit_for(self.name)
        own = {"analogous": sample(found.chosen, limit, config.training.seed)}
        retain = baseline.sets.get("retain")
        if retain is not None and retain.records == own["analogous"].records:
            answers = {"analogous": baseline.answers["target"]["retain"]}
        else:
            answers = self.infer(loaded, own, config.evaluation)
        scores = dict(baseline.scores)
        scores["target"] = scores["target"] | score_sets(
            answers, own, config.evaluation, config.training.seed
        )
        return replace(
            baseline,
            data=replace(baseline.data, analogous=found),
            sets=baseline.sets | own,
            answers=baseline.answers | {"target": baseline.answers["target"] | answers},
            scores=scores,
            criteria=self.criteria(prepared, scores, baseline.level, config),
            references={
                **baseline.references,
                **self.references(loaded, own, baseline.references),
            },
        )

    def judged_sets(
        self, prepared: Prepared[TokenizedSet], sets: Mapping[str, TokenizedSet], config: RunConfig
    ) -> dict[str, TokenizedSet]:
        """Of unseen records those alone that the method does not learn from."""
        partners = partners_of(prepared, config)
        if partners is None or "holdout" not in sets:
            return dict(sets)
        learned, measured = {record.id for record in partners.records}, sets["holdout"]
        others = [i for i, record in enumerate(measured.records) if record.id not in learned]
        return {**sets, "holdout": measured.subset(others)}

    def judged_answers(
        self, sets: Mapping[str, TokenizedSet], answers: Mapping[str, dict[str, list[Answer]]]
    ) -> dict[str, dict[str, list[Answer]]]:
        """The answers about the unseen records that are left, by their places among those."""
        if "holdout" not in sets:
            return dict(answers)
        place = {record.id: index for index, record in enumerate(sets["holdout"].records)}
        return {
            model: {
                **own,
                "holdout": [
                    replace(answer, record=place[answer.id])
                    for answer in own["holdout"]
                    if answer.id in place
                ],
            }
            for model, own in answers.items()
        }

    def _without_partners(
        self,
        config: RunConfig,
        prepared: Prepared[TokenizedSet],
        baseline: Baseline[TokenizedSet, Answer],
    ) -> Baseline[TokenizedSet, Answer]:
        """The baseline with unseen partners for the method, on which then nothing is measured.

        What unseen text scores under the target was measured on all: it has learned none of them.
        """
        check_unseen(config, prepared.get("holdout"))
        if partners_of(prepared, config) is None:
            return baseline
        assert isinstance(baseline.data, UnlearningData)
        sets = self.judged_sets(prepared, baseline.sets, config)
        unseen, answers = sets["holdout"], self.judged_answers(sets, baseline.answers)
        scores = dict(baseline.scores)
        for model, some in answers.items():  # what is compared with unseen text changes too
            changed = {model: {role: some[role] for role in ("forget", "holdout")}}
            scores[model] = scores[model] | self.score(model, changed, sets, config)
        known = baseline.references
        own = self.references(prepared.loaded, {"holdout": unseen}, known)
        return replace(
            baseline,
            criteria=self.criteria(prepared, scores, baseline.level, config),
            data=replace(baseline.data, partners=partners_of(prepared, config), unseen=unseen),
            sets=sets,
            answers=answers,
            scores=scores,
            references={**known, **own},
        )

    def advice(self, prepared: Prepared[TokenizedSet], config: RunConfig) -> tuple[str, ...]:
        """Of a method that leaves less of a mark, where its records are there."""
        sets = prepared.sets
        if config.method.name != "icu" or not {"retain", "holdout"} <= sets.keys():
            return ()
        if len(sets["holdout"]) <= len(sets["forget"]):  # too few for partners and for measuring
            return ()
        return (
            "icu does without training data; with records to keep and unseen ones, as here, "
            "--method quantile_matching ended nearer to a retrained model (on a small one, three "
            "seeds: docs/choosing.md)",
        )

    def judge(
        self, prepared: Prepared[TokenizedSet], measured: Measured[TokenizedSet, Answer]
    ) -> Verdict:
        """By the criteria, and record by record at the limits of a single record."""
        assert measured.level is not None
        ids = [record.id for record in prepared["forget"].records]
        statuses = text_statuses(ids, measured.answers["unlearned"]["forget"], measured.level)
        verdict = judge_text(
            measured.criteria, measured.scores, statuses, can_tell=measured.level.can_tell
        )
        return replace(verdict, notes=(*verdict.notes, *notes_on_holdout(prepared)))

    def sections(
        self,
        prepared: Prepared[TokenizedSet],
        measured: Measured[TokenizedSet, Answer],
        config: RunConfig,
    ) -> Json:
        """How the models were run, the distance to a retrained one, and every record's figures."""
        evaluation = config.evaluation
        how: Json = {"prompt_start": evaluation.prompt_start}
        if has_prompts(prepared["forget"]):
            how["scope"] = config.data.scope
        if evaluation.bertscore_model is not None:
            how["bertscore_model"] = own_name(evaluation.bertscore_model)
            how["bertscore_baseline"] = evaluation.bertscore_baseline
        found: Json = {"evaluation": how}
        if "retrained" in measured.answers:
            retrained = measured.answers["retrained"]
            found["distance_to_retrained"] = {
                model: token_loss_distances(measured.answers[model], retrained)
                for model in ("target", "unlearned")
                if model in measured.answers
            }
        judge = JudgeEndpoint.of(evaluation.judge)
        if judge is not None:
            answers = measured.answers.items()
            failures = {model: count_failures(some["forget"]) for model, some in answers}
            how["judge"] = {"model": judge.settings.model, "host": judge.host}
            how["judge"] |= {"remote": judge.remote, "failures": failures}
        if "target" not in measured.answers:
            return found
        before, after = (
            Recall.of(measured.answers[model]["forget"]) for model in ("target", "unlearned")
        )
        per_record = [
            {"id": record.id, "before": before.to_json(index), "after": after.to_json(index)}
            for index, record in enumerate(prepared["forget"].records)
        ]
        return found | {"per_record": per_record}


def _unseen_floor(scores: Mapping[str, Scores], config: RunConfig) -> float:
    """Perplexity of unseen text at most, as a multiple of the target's, that the criteria allow."""
    figures = {
        model: some["holdout"]["perplexity"].value
        for model, some in scores.items()
        if "perplexity" in some.get("holdout", {})
    }
    if "target" not in figures:
        return math.inf
    limit = figures.get("original", figures["target"]) * config.criteria.unseen_perplexity_ratio
    return max(limit, figures.get("retrained", 0.0)) / figures["target"]


def recipe_of(loaded: Loaded, settings: ModelSettings) -> Recipe | None:
    """How the target was made: by `unlearner finetune`, or as an adapter of some base."""
    known = read_recipe(loaded.name) if loaded.name else None
    if known is None and loaded.is_adapter:
        return Recipe(find_adapters(loaded.name, settings.revision, settings.base)[0], {})
    return known


def questions_of(evaluation: EvaluationSettings) -> Questions:
    """What every model of a run is asked."""
    return Questions(
        prompt_start=evaluation.prompt_start,
        batch_tokens=evaluation.batch_tokens,
        memory_bytes=None if evaluation.memory_bytes == "auto" else evaluation.memory_bytes,
    )


def bert_scorer(evaluation: EvaluationSettings) -> BertScorer | None:
    """What measures BERTScore; None where no encoder is given.

    Raises:
        UserError: It cannot be loaded.
    """
    name = evaluation.bertscore_model
    return None if name is None else measuring_scorer(name, evaluation.bertscore_baseline)
