"""Which columns of a source are read: one form of record that the kind of model can take.

A column with our own name is that column; others are known by the names that data sets for
fine-tuning give them, or by `--map`. What is not known is asked for, never guessed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unlearner.data.problems import SourceError, shown_column, shown_name, shown_names
from unlearner.data.readers import LABELLED_SUFFIXES, SUFFIXES, TAGGED_SUFFIXES
from unlearner.settings import FURTHER_SETS, RESPONSES, Template

JOINT = "\n\n"  # between several columns of a prompt
ROLES = ("forget", "retain", "pool", "holdout", "test", "records", *FURTHER_SETS)

# By other names: columns of a prompt in the order in which they are joined, the one that it
# must have first.
PROMPTS = (
    ("instruction", ("instruction", "input", "context")),  # Alpaca, Dolly
    ("question", ("context", "question")),  # SQuAD
    ("query", ("context", "query")),
    ("input", ("input",)),
)
OTHER_NAMES = {"text": ("content",), "messages": ("conversations", "conversation")}

# Words in the names of columns that a hint goes by.
MEANINGS = {
    "prompt": "prompt question query instruction input user human request frage pregunta domanda",
    "response": "response answer reply completion output assistant gpt antwort respuesta risposta",
    "text": "text content body passage document article story sentence review abstract message",
    "label": "label class category target intent sentiment topic kategorie",
    "tokens": "tokens words",
    "tags": "tags ner labels",
}


@dataclass(frozen=True)
class RecordKind:
    """What the records for one family of models are made of."""

    forms: tuple[tuple[str, ...], ...]  # a record has exactly one of these
    optional: tuple[str, ...]
    suffixes: tuple[str, ...]  # of the files that can hold such records
    needed: str
    # Of our columns the names that others give them, in lower case, and of pairs of texts both.
    known_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    known_pairs: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(column for form in self.forms for column in form), *self.optional)


# What published data sets call the text and the label of a record, the words and their tags.
KNOWN_TEXTS = ("text", "sentence", "content", "message", "review", "tweet", "comment", "utterance")
KNOWN_LABELS = ("label", "labels", "sentiment", "category", "target", "class", "intent", "emotion")
KNOWN_TOKENS = ("tokens", "words", "token", "word")
KNOWN_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "ner", "pos", "upos")
KNOWN_PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("question", "passage"),
)

EXCHANGE, MESSAGES = ("prompt", "response"), ("messages",)

# What is read beside some forms of record only.
BESIDE = {"system": (MESSAGES, EXCHANGE), "tools": (MESSAGES,), "history": (EXCHANGE,)}

RECORD_KINDS = {
    "causal-lm": RecordKind(
        forms=(("text",), EXCHANGE, ("input_ids",), MESSAGES),
        optional=("id", "subject", *BESIDE),
        suffixes=SUFFIXES,
        needed="a causal LM needs text, or prompt and response, or messages, or input_ids",
    ),
    "sequence-classification": RecordKind(
        forms=(("text", "label"),),
        optional=("text_pair", "id", "subject"),
        suffixes=LABELLED_SUFFIXES,
        needed="a sequence classifier needs text and label",
        known_as={"text": KNOWN_TEXTS, "label": KNOWN_LABELS},
        known_pairs=KNOWN_PAIRS,
    ),
    "token-classification": RecordKind(
        forms=(("tokens", "tags"),),
        optional=("id", "subject"),
        suffixes=TAGGED_SUFFIXES,
        needed="a token classifier needs tokens and tags",
        known_as={"tokens": KNOWN_TOKENS, "tags": KNOWN_TAGS},
    ),
}


@dataclass(frozen=True)
class Chosen:
    """The columns of a source that are read.

    Attributes:
        columns: Our names, each with the source's columns that it is made of.
        befores: What stands before each column of a prompt but the first.
    """

    columns: Mapping[str, tuple[str, ...]]
    befores: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The source's columns."""
        return list(dict.fromkeys(name for some in self.columns.values() for name in some))

    def parts(self, ours: str) -> list[tuple[str, str]]:
        """The source's columns that one of ours is made of, with what stands before each."""
        names = self.columns[ours]
        befores = self.befores or ["", *[JOINT] * (len(names) - 1)]
        return list(zip(befores, names, strict=True))

    def in_words(self) -> str:
        """Which columns are read, and as what where the names differ."""
        words = []
        for ours, theirs in self.columns.items():
            name = " + ".join(shown_column(one, ours) for one in theirs)
            words.append(name if theirs == (ours,) else f"{name} as {ours}")
        return ", ".join(words)


@dataclass(frozen=True)
class ColumnRules:
    """What the user said of the columns of one set, and what its records are made of.

    Attributes:
        kind: What the records are made of.
        renames: The source's names to ours; several joined by + are one prompt.
        template: Joins columns, where it names any but `prompt` and `response`.
    """

    kind: RecordKind
    renames: Mapping[str, str] = field(default_factory=dict)
    template: Template = field(default_factory=Template)

    def check(self) -> None:
        """Raise `SourceError` where a rename is to a name not known, or to one given already."""
        for theirs, ours in self.renames.items():
            role = theirs.partition(":")[0]
            if ours not in self.kind.columns:
                allowed = ", ".join(self.kind.columns)
                raise SourceError(f"--map {theirs}={ours}: allowed names are {allowed}")
            if list(self.renames.values()).count(ours) > 1:
                way = f"join them with --map A+B={ours}" if ours == "prompt" else "give it to one"
                raise SourceError(f"--map gives the name {ours} to two columns; {way}")
            if "+" in theirs and ours not in ("prompt", "text") and role not in ROLES:
                raise SourceError(f"--map {theirs}={ours}: only a prompt or a text can be joined")

    def choose(self, names: Sequence[str]) -> Chosen:
        """The columns for one form of record and the optional ones.

        Args:
            names: The columns that the source has.

        Raises:
            SourceError: For a form that is missing, cut short or not the only one.
        """
        mapped = {ours: self._mapped(theirs, names) for theirs, ours in self.renames.items()}
        taken = {name for some in mapped.values() for name in some}
        own = {
            name: (theirs,)
            for name in self.kind.columns
            if (theirs := _same(name, names)) is not None and theirs not in taken
        }
        ours, befores = own | mapped, ()
        joined = self._by_template(names)
        if joined is not None:
            (ours["prompt"], befores), response = joined
            if response:
                ours["response"] = (response,)
            mapped["prompt"] = ours["prompt"]
        form = self._form(names, ours, mapped)
        ours = self._filled(form, names, ours, taken)
        missing = [column for column in form if column not in ours]
        if missing:
            hint = f"; {hint_by_meaning(names, (form,), missing)}"
            raise SourceError(
                f"no column {missing[0]}; found {shown_names(names)}; {self.kind.needed}{hint}"
            )
        optional = [c for c in self.kind.optional if form in BESIDE.get(c, (form,))]
        return Chosen({c: ours[c] for c in (*form, *optional) if c in ours}, befores)

    def _mapped(self, theirs: str, names: Sequence[str]) -> tuple[str, ...]:
        parts = (theirs,) if theirs in names else tuple(theirs.split("+"))
        for name in parts:
            if name not in names:
                raise SourceError(
                    f"--map names the column {name!r}; present are {shown_names(names)}"
                )
        return parts

    def _by_template(
        self, names: Sequence[str]
    ) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], str] | None:
        """The columns that the template joins to a prompt, and its response; None for no such."""
        if not self.template.joins_columns:
            return None
        wanted = [name for _, name in self.template.prompt]
        response = "" if self.template.response == "response" else self.template.response
        if not {*wanted, response} & {*names}:
            return None  # a set of another form beside
        absent = [name for name in (*wanted, response) if name and name not in names]
        if absent:
            raise SourceError(
                f"data.template names the column {absent[0]!r}; present are {shown_names(names)}"
            )
        return (tuple(wanted), tuple(before for before, _ in self.template.prompt)), response

    def _form(
        self,
        names: Sequence[str],
        ours: Mapping[str, tuple[str, ...]],
        mapped: Mapping[str, tuple[str, ...]],
    ) -> tuple[str, ...]:
        asked = [form for form in self.kind.forms if not mapped.keys().isdisjoint(form)]
        among = asked or self.kind.forms
        filled = {form: self._filled(form, names, ours, ()) for form in among}
        forms = [form for form in among if filled[form].keys() >= {*form}]
        if ("text",) in forms and ours.get("text") is None and len(forms) > 1:
            forms.remove(("text",))  # `content` beside a form with its own names
        forms = forms or [form for form in among if not filled[form].keys().isdisjoint(form)]
        if not forms:
            hint = hint_by_meaning(names, self.kind.forms)
            raise SourceError(
                f"no usable column; found {shown_names(names)}; {self.kind.needed}; {hint}"
            )
        if len(forms) > 1:
            both = " and ".join("/".join(form) for form in forms)
            maps = " or ".join(
                ",".join(f"{'+'.join(filled[form].get(c, (c,)))}={c}" for c in form)
                for form in forms
            )
            raise SourceError(f"ambiguous: has {both}; keep one, or choose it with --map {maps}")
        return forms[0]

    def _filled(
        self,
        form: tuple[str, ...],
        names: Sequence[str],
        ours: Mapping[str, tuple[str, ...]],
        taken: Iterable[str],
    ) -> dict[str, tuple[str, ...]]:
        """Ours with what the form lacks from columns with other known names."""
        found, left = dict(ours), [name for name in names if name not in {*taken}]
        if self.kind.known_as:
            return found | self._known(left, found)
        for column in form:
            if column in found:
                continue
            if column == "prompt":
                known = _prompt_columns(left)
            elif column == "response":
                known = _response_column(left)
            else:
                others = (_same(name, left) for name in OTHER_NAMES.get(column, ()))
                known = next(((name,) for name in others if name is not None), None)
            if known:
                found[column] = known
        return found

    def _known(
        self, names: Sequence[str], ours: Mapping[str, tuple[str, ...]]
    ) -> dict[str, tuple[str, ...]]:
        """Columns of labelled records that are missing, by others whose names are known.

        Raises:
            SourceError: Several may be the one.
        """
        given = {name for some in ours.values() for name in some}
        spare = {str(name).strip().casefold(): name for name in names if name not in given}
        if "text" not in ours and "text_pair" not in ours:
            for pair in self.kind.known_pairs:
                if spare.keys() >= {*pair}:
                    both = zip(("text", "text_pair"), pair, strict=True)
                    texts = {mine: (spare[name],) for mine, name in both}
                    return texts | self._known(names, {**ours, **texts})
        found = {}
        for mine, others in self.kind.known_as.items():
            theirs = [spare[name] for name in others if name in spare and mine not in ours]
            if len(theirs) > 1:
                raise SourceError(
                    f"no column {mine}, and any of {shown_names(theirs)} may be it; choose with "
                    f"--map {theirs[0]}={mine}"
                )
            if theirs:
                found[mine] = (theirs[0],)
        return found


def for_role(columns: Mapping[str, str], role: str) -> dict[str, str]:
    """The renames for the set of a role: those of all sets, and over them those of its own.

    All sets of a kind of `FURTHER_SETS` have the renames of the kind.
    """
    role = role.partition(":")[0]
    shared, own = {}, {}
    for theirs, ours in columns.items():
        prefix, colon, name = theirs.partition(":")
        if not colon or prefix not in ROLES:
            shared[theirs] = ours
        elif prefix == role:
            own[name] = ours
    return {t: o for t, o in shared.items() if t not in own and o not in own.values()} | own


def _same(name: str, names: Iterable[str]) -> str | None:
    """The column of that name, but for upper and lower case and spaces around it."""
    known = [one for one in names if isinstance(one, str)]
    if name in known:
        return name
    return next((one for one in known if one.strip().lower() == name), None)


def _prompt_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a prompt by other names; None where there is none.

    Raises:
        SourceError: Two kinds of prompts are there, so that one would be dropped.
    """
    found: list[tuple[str, ...]] = []
    for key, columns in PROMPTS:
        if _same(key, names) is None or any(key in (c.lower() for c in some) for some in found):
            continue
        found.append(tuple(one for c in columns if (one := _same(c, names)) is not None))
    if len(found) > 1:
        joined = "+".join(dict.fromkeys(name for some in found for name in some))
        raise SourceError(
            f"the prompt may be {' or '.join(' + '.join(some) for some in found)}; choose with "
            f"--map COLUMN=prompt, or join with --map {joined}=prompt"
        )
    return found[0] if found else None


def _response_column(names: Sequence[str]) -> tuple[str, ...] | None:
    found = [one for name in RESPONSES if (one := _same(name, names)) is not None]
    if len(found) > 1:
        raise SourceError(
            f"the response may be {' or '.join(found)}; choose with --map {found[0]}=response"
        )
    return (found[0],) if found else None


def hint_by_meaning(
    names: Sequence[str], forms: Sequence[tuple[str, ...]], missing: Sequence[str] = ()
) -> str:
    """How to map the columns found: by what their names mean, or that this cannot be told."""
    for form in forms:
        wanted = missing or form
        guesses = [_meant(column, names) for column in wanted]
        if all(guesses) and len({*guesses}) == len(wanted):
            pairs = zip(guesses, wanted, strict=True)
            return "by the names perhaps --map " + ",".join(
                f"{theirs}={ours}" for theirs, ours in pairs
            )
    shown = [",".join(f"COLUMN={column}" for column in missing or form) for form in forms]
    usual = [one for one in shown if one.partition("=")[2] != "input_ids"][:2]
    return f"which column is which cannot be told from the names: --map {' or '.join(usual)}"


def _meant(column: str, names: Sequence[str]) -> str:
    """The one column whose name has a word for one of ours; empty where none or several have."""
    words = set(MEANINGS.get(column, "").split())
    found = [
        name
        for name in map(str, names)
        if words
        & set(name.lower().replace("-", "_").replace(" ", "_").replace(".", "_").split("_"))
        and shown_name(name, 0) == repr(name)
    ]
    return found[0] if len(found) == 1 else ""


def not_read(chosen: Chosen, seen: Iterable[str]) -> str:
    """The columns of a source that are not read, in words; empty where there is none."""
    left = [name for name in seen if name not in chosen.names]
    return f"; not read: {shown_names(left)}" if left else ""
