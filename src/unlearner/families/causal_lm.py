"""Causal language models: how they are loaded, read, run, and what a method gets."""

import datetime
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch

from unlearner import provenance
from unlearner.config import RunConfig
from unlearner.data.chat import reads_date
from unlearner.data.duplicates import find_duplicates
from unlearner.data.loading import check_ids_in_vocabulary
from unlearner.data.record import RecordSet
from unlearner.data.windows import Layout, TokenizedSet, contents, tokenize_set
from unlearner.errors import UserError
from unlearner.evaluation.measure import Scores, quick_figures, score_sets
from unlearner.evaluation.verdict import Criterion, Verdict
from unlearner.families.base import (
    Baseline,
    Family,
    Measured,
    Prepared,
    References,
    check_finite,
    check_tokens_known,
    columns_of,
    reading_of,
    refuse_or_drop_copies,
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
from unlearner.inference.answers import Answer
from unlearner.inference.bertscore import BertScorer, measuring_scorer, with_scores
from unlearner.inference.generation import shares_cache, way_to_generate
from unlearner.inference.language_model import Questions, infer
from unlearner.inference.reference import TargetDistribution
from unlearner.metrics import ma
from unlearner.models.adapter_folders import find_adapters
from unlearner.models.heads import output_head
from unlearner.models.loading import Loaded, load_causal_lm
from unlearner.output import Json
from unlearner.retrieval.analogous import AnalogousSettings, find_analogous
from unlearner.settings import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    Template,
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

    def load(
        self, name: str, *, revision: str = "main", trust_remote_code: bool = False, base: str = ""
    ) -> Loaded:
        """A causal language model and its tokenizer."""
        return load_causal_lm(
            name, revision=revision, trust_remote_code=trust_remote_code, base=base
        )

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
        """With how its continuations are made, where that is not as for most models."""
        model = loaded.model
        if shares_cache(model, output_head(model)):
            return loaded.notes
        how = way_to_generate(model).note
        return (*loaded.notes, how) if how else loaded.notes

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

        The model is run once on sets of the same records.
        """
        scorer, found = bert_scorer(evaluation), {}
        for role, some in sets.items():
            same = next((other for other in found if sets[other].records == some.records), None)
            if same is not None:
                found[role] = found[same]
                continue
            reference = (references or {}).get(role)
            questions = questions_of(evaluation)
            answers = infer(loaded.model, loaded.tokenizer, some.windows, questions, reference)
            found[role] = answers if scorer is None else with_scores(answers, scorer)
        return found

    def forget_figures(
        self, loaded: Loaded, sets: Mapping[str, TokenizedSet], config: RunConfig
    ) -> dict[str, float]:
        """MA, and membership by loss: no text is continued."""
        asked = replace(questions_of(config.evaluation), continuations="none")
        answers = {
            role: infer(loaded.model, loaded.tokenizer, sets[role].windows, asked)
            for role in ("forget", "holdout")
            if role in sets
        }
        return quick_figures(answers, {"ma": ma.metric}, sets)

    def references(self, loaded: Loaded, sets: Mapping[str, TokenizedSet]) -> References:
        """The distributions on every set but the forget set, from which it is to move away."""
        return {
            role: TargetDistribution.of(loaded.model, some.windows)
            for role, some in sets.items()
            if role != "forget"
        }

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
            pool=_without_copies(prepared, pool_of(config, prepared)),
            retain=prepared.get("retain"),
            analogous=None,
            level=level,
            questions=questions_of(config.evaluation),
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
            references={**baseline.references, **self.references(loaded, own)},
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
        own = self.references(prepared.loaded, {"holdout": unseen})
        return replace(
            baseline,
            criteria=self.criteria(prepared, scores, baseline.level, config),
            data=replace(baseline.data, partners=partners_of(prepared, config), unseen=unseen),
            sets=sets,
            answers=answers,
            scores=scores,
            references={**baseline.references, **own},
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
        return replace(verdict, notes=(*verdict.notes, *_notes_on_holdout(prepared)))

    def sections(
        self,
        prepared: Prepared[TokenizedSet],
        measured: Measured[TokenizedSet, Answer],
        config: RunConfig,
    ) -> Json:
        """How the models were run, and MA and EL_10 of every record before and after."""
        evaluation = config.evaluation
        how: Json = {"prompt_start": evaluation.prompt_start}
        if _has_prompts(prepared["forget"]):
            how["scope"] = config.data.scope
        if evaluation.bertscore_model is not None:
            how["bertscore_model"] = own_name(evaluation.bertscore_model)
            how["bertscore_baseline"] = evaluation.bertscore_baseline
        if "target" not in measured.answers:
            return {"evaluation": how}
        before, after = (
            Recall.of(measured.answers[model]["forget"]) for model in ("target", "unlearned")
        )
        per_record = [
            {"id": record.id, "before": before.to_json(index), "after": after.to_json(index)}
            for index, record in enumerate(prepared["forget"].records)
        ]
        return {"evaluation": how, "per_record": per_record}


def prepare_text(
    family: CausalLM, loaded: Loaded, sets: Mapping[str, RecordSet], data: DataSettings
) -> Prepared[TokenizedSet]:
    """Tokenize every set for the model and find the copies of forget records.

    Raises:
        UserError: Token ids are outside the vocabulary, a record cannot be tokenized, or unseen
            records are to be forgotten.
    """
    chat = _is_chat(loaded, sets, data)
    by_chat = chat or any(record.messages for some in sets.values() for record in some)
    layout = Layout(
        template=Template.parse(data.template).layout,
        chat=chat,
        scope=data.scope,
        max_length=max(2, min(data.max_length, loaded.context)),
        append_eos=data.append_eos,
        date=day_of(data) if by_chat and reads_date(loaded.tokenizer) else "",
    )
    size = loaded.vocabulary
    tokenized = {}
    for role, records in sets.items():
        check_ids_in_vocabulary(records, size)
        tokenized[role] = tokenize_set(records, loaded.tokenizer, layout)
        check_tokens_known(tokenized[role], size)
    duplicates = {}
    if "forget" in tokenized:
        forget = contents(tokenized["forget"], loaded.tokenizer)
        duplicates = {
            role: find_duplicates(forget, contents(some, loaded.tokenizer))
            for role, some in tokenized.items()
            if role != "forget"
        }
        tokenized, duplicates = refuse_or_drop_copies(
            tokenized, duplicates, drop=data.drop_duplicates, refused=("holdout", "test")
        )
    notes = tuple(
        f"{role} {some.source}: {note}" for role, some in tokenized.items() for note in some.notes
    )
    return Prepared(
        family,
        loaded,
        tokenized,
        duplicates,
        layout,
        reading=(*reading_of(sets), *notes),
        columns=columns_of(sets),
    )


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


DEFAULT_TEMPLATE = DataSettings.model_fields["template"].default


def day_of(data: DataSettings) -> str:
    """The day that a chat template takes for today."""
    return data.date or datetime.datetime.now().date().isoformat()


def partners_of(prepared: Prepared[TokenizedSet], config: RunConfig) -> TokenizedSet | None:
    """The unseen records that the method learns from, which are left out of every figure.

    As many as there are to be forgotten, or half of all where that is fewer, drawn by the seed.
    """
    holdout = prepared.get("holdout")
    if holdout is None or not config.method.learns_from_unseen:
        return None
    generator = torch.Generator().manual_seed(config.training.seed)
    order = torch.randperm(len(holdout), generator=generator).tolist()
    count = min(len(prepared["forget"]), len(holdout) // 2)
    return holdout.subset(sorted(order[:count])) if count else None


def check_unseen(config: RunConfig, holdout: RecordSet | TokenizedSet | None) -> None:
    """Refuse too few unseen records for a method that cannot do without some to learn from.

    Raises:
        UserError: There are fewer than two.
    """
    if "holdout" in config.method.needs and (holdout is None or len(holdout) < 2):
        raise UserError(
            f"--holdout: {config.method.name} learns from unseen records and is measured on "
            "others; give 2 at least, better twice as many as --forget has"
        )


# Records of so many times the length, or of so much less, are of another make-up.
OTHER_LENGTH = 2.0


def _notes_on_holdout(prepared: Prepared[TokenizedSet]) -> list[str]:
    """Where the unseen records that limits rest on are unlike those to be forgotten."""
    forget, holdout = prepared["forget"], prepared.get("holdout")
    if holdout is None:
        return []
    notes = []
    asked, also = _has_prompts(forget), _has_prompts(holdout)
    if asked != also:
        forms = ("prompts and responses", "plain texts")
        mine, other = forms if asked else forms[::-1]
        notes.append(
            f"the records to be forgotten are {mine} and the unseen ones {other}: the limits come "
            "from text of another form, give unseen records of the same"
        )
    mine, other = (
        sum(int(window.scored.sum()) for window in some.windows) / len(some)
        for some in (forget, holdout)
    )
    if max(mine, other) > OTHER_LENGTH * min(mine, other):
        notes.append(
            f"the unseen records are of another length ({other:.0f} counted tokens a record, those "
            f"to be forgotten {mine:.0f}): limits of single records allow for it, limits of the "
            "whole set do not"
        )
    return notes


def _has_prompts(some: RecordSet | TokenizedSet) -> bool:
    """Whether any record is a prompt and its response."""
    return any(record.is_asked for record in some.records)


def _is_chat(loaded: Loaded, sets: Mapping[str, RecordSet], data: DataSettings) -> bool:
    """Whether prompt and response are joined by the chat template.

    Raises:
        UserError: There is one, and nothing says whether it is to be used; or there is none, and
            the records are conversations.
    """
    for some in sets.values():
        if any(record.messages for record in some) and not loaded.tokenizer.chat_template:
            raise UserError(
                f"{some.name} {some.source}: conversations need a chat template, and the model's "
                "tokenizer has none; put the chat_template.jinja that the model was tuned with "
                "into its folder, or give prompt and response (with --map)"
            )
    if data.chat is not None:
        return data.chat
    template = Template.parse(data.template)
    own_template = data.template != DEFAULT_TEMPLATE and bool(template.response)
    asked = [some for some in sets.values() if any(record.prompt for record in some)]
    if not asked or own_template or not loaded.tokenizer.chat_template:
        return False
    raise UserError(
        f"data.chat: {asked[0].name} {asked[0].source} has prompts and responses, and the model's "
        "tokenizer has a chat template; say data.chat=true (the records are asked as a chat with "
        "an instruct model) or data.chat=false (they are joined by data.template, without it)"
    )


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


def check_needs(config: RunConfig, roles: Collection[str], needs: Collection[str]) -> None:
    """Refuse a run that lacks a set before anything slow is done.

    Args:
        needs: "pool", text that may be learned, and "level", unseen text to compare with.

    Raises:
        UserError: There is no text to learn, or no level of unseen text can be known.
    """
    if "pool" in needs and not {"pool", "retain"} & set(roles):
        raise UserError(
            f"--retain or --pool: method {config.method.name} needs text that may be kept, to "
            "learn on or to watch; give the records to keep, or any public text as --pool"
        )
    if "level" in needs and "holdout" not in roles:
        measure_holdout_baseline(None, config.criteria)


def pool_of(config: RunConfig, prepared: Prepared[TokenizedSet]) -> TokenizedSet:
    """The text that the method may learn on.

    Raises:
        UserError: There is none, or it holds nothing but copies of what is to be forgotten, or no
            level of unseen text can be known.
    """
    check_needs(config, prepared.sets, CausalLM.needs["forget"])
    role = "pool" if prepared.get("pool") else "retain"
    pool, copies = prepared[role], {copy.other for copy in prepared.duplicates[role]}
    if len(copies) == len(pool):
        raise UserError(
            f"--{role}: all of its {len(pool)} records are duplicates of records to forget, so "
            "there is nothing to learn meanwhile; give other texts as --pool"
        )
    return pool


def _without_copies(prepared: Prepared[TokenizedSet], pool: TokenizedSet) -> TokenizedSet:
    """The pool without exact and near duplicates of what is to be forgotten."""
    copies = {copy.other for copy in prepared.duplicates[pool.name]}
    if not copies:
        return pool
    return pool.subset([record for record in range(len(pool)) if record not in copies])
