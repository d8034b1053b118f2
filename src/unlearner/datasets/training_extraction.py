"""Training data extraction: 200 tokens each of the Pile that GPT-Neo has memorised, as token ids.

Files (numpy, one row per document, ids of GPT-2's tokenizer): `train_dataset.npy` of 200 columns,
or `train_preprefix.npy` (100), `train_prefix.npy` (50) and `train_suffix.npy` (50), which the
extraction challenge publishes. A record's id is its document's: the row's number from 0.

ICU forgets five draws of 128 documents. Where `lm_extraction_128_FOLD.csv` with a column `doc_id`
is in the folder, the draw is the published one; else it is drawn here, five disjoint draws by the
seed, and figures are not those of the paper's own draws.

There is no unseen text: every document was trained on. Give the level by hand. Prompts of EL_10:
`evaluation.prompt_start=1` is the definition's range (all prompts; on 10,000 unseen sequences
GPT-Neo 125M has EL_10 0.0499 and MA 0.2994), 0.75 that of ICU's code (from 150 of 200 tokens on;
limits 0.0499 and 0.5994). The two give different values and are never compared.

Reference: Carlini et al. (2023), arXiv:2202.07646; Jang et al. (2022), arXiv:2210.01504.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from unlearner.data.problems import SourceError, one_line
from unlearner.data.readers import read_rows
from unlearner.data.record import Record, RecordSet
from unlearner.datasets import base
from unlearner.errors import UserError

FAMILY = "causal-lm"
HUB_ID = ""
PARTS = ("train_preprefix.npy", "train_prefix.npy", "train_suffix.npy")

FETCH = (
    "training_extraction has to be fetched: put the .npy files of the training data extraction "
    "challenge (github.com/ethz-spylab/lm-extraction-benchmark-data) into it"
)


class Options(base.Options):
    """Which documents.

    Args:
        fold: Which of ICU's five draws.
        forget_records: Documents of a draw.
        retain_records: Documents of no draw that are kept; the pool of analogous records.
    """

    fold: Annotated[int, Field(ge=0, le=4)] = 0
    forget_records: PositiveInt = 128
    retain_records: PositiveInt = 1000


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """A draw of documents to forget, and documents to keep; no holdout.

    Raises:
        UserError: The files are absent, do not fit together, or hold too few documents.
    """
    documents = _documents(folder)
    order = base.shuffled(range(len(documents)), options.seed)
    size = options.forget_records
    published = [_published(folder, fold, len(documents)) for fold in range(5)]
    drawn = published[options.fold] or order[options.fold * size : (options.fold + 1) * size]
    forget = base.take(drawn, size, "forget_records")
    taken = {*order[: 5 * size], *forget, *(number for some in published for number in some)}
    rest = [number for number in order if number not in taken]
    retain = base.take(rest, options.retain_records, "retain_records")
    return {
        role: RecordSet(
            role,
            tuple(Record(str(number), input_ids=documents[number]) for number in numbers),
            f"training_extraction {options.fold}",
        )
        for role, numbers in (("forget", forget), ("retain", retain))
    }


def _documents(folder: str) -> list[tuple[int, ...]]:
    """The token ids of every document."""
    path = base.find_file(folder, ("train_dataset.npy", *PARTS[:1]), FETCH)
    if path.name == "train_dataset.npy":
        return _ids(path)
    parts = [_ids(base.find_file(folder, (name,), FETCH)) for name in PARTS]
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(str(len(part)) for part in parts)
        raise UserError(f"data.folder: {', '.join(PARTS)} must have as many rows, got {counts}")
    return [sum(pieces, ()) for pieces in zip(*parts, strict=True)]


def _ids(path: Path) -> list[tuple[int, ...]]:
    try:
        rows = read_rows(path, list, (".npy",))
        return [tuple(row.values["input_ids"].tolist()) for row in rows]  # type: ignore
    except SourceError as error:
        raise UserError(f"data.folder: {one_line(path)}: {error}") from error


def _published(folder: str, fold: int, count: int) -> list[int]:
    """The documents of the published draw; none where its file is not there."""
    path = Path(folder).expanduser() / f"lm_extraction_128_{fold}.csv"
    if not path.is_file():
        return []
    numbers = []
    for number, row in enumerate(base.read_part(folder, path.stem, "", FETCH), 1):
        value = str(row.get("doc_id", ""))
        if not value.isdecimal() or int(value) >= count:
            raise UserError(
                f"data.folder: {path.name}, row {number}: doc_id must be a row's number from 0 to "
                f"{count - 1}, got {one_line(value, 30)!r}"
            )
        numbers.append(int(value))
    return numbers
