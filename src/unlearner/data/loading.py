"""Records from files, data sets and lists: read exactly, or refused with the place that is wrong.

`readers.py` turns a source into rows, `columns.py` chooses the columns to use, `fields.py` and
`messages.py` check what is in them; here rows become records.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unlearner.data.columns import RECORD_KINDS, Chosen, ColumnRules, for_role, not_read
from unlearner.data.fields import (
    num_answers,
    read_answer,
    read_joined,
    read_label,
    read_name,
    read_pair,
    read_tags,
    read_text,
    read_token_ids,
    read_tokens,
)
from unlearner.data.labels import LabelReader
from unlearner.data.messages import (
    read_continued,
    read_earlier,
    read_exchange,
    read_messages,
    read_tools,
)
from unlearner.data.problems import SourceError, one_line, shown_names, shown_value
from unlearner.data.readers import Row, read_rows
from unlearner.data.record import Record, RecordSet
from unlearner.errors import UserError
from unlearner.settings import Template

if TYPE_CHECKING:
    import datasets

    Source = str | Path | Sequence[str] | Sequence[Mapping[str, object]] | datasets.Dataset


def read_records(
    source: "Source",
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    family: str = "causal-lm",
    labels: Sequence[str] | None = None,
    first_label: int = 0,
    template: str = "",
    document: bool = False,
) -> RecordSet:
    """Records from a file, a folder, a hub data set, a list or a `datasets.Dataset`.

    Texts are kept as they are: nothing is stripped or normalised. A byte order mark, blank lines of
    a text file and the line's own end are no part of a text. Records without an id get their line
    number (row or position, where a source has no lines), counted from 1, in a folder behind the
    file's name.

    A label or tag is a name, a whole number, or its digits where no name is written so; it becomes
    the name. Numbers whose names a data set declares (`ClassLabel`) become those names.

    Args:
        source: A path ending in .jsonl .ndjson .json .csv .tsv .parquet .txt .npy .md, also packed
            as .gz .bz2 .xz .zst; a folder of such files, or one that `save_to_disk` wrote, with
            `folder:split` where it has several; `hf:owner/name[:config][:split]` (split `train`
            unless given; a lone `train`, `validation` or `test` is a split, and
            `hf:owner/name::split` names any other split without a configuration); a list of texts
            or of dicts; a data set. Labels cannot be in .txt, .md and .npy; tokens and tags can
            also be in .conll.
        name: The role that messages name: forget, retain, pool, holdout, records.
        columns: The file's column names to ours, `{"question": "prompt"}`, of which
            `{"forget:question": "prompt"}` is for one role alone. A mapped column goes before one
            that has the name already, and mapping a content column settles which form of record is
            read where a file has several.
        family: What the model does, and so what a record is made of: `causal-lm` (text, or prompt
            and response, or messages, or input_ids), `sequence-classification` (text, perhaps
            text_pair, and label) or `token-classification` (tokens and tags).
        labels: The names of a classifier's outputs in their order. None: the records are for a new
            head, and every name is one (`labels.label_names` puts them in order).
        first_label: The number of the first output in the source, 0 or 1.
        template: Of `data.template`, where it may name columns.
        document: A .txt file is one record.

    Raises:
        UserError: One line with file and line, for anything that cannot be read as it stands.
    """
    in_memory = not isinstance(source, str | Path)
    rules = ColumnRules(
        RECORD_KINDS[family],
        for_role(columns or {}, name),
        Template.parse(template) if template else Template(),
    )
    labels_read = LabelReader(labels, first_label)
    reading = _Reading(rules, labels_read)
    try:
        rules.check()
        rows = read_rows(source, reading.choose, rules.kind.suffixes, document=document)
        records = reading.records(rows)
        labels_read.check_numbers()
    except SourceError as error:
        label = "in memory" if in_memory else _shown_path(str(source))
        where = f"{label}, {error.place}" if error.place else label
        raise UserError(f"{name} {where}: {error}") from error
    place = "memory" if in_memory else str(source)
    return RecordSet(
        name,
        tuple(records),
        place,
        reading.in_words(len(records)),
        frozenset(labels_read.numbers),
    )


def _shown_path(source: str) -> str:
    """A source in a message; a record given in place of a path is not shown."""
    if len(source.split()) > 3 and not Path(source).suffix[1:].isalnum():
        return f"(a text of {len(source)} characters where a path is needed)"
    return one_line(source)


def check_ids_in_vocabulary(record_set: RecordSet, vocabulary_size: int) -> None:
    """Raise `UserError` where a record given as token ids holds one the model does not have."""
    for record in record_set:
        for position, token in enumerate(record.input_ids):
            if token >= vocabulary_size:
                raise UserError(
                    f"{record_set.name} {one_line(record_set.source)}, record {record.id!r}: token "
                    f"id {token} at position {position} is outside the vocabulary (0 to "
                    f"{vocabulary_size - 1}); use ids made with this model's tokenizer"
                )


class _Reading:
    """Rows of one source to records, and what is to be said of how they were read."""

    def __init__(self, rules: ColumnRules, labels: LabelReader) -> None:
        self.rules, self.labels = rules, labels
        self.seen: dict[str, None] = {}  # names of columns, in their order
        self.notes: dict[str, None] = {}
        self.chosen = Chosen({})

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read of those that a table has."""
        chosen = self.rules.choose(names).names
        self.seen |= dict.fromkeys(names)
        return chosen

    def records(self, rows: Iterable[Row]) -> list[Record]:
        """The records, at least one.

        Raises:
            SourceError: A row cannot be one.
        """
        records: list[Record] = []
        places: dict[str, str] = {}
        names: tuple[str, ...] | None = None
        chosen = Chosen({})
        for row in rows:
            if tuple(row.values) != names:
                names = tuple(row.values)
                self.seen |= dict.fromkeys(names)
                chosen = self._choose_alike(row)
            self.notes |= dict.fromkeys(row.notes)
            record = self._record(row, chosen)
            if record.id in places:
                raise row.problem(
                    f"the id {shown_value(record.id)} is that of {places[record.id]} too; give "
                    "each its own"
                )
            places[record.id] = row.place
            records.append(record)
        if not records:
            raise SourceError("holds no records; give at least one")
        return records

    def _choose_alike(self, row: Row) -> Chosen:
        """The columns to read from this row: those of the first, but for what may be missing."""
        try:
            chosen = self.rules.choose(tuple(row.values))
        except SourceError as error:
            raise row.problem(str(error)) from None
        if not self.chosen.columns:
            self.chosen = chosen
        elif not _alike(chosen, self.chosen):
            raise row.problem(
                f"mixed columns: has {shown_names(chosen.names)} where the first record has "
                f"{shown_names(self.chosen.names)}; give every record the same"
            )
        elif len(chosen.names) > len(self.chosen.names):
            self.chosen = chosen
        return chosen

    def _record(self, row: Row, chosen: Chosen) -> Record:
        columns = chosen.columns
        values = {ours: row.values[theirs[0]] for ours, theirs in columns.items()}
        identifier = read_name(row, "id", values["id"]) if "id" in values else row.name
        if not identifier.strip():
            raise row.problem("id is empty; give every record an id, or leave the column out")
        subject = values.get("subject")
        subject = "" if subject is None else read_name(row, "subject", subject)
        if "input_ids" in values:
            return Record(
                identifier, input_ids=read_token_ids(row, values["input_ids"]), subject=subject
            )
        if "messages" in values:
            return Record(
                identifier,
                messages=read_messages(row, values["messages"], values.get("system")),
                tools=read_tools(row, values.get("tools")),
                subject=subject,
            )
        if "response" in values:
            return self._exchange(row, chosen, values, identifier, subject)
        tokens = read_tokens(row, values["tokens"]) if "tokens" in values else ()
        texts = {}
        if "text" in values:
            joined = len(columns["text"]) > 1
            texts["text"] = (
                read_joined(row, "text", chosen.parts("text"))
                if joined
                else read_text(row, "text", values["text"])
            )
        if "text_pair" in values:
            texts["text_pair"] = read_pair(row, values["text_pair"])
        return Record(
            id=identifier,
            subject=subject,
            label=read_label(row, columns["label"][0], self.labels) if "label" in values else "",
            tokens=tokens,
            tags=read_tags(row, columns["tags"][0], len(tokens), self.labels) if tokens else (),
            **texts,
        )

    def _exchange(
        self,
        row: Row,
        chosen: Chosen,
        values: Mapping[str, object],
        identifier: str,
        subject: str,
    ) -> Record:
        """A record of prompt and response: two texts, or lists of the turns of a conversation."""
        prompt, response = values["prompt"], values["response"]
        earlier = read_earlier(row, values.get("history"), values.get("system"))
        if isinstance(prompt, list) or _are_turns(response):
            if earlier:
                raise row.problem(
                    "history or system beside a prompt that is a list of turns; put them into the "
                    "list, or leave the column out"
                )
            messages = read_exchange(row, prompt, response)
            return Record(identifier, messages=messages, subject=subject)
        if num_answers(response) > 1:
            self.notes["of several answers the first"] = None
        asked = read_joined(row, "prompt", chosen.parts("prompt"))
        answer = read_answer(row, "response", response)
        if earlier:
            messages = read_continued(row, earlier, asked, answer)
            return Record(identifier, messages=messages, subject=subject)
        return Record(identifier, prompt=asked, response=answer, subject=subject)

    def in_words(self, number: int) -> str:
        """Which columns were read and which were not, for people."""
        notes = "".join(f"; {note}" for note in self.notes)
        records = "1 record" if number == 1 else f"{number} records"
        read = self.chosen.in_words()
        return f"{records}; read: {read}{not_read(self.chosen, self.seen)}{notes}"


def _alike(one: Chosen, other: Chosen) -> bool:
    """Whether two records have the same columns, but for those that may be missing."""
    optional = {"prompt", "system", "tools", "history", "text_pair"}
    mine, others = (
        {ours: theirs for ours, theirs in some.columns.items() if ours not in optional}
        for some in (one, other)
    )
    prompts = [{*some.columns.get("prompt", ())} for some in (one, other)]
    return mine == others and (prompts[0] <= prompts[1] or prompts[1] <= prompts[0])


def _are_turns(value: object) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and not {"role", "from"}.isdisjoint(first)


def classifier_family(source: "Source", columns: Mapping[str, str]) -> str:
    """The family of classifier that a source's columns are for: tags of words, or else labels.

    A source that cannot be read counts as labels; `read_records` says what is wrong with it.
    """
    rules = {
        family: ColumnRules(RECORD_KINDS[family], for_role(columns, "records"))
        for family in ("token-classification", "sequence-classification")
    }

    def choose(names: Sequence[str]) -> list[str]:
        with suppress(SourceError):
            return rules["token-classification"].choose(names).names
        return rules["sequence-classification"].choose(names).names

    kind = rules["token-classification"].kind
    first = None
    with suppress(SourceError):
        first = next(iter(read_rows(source, choose, kind.suffixes)), None)
    found = (str(name).casefold() for name in (first.values if first else ()))
    names = {*for_role(columns, "records").values(), *found}
    tagged = {"tags", *kind.known_as["tokens"]} & names
    return "token-classification" if tagged else "sequence-classification"
