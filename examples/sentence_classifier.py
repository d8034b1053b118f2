"""A sentence classifier, an encoder with a head on it, forgets records that were labelled wrongly.

    python examples/sentence_classifier.py --output shop-example

Your classifier is made already. Here one is made first, of invented messages to a shop, some of
them filed under a wrong label. What to do with it then is the last function of this file.
`--encoder` takes any encoder: a folder or a hub id.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import unlearner
from unlearner.data.record import Record
from unlearner.demo.messages import LABELS, messages, mislabelled, split_messages


def write_sets(folder: Path, num_messages: int) -> list[Record]:
    """Four tables of `text` and `label`, and what the classifier is to learn.

    Unseen records are as wrongly labelled as those to be forgotten, by the same rule: only such a
    set tells what a model says of wrong labels that it has never seen.
    """
    sizes = {"num_forget": num_messages // 40, "num_holdout": num_messages // 12}
    records = messages(num_messages, seed=0)
    data = split_messages(records, **sizes, num_test=num_messages // 12, seed=0)
    unseen = mislabelled(data.holdout.records, seed=1)
    sets = {"forget": data.forget, "retain": data.retain, "unseen": unseen, "test": data.test}
    for name, some in sets.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "subject", "text", "label"])
            rows.writerows([one.id, one.subject, one.text, one.label] for one in some)
    return list(data.trained)


def train_classifier(
    encoder: str, records: Sequence[Record], folder: Path, *, epochs: int, learning_rate: float
) -> None:
    """A new head on the encoder, and all weights trained for some epochs."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    ).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        total, order = 0.0, torch.randperm(len(records)).tolist()
        for first in range(0, len(order), 16):
            some = [records[place] for place in order[first : first + 16]]
            batch = tokenizer([one.text for one in some], padding=True, return_tensors="pt")
            labels = torch.tensor([LABELS.index(one.label) for one in some])
            loss = cross_entropy(model(**batch).logits, labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item() * len(some)
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(records):.3f}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Make the classifier and its tables, then let it forget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--output", type=Path, default=Path("shop-example"))
    parser.add_argument("--messages", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    trained = write_sets(given.output, given.messages)
    train_classifier(
        given.encoder,
        trained,
        given.output / "model",
        epochs=given.epochs,
        learning_rate=given.learning_rate,
    )
    forget_wrong_labels(given.output)


def forget_wrong_labels(folder: Path) -> unlearner.Result:
    """Everything that your own classifier needs: its folder, and four tables."""
    result = unlearner.unlearn(
        folder / "model",
        forget=folder / "forget.csv",
        retain=folder / "retain.csv",
        holdout=folder / "unseen.csv",
        test=folder / "test.csv",
    )
    for claim in result.verdict.claims:
        print(f"{claim.claim}: {claim.status}. {claim.reason}")
    result.save(folder / "out")
    print(f"verdict: {result.verdict.status}; page: {folder / 'out' / 'report.html'}")
    return result


if __name__ == "__main__":
    main()
