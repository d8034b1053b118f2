"""One run as one YAML file: defaults in the classes, then the file, then section.key=value.

Nothing heavy is imported here, so a wrong key is refused before any model is read.
"""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import not_
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from unlearner.errors import UserError, quoted

Model = TypeVar("Model", bound=BaseModel)

# No number of a setting is larger, or below its negative, unless its field has a limit of its own.
MOST = 1_000_000

# Inference of a classifier is one forward pass, decoding a continuation hundreds of them.
MEASURED_RECORDS = {
    "causal-lm": 512,
    "sequence-classification": 5000,
    "token-classification": 5000,
}

# Sets of a language model that a run has any number of, each under a name of the user's: text that
# has nothing to do with the request, and dialogues whose last turn it is to give.
FURTHER_SETS = ("neutral", "dialogue")

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def further_role(kind: str, name: str) -> str:
    """The role of a further set, such as `neutral:wikitext`.

    Raises:
        ValueError: The name is none that can be shown and given on a command line.
    """
    if not SET_NAME.fullmatch(name):
        raise ValueError(
            "names of sets are up to 40 letters, digits, dots, hyphens and underscores, "
            f"got {quoted(name)}"
        )
    return f"{kind}:{name}"


def further_kind(role: str) -> str:
    """Which of `FURTHER_SETS` a role is of; empty for the sets of a request."""
    kind, colon, _ = role.partition(":")
    return kind if colon and kind in FURTHER_SETS else ""


def option_of(role: str) -> str:
    """The option that gives the set of a role, such as `--retain` or `--neutral wikitext`."""
    return f"--{role.replace(':', ' ', 1)}"


class Section(BaseModel):
    """A section of a run file: unknown keys fail, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    rare: ClassVar[tuple[str, ...]] = ()  # settings that few runs have

    def values(self) -> dict[str, Any]:
        """As run files, reports and provenance hold it: rare settings only where they are set."""
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.rare}
        absent = {name for name, default in defaults.items() if getattr(self, name) == default}
        return self.model_dump(exclude=absent)


Choice = bool | Literal["auto"]


class Holding(NamedTuple):
    """How the weights of a language model's layers are held while they do not compute.

    Attributes:
        casting: As they are stored, see `ModelSettings.layerwise_casting`.
        offload: In the machine's memory, see `ModelSettings.offload`.
    """

    casting: Choice = False
    offload: Choice = False


WHOLE = Holding()

# The settings that are that, for who changes or goes on with the weights of a loaded model.
HELD_WHOLE = {"layerwise_casting": False, "offload": False}


class ModelSettings(Section):
    """Which model.

    Args:
        name: Local folder or hub id; empty for a model given from Python.
        revision: Of a hub id.
        base: Where MODEL is an adapter: its base, if that is not what the adapter names.
        trust_remote_code: Run code that comes with the model.
        dtype: Format of the numbers of the model that is saved; "auto" is that of MODEL. What is
            computed is float32 all the same, and what is measured is what was saved.
        load_in_4bit: Train adapters on layers quantised to NF4 (QLoRA); needs training.lora_rank.
            What is measured and saved is not quantised.
        load_in_8bit: The same with layers of int8.
        layerwise_casting: Hold the layers of a language model of 16 bits as they are stored, half
            the memory, and widen each while it computes: figures are those of float32. "auto" does
            so from a billion parameters on. Weights that are trained themselves are float32.
        offload: Let the layers of a language model wait in the machine's memory, each on the
            accelerator while it computes. "auto" does so where the model does not fit there.
        retrained: A model trained without the forget set, by name: measured beside the others, and
            what a classifier is held to.
        original: The model from before the first request, by name, where this one was unlearned
            before: the utility floor is measured against it.
    """

    rare: ClassVar[tuple[str, ...]] = (
        "original",
        "load_in_4bit",
        "load_in_8bit",
        "layerwise_casting",
        "offload",
    )

    name: str = ""
    revision: str = "main"
    base: str = ""
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    layerwise_casting: Choice = "auto"
    offload: Choice = "auto"
    retrained: str = ""
    original: str = ""

    @property
    def bits(self) -> int:
        """Of a quantised layer's numbers in training; 0 where the layers stay as they are."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else 0

    @property
    def holding(self) -> Holding:
        """How layers are held; where another format is saved, they have to hold its numbers."""
        casting = self.layerwise_casting if self.dtype == "auto" else False
        return Holding(casting, self.offload)

    @model_validator(mode="after")
    def _formats_alike(self) -> "ModelSettings":
        if self.layerwise_casting is True and self.dtype != "auto":
            raise UserError(
                f"model.layerwise_casting: layers are held, and saved, as MODEL is stored, and "
                f"model.dtype={self.dtype} asks for another format; leave one of both out"
            )
        return self

    @model_validator(mode="after")
    def _one_of_two(self) -> "ModelSettings":
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("model: load_in_4bit and load_in_8bit are both set; leave one out")
        return self


# Names of columns that are the response where they stand last in a template.
RESPONSES = ("response", "completion", "output", "answer", "answers")


@dataclass(frozen=True)
class Template:
    """What joins a prompt, of one column or several, and its response.

    Attributes:
        before: What stands before the prompt.
        prompt: The columns that it is made of, each with what stands before it.
        between: What stands between the prompt and the response.
        response: The response's column; empty where the template is of the prompt alone.
        after: What stands behind the response.
    """

    before: str = ""
    prompt: tuple[tuple[str, str], ...] = (("", "prompt"),)
    between: str = " "
    response: str = "response"
    after: str = ""

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template that a text with names of columns in braces is.

        Raises:
            ValueError: It names no column, the response does not stand last, or a brace is left.
        """
        parts = re.split(r"\{([^{}]+)\}", text)
        texts, names = parts[::2], parts[1::2]
        if not names or any("{" in one or "}" in one for one in texts):
            raise ValueError(
                "must hold {prompt} and then {response}, or names of columns in braces, and no "
                "other braces"
            )
        last = names.pop() if len(names) > 1 and names[-1] in RESPONSES else ""
        if "response" in names:
            raise ValueError("must hold {response} once and behind all other names")
        prompt = tuple(zip(["", *texts[1:]], names, strict=False))
        if last:
            return cls(texts[0], prompt, texts[-2], last, texts[-1])
        return cls(texts[0], prompt, texts[-1] or " ", "", "")

    @property
    def joins_columns(self) -> bool:
        """Whether it names columns other than `prompt` and `response`."""
        names = [name for _, name in self.prompt]
        return names != ["prompt"] or self.response not in ("", "response")

    @property
    def layout(self) -> str:
        """How the whole prompt and the response are joined."""
        return f"{self.before}{{prompt}}{self.between}{{response}}{self.after}"


class DataSettings(Section):
    """Which records, and how they become tokens.

    Args:
        name: A data set of `unlearner list datasets`, which gives the sets that are not given here.
        folder: Where its files are: a local folder, or `hf:owner/name`.
        options: Its own settings, such as a split and numbers of records.
        forget: Records to be forgotten: a file or `hf:owner/name[:config][:split]`.
        retain: Records whose quality must stay.
        pool: Text that may be learned while unlearning; the retain set where none is given.
        holdout: Text like the forget set that the model was never trained on.
        test: Further records never trained on, which are measured and no method reads.
        neutral: Texts that have nothing to do with the request, by a name of one's own, such as a
            sample of Wikitext: a language model's perplexity of each is measured before and after.
        dialogue: Conversations, likewise, or prompts and responses: the last response is generated
            and compared with the dialogue's own.
        forget_class: A label that a sequence classifier is to lose; its records are taken out of
            `retain` and are the forget set.
        drop_duplicates: Leave exact copies of forget records out of the other sets.
        columns: Renames of columns, the file's name to ours, `forget:question` for one set alone;
            `instruction+input` joins two.
        first_label: The number of a classifier's first output in labels given as numbers: 0, or 1
            where they are counted from 1.
        template: Joins prompt and response; may name the columns of the file that make up the
            prompt. An empty column falls out together with what stands before it.
        chat: Use the tokenizer's chat template instead; has to be said where records are prompt and
            response and the tokenizer has one. Conversations always use it.
        date: The day that a chat template takes for today, such as 2026-11-26; that of the run
            where none is given.
        document: Read a .txt file as one record, and not each of its lines.
        scope: What counts of a record of prompt and response, in every measure and every loss: the
            "response", or prompt and response ("sequence"). Of plain text everything counts.
        max_length: Longest window in tokens; the model's context where it is shorter.
        append_eos: End records with the end-of-text token.
        request_id: Name of the deletion request in the report; made from its digest where empty.
    """

    rare: ClassVar[tuple[str, ...]] = FURTHER_SETS

    request_id: str = ""
    name: str = ""
    folder: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    forget: str = ""
    retain: str = ""
    pool: str = ""
    holdout: str = ""
    test: str = ""
    neutral: dict[str, str] = Field(default_factory=dict)
    dialogue: dict[str, str] = Field(default_factory=dict)
    forget_class: str = ""
    drop_duplicates: bool = False
    columns: dict[str, str] = Field(default_factory=dict)
    first_label: int = Field(default=0, ge=0, le=1)
    template: str = "{prompt} {response}"
    chat: bool | None = None
    date: str = ""
    document: bool = False
    scope: Literal["sequence", "response"] = "response"
    max_length: int = Field(default=1024, ge=2, le=10_000_000)
    append_eos: bool = False

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, template: str) -> str:
        # A shell's quotes leave a line end as the two characters that it is written with.
        template = template.replace("\\n", "\n").replace("\\t", "\t")
        Template.parse(template)
        return template

    @field_validator(*FURTHER_SETS)
    @classmethod
    def _have_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name, path in files.items():
            further_role("", name)
            if not path:
                raise ValueError(f"no file is given for {quoted(name)}")
        return files

    @property
    def further(self) -> dict[str, str]:
        """The further sets: their files by role."""
        return {
            further_role(kind, name): path
            for kind in FURTHER_SETS
            for name, path in getattr(self, kind).items()
        }

    @field_validator("date", mode="before")
    @classmethod
    def _is_a_day(cls, date: object) -> object:
        if isinstance(date, str) and date:
            try:
                datetime.date.fromisoformat(date)
            except ValueError:
                raise ValueError("must be a day such as 2026-11-26") from None
        return date.isoformat() if type(date) is datetime.date else date  # as YAML reads it

    @model_validator(mode="after")
    def _has_a_name(self) -> "DataSettings":
        if not self.name and (self.folder or self.options):
            raise UserError("data.name: needed where data.folder or data.options is given")
        return self


class TrainingSettings(Section):
    """The machine's side of training; what belongs to a method stands in the method.

    Args:
        seed: Of every random draw of the run.
        device: "auto" takes an accelerator where there is one.
        precision: Arithmetic of the forward pass; weights and optimiser stay float32.
        optimiser: "adamw_8bit" keeps both moments of a weight in a byte each instead of four; needs
            the package bitsandbytes.
        gradients: "bfloat16" keeps a weight's gradient in two bytes instead of four, and sums those
            of a step in them; with adamw_8bit only.
        compile: Compile the layers' arithmetic in training by torch.compile. The first steps take a
            minute or so more; evaluation rounds and reports are never compiled.
        max_gradient_norm: Gradients are scaled down to this norm; None leaves them.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        micro_batch: Windows of a language model's step that go forward and backward together; the
            gradient is that of the whole step, for one more forward pass. "auto" takes all, or as
            many as the memory plan has room for.
        lora_rank: Rank of low-rank adapters on every linear layer, which are then all that is
            trained; 0 trains the weights themselves.
        lora_alpha: Their output is scaled by alpha / rank; None takes twice the rank.
        keep_adapter: Save the adapter beside the merged model. Whoever has both can undo the
            unlearning.
        checkpoint_every: Steps between two checkpoints, from which `--resume` goes on; "auto" saves
            about once a minute, and spends a twentieth of the time on it at most.
        keep_checkpoints: Where the result is an earlier round's model, save the last one as well.
        ignore_memory_plan: Go on although the run is expected to need more memory than there is.
        trackers: Where the figures of steps and rounds also go: tensorboard, wandb, trackio, mlflow
            or any other tracker of accelerate; each has to be installed.
    """

    rare: ClassVar[tuple[str, ...]] = ("optimiser", "gradients", "compile")

    seed: int = Field(default=0, ge=0, lt=2**32)  # NumPy takes no larger one
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    optimiser: Literal["adamw", "adamw_8bit"] = "adamw"
    gradients: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    max_gradient_norm: float | None = Field(default=None, gt=0)
    gradient_checkpointing: bool = False
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    lora_rank: int = Field(default=0, ge=0, le=65_536)
    lora_alpha: float | None = Field(default=None, gt=0)
    keep_adapter: bool = False
    checkpoint_every: PositiveInt | Literal["auto", "never"] = "auto"
    keep_checkpoints: bool = False
    ignore_memory_plan: bool = False
    trackers: tuple[str, ...] = ()

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_or_several(cls, trackers: object) -> object:
        """A single one may stand without brackets: training.trackers=tensorboard."""
        return (trackers,) if isinstance(trackers, str) else trackers


# Names for several tasks of the lm-evaluation-harness at once.
HARNESS_PRESETS = {
    "icu": (
        *("lambada_openai", "hellaswag", "winogrande", "copa", "arc_easy", "arc_challenge"),
        *("piqa", "mathqa", "pubmedqa"),
    ),
}


class JudgeSettings(Section):
    """Which model rates the continuations of the records, if any.

    Its key, where it needs one, is the environment variable UNLEARNER_JUDGE_KEY.

    Args:
        url: An OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; empty for no judge.
        model: The model of the endpoint.
        allow_remote: The endpoint may be another machine, to which the records' text is then sent.
        timeout_seconds: For one answer.
    """

    url: str = ""
    model: str = ""
    allow_remote: bool = False
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)


class EvaluationSettings(Section):
    """How models are measured.

    Args:
        prompt_start: Shortest prompt of EL: a share of the record below 1 (0.75 is the range of
            ICU's published code) or a length in tokens (1 is every prompt, as first defined).
        max_records: Records of a set beyond which a seeded sample of so many is measured; the
            forget set is always measured whole. "auto": 512 texts, 5000 labelled records.
        resamples: Bootstrap resamples of the intervals.
        batch_tokens: Tokens of one forward pass, padding included.
        memory_bytes: Room for keys and values while continuations are decoded. "auto" is half of
            what a CUDA device has free, and 1 GiB elsewhere.
        look_autocast: Between steps a generator is measured in bfloat16 arithmetic, which an
            accelerator is faster in; the report and its limits are of float32 all the same.
        bertscore_model: Path or hub id of the encoder of `bertscore_f1`, of generators; without one
            it is not measured.
        bertscore_baseline: What it gives to unrelated text; it is then rescaled to 0.
        dialogue_tokens: Tokens of the response to a dialogue at most.
        harness: Tasks of the lm-evaluation-harness that every model is run on, with commas between
            them; "icu" is the nine of ICU's paper.
        harness_include_path: Folder with .yaml files of tasks of one's own.
        harness_limit: Documents of each task at most, the first ones; None for all.
        harness_batch_size: Requests of one forward pass.
        harness_chat: Ask by the tokenizer's chat template; without it a task's prompts are plain
            text, as the harness's own command has it.
        judge: Which model rates the continuations of the records; none by default.
    """

    rare: ClassVar[tuple[str, ...]] = (
        *("dialogue_tokens", "judge"),
        *("harness", "harness_include_path", "harness_limit", "harness_batch_size", "harness_chat"),
    )

    prompt_start: float = Field(default=0.75, gt=0)
    max_records: PositiveInt | Literal["auto"] = "auto"
    resamples: int = Field(default=1000, gt=0, le=100_000)
    batch_tokens: int = Field(default=4096, gt=0, le=2**31)
    memory_bytes: Annotated[int, Field(gt=0, le=2**50)] | Literal["auto"] = "auto"
    look_autocast: bool = Field(default=False, exclude_if=not_)  # in run files where it is used
    bertscore_model: str | None = None
    bertscore_baseline: float = Field(default=0.0, ge=0.0, lt=1.0)
    dialogue_tokens: int = Field(default=128, gt=0, le=65_536)
    harness: tuple[str, ...] = ()
    harness_include_path: str = ""
    harness_limit: PositiveInt | None = None
    harness_batch_size: int = Field(default=8, gt=0, le=65_536)
    harness_chat: bool = False
    judge: JudgeSettings = Field(default_factory=JudgeSettings)

    @field_validator("harness", mode="before")
    @classmethod
    def _names_of_tasks(cls, names: object) -> object:
        """Names with commas between them, and presets among them, as a list of names."""
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        if not isinstance(names, list | tuple):
            return names
        found = [task for name in names for task in HARNESS_PRESETS.get(str(name), (name,))]
        return tuple(dict.fromkeys(found))

    def limit_for(self, family: str) -> int:
        """Records of a set that are measured at most."""
        return MEASURED_RECORDS[family] if self.max_records == "auto" else self.max_records

    @field_validator("prompt_start")
    @classmethod
    def _share_or_length(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("must be a share below 1 or a whole number of tokens")
        return value


class CriteriaSettings(Section):
    """What the verdict asks for, fixed before the run.

    Args:
        perplexity_ratio: Perplexity of retained text at most, as a multiple of the target model's.
        unseen_perplexity_ratio: Perplexity of holdout text at most, likewise, or the retrained
            model's where that is more.
        neutral_ratio: Perplexity of each neutral text at most, as a multiple of the target model's;
            without it the texts are measured and nothing is asked of them.
        degenerate_increase: Share of degenerate continuations at most above the target's.
        ma: Threshold of memorization accuracy set by hand; measured on holdout text where None.
        el_10: Threshold of extraction likelihood set by hand, likewise.
        score_margin: How far a classifier's score on the forget set may be from the retrained
            model's, or where there is none from the target's on unseen records.
        auc_margin: How far the AUC of membership inference may be outside what lies between 0.5
            and the retrained model's.
        score_drop: How far a classifier's score on retained and on unseen records may fall.
    """

    rare: ClassVar[tuple[str, ...]] = ("neutral_ratio",)

    perplexity_ratio: float = Field(default=1.10, ge=1.0)
    unseen_perplexity_ratio: float = Field(default=1.10, ge=1.0)
    neutral_ratio: float | None = Field(default=None, ge=1.0)
    degenerate_increase: float = Field(default=0.01, ge=0.0, le=1.0)
    ma: float | None = Field(default=None, ge=0.0, le=1.0)
    el_10: float | None = Field(default=None, ge=0.0, le=1.0)
    score_margin: float = Field(default=0.05, ge=0.0, le=1.0)
    auc_margin: float = Field(default=0.05, ge=0.0, le=0.5)
    score_drop: float = Field(default=0.02, ge=0.0, le=1.0)

    @property
    def by_hand(self) -> bool:
        """Both thresholds are given, so that no holdout text is needed."""
        return self.ma is not None and self.el_10 is not None


class SearchSettings(Section):
    """How settings of a method are searched for.

    Args:
        trials: Runs at most; 0 for no search. The first is that of the settings given.
        seconds: No trial begins after so long; None for no such limit.
        rate_factor: Learning rates tried are at most so many times as large, or as small, as the
            one given.
        patience: A trial ends early when so many rounds in a row have brought nothing better.
    """

    trials: int = Field(default=0, ge=0, le=10_000)
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    rate_factor: float = Field(default=8.0, ge=1.0)
    patience: PositiveInt = 6


# Of `--search`, where `search.trials` is not given.
SEARCH_TRIALS = 12

SECTIONS: dict[str, type[Section]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "criteria": CriteriaSettings,
    "search": SearchSettings,
}


def check_names(names: Iterable[str], allowed: Sequence[str], *, what: str, where: str) -> None:
    """Refuse the first name that is not allowed, and name the nearest that is."""
    for name in names:
        if name not in allowed:
            close = get_close_matches(str(name)[:100], allowed, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            listed = ", ".join(allowed)
            raise UserError(f"{where}: unknown {what} {quoted(name)}; {hint}allowed: {listed}")


def build(kind: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """A settings object from plain values.

    Raises:
        UserError: The first value that is unknown, missing or out of range, as section.key.
    """
    check_names(values, list(kind.model_fields), what="key", where=where)
    try:
        built = kind(**values)
    except ValidationError as error:
        raise UserError(_first_error(error.errors(), kind, where)) from None
    for name, value in values.items():
        number = getattr(built, name)
        if isinstance(value, bool) and not isinstance(number, bool):
            raise UserError(f"{where}.{name}: must not be true or false, got {value}")
        if isinstance(number, int | float) and not _has_limit(kind, name) and abs(number) > MOST:
            raise UserError(
                f"{where}.{name}: is out of range, got {quoted(value)}{_range(kind, name)}"
            )
    return built


def _limits(kind: type[BaseModel], name: str) -> dict[str, float]:
    """The bounds of a field's numbers, by the words of JSON schema."""
    field = kind.model_json_schema()["properties"][name]
    return {key: limit for one in (field, *field.get("anyOf", ())) for key, limit in one.items()}


def _has_limit(kind: type[BaseModel], name: str) -> bool:
    return not _limits(kind, name).keys().isdisjoint(("maximum", "exclusiveMaximum"))


def _range(kind: type[BaseModel], name: str) -> str:
    """The range of a field's numbers as part of a message."""
    limits = _limits(kind, name)
    least, most = f"from {limits.get('minimum', -MOST)}", f"up to {limits.get('maximum', MOST)}"
    if "exclusiveMinimum" in limits:
        least = f"above {limits['exclusiveMinimum']}"
    if "exclusiveMaximum" in limits:
        most = f"to below {limits['exclusiveMaximum']}"
    return f"; allowed is {least} {most}"


def _first_error(errors: Sequence[ErrorDetails], kind: type[BaseModel], where: str) -> str:
    """The first error; a value that may be of several kinds has one error for each of them."""
    first = errors[0]
    place, value = first["loc"], first["input"]
    same = [one for one in errors if one["loc"][:1] == place[:1] and one["input"] is value]
    place = place[:1] if len(same) > 1 else place
    booleans = ("bool_type", "bool_parsing")
    messages = [
        "input should be true or false" if one["type"] in booleans else one["msg"] for one in same
    ]
    messages = [message.removeprefix("Value error, ") for message in messages]
    allowed = ", or ".join(message[0].lower() + message[1:] for message in messages)
    hint = ""
    if any(one["type"].startswith(("less_than", "greater_than")) for one in same):
        hint = _range(kind, str(place[0]))
    if first["type"] == "string_type" and isinstance(value, (int, float)):
        hint = f"; put it in quotes, '\"{quoted(value)}\"'"
    parts = [where, *(part for part in place if isinstance(part, str))]
    return f"{'.'.join(parts)}: {allowed}, got {quoted(value)}{hint}"


def without_paths(values: Mapping[str, object]) -> dict[str, Any]:
    """The values with a file's or folder's own name for its path, which is this machine's alone."""
    return {key: own_name(value) for key, value in values.items()}


def own_name(value: object) -> object:
    """The last part of what is a local path; anything else, such as a hub id, as it is."""
    if isinstance(value, str) and "/" in value and Path(value).exists():
        return Path(value).resolve().name
    return value
