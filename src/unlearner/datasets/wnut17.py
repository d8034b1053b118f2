"""WNUT17: words of social media tagged with six kinds of rare entities.

Files: `wnut17train.conll` (3,394 sentences) and `emerging.test.annotated` (1,287): a word, a tab
and its tag a line. Learned, forgotten and held out sentences are all of the training file: the
official development set was collected elsewhere, and membership inference would find the source
instead. Some sentences stand twice in it; `data.drop_duplicates` leaves copies of forgotten ones
out of the rest.

Reference: Derczynski et al. (2017), "Results of the WNUT2017 Shared Task".
"""

from pydantic import PositiveInt

from unlearner.data.problems import SourceError
from unlearner.data.readers import conll_rows
from unlearner.data.record import RecordSet
from unlearner.datasets import _training, base
from unlearner.errors import UserError

FAMILY = "token-classification"
HUB_ID = ""
FETCH = "give the folder of wnut17train.conll and emerging.test.annotated"

FILES = {"train": "wnut17train.conll", "test": "emerging.test.annotated"}


class Options(_training.Options):
    """How many sentences; see the options of banking77."""

    train_records: PositiveInt = 1500
    holdout_records: PositiveInt = 500


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """Sentences to forget, to keep, unseen ones, and the official test set.

    Raises:
        UserError: The files cannot be read, or hold fewer sentences than are wanted.
    """
    train, test = (_sentences(folder, part) for part in FILES)
    return _training.divide(train, test, options, FAMILY, lambda row: set(row["tags"]))


def _sentences(folder: str, part: str) -> base.Rows:
    path = base.find_file(folder, (FILES[part],), FETCH)
    try:
        rows = list(conll_rows(path.read_bytes().decode()))
    except UnicodeDecodeError as error:
        raise UserError(f"data.folder: {path}: not UTF-8 ({error}); save it as UTF-8") from None
    except SourceError as error:
        raise UserError(f"data.folder: {path}, {error.place}: {error}") from error
    return [{"id": f"{part}-{row.number}", **row.values} for row in rows]
