"""BANKING77: customers' questions to a bank, of 77 intents.

Files: `train.csv` (10,003 rows) and `test.csv` (3,080) with `text` and `category`. Learned,
forgotten and held out records are all of the training file, the test set is the official one.

Reference: Casanueva et al. (2020), arXiv:2003.04807.
"""

from unlearner.data.record import RecordSet
from unlearner.datasets import base
from unlearner.datasets._training import Options, divide

FAMILY = "sequence-classification"
HUB_ID = ""
FETCH = "give the folder of train.csv and test.csv of PolyAI-LDN/task-specific-datasets"


def sets(folder: str, options: Options) -> dict[str, RecordSet]:
    """Questions to forget, to keep, unseen ones, and the official test set.

    Raises:
        UserError: The files cannot be read, or hold fewer questions than are wanted.
    """
    train, test = (_rows_of(folder, part) for part in ("train", "test"))
    return divide(train, test, options, FAMILY, lambda row: {row["label"]})


def _rows_of(folder: str, part: str) -> base.Rows:
    rows = base.read_part(folder, part, f"default:{part}", FETCH)
    return [
        {"id": f"{part}-{number}", "text": row.get("text"), "label": row.get("category")}
        for number, row in enumerate(rows, 1)
    ]
