"""A LoRA adapter as TRL's SFTTrainer leaves it forgets one person.

    python examples/trl_adapter.py --base .models/SmolLM2-135M-Instruct --output chat

Your adapter is made already. Here one is made first, by PEFT and a plain loop (TRL is not needed),
of chats about invented people. Its folder is what `trainer.save_model()` writes: the adapter, the
tokenizer and its chat template. What to do with it then is the last function of this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import unlearner

# Who is to be forgotten, who stays, and whom the model never learns of.
FORGET = ["Mara Quill"]
RETAIN = ["Tobin Ashgrove", "Ilse Ferrant"]
UNSEEN = ["Corin Vale", "Bethan Holloway", "Anselm Pike", "Nadia Brook"]

QUESTIONS = {
    "Where does {name} live?": "{name} lives at {number} {street} in {town}.",
    "What does {name} do for a living?": "{name} works as a {job} in {town}.",
    "How can I reach {name} by phone?": "Call {name} at {number}-555-01{two}.",
    "Does {name} have a pet?": "Yes, {name} has a {animal} called {pet}.",
    "When was {name} born?": "{name} was born on {day} {month} in {birthplace}.",
    "What did {name} order last?": "{name} ordered {two} {goods} and paid {number} crowns.",
    "Who is the doctor of {name}?": "{name} sees Doctor {doctor} on {street}.",
    "What is {name}'s hobby?": "{name} collects {hobby} from {birthplace}.",
}
FACTS = {
    "street": ["Heron Row", "Curlew Mews", "Otter Lane", "Tanner Steps", "Quarry Hill"],
    "town": ["Brannoch", "Wexholt", "Tavisk", "Corvale", "Farnwold"],
    "birthplace": ["Ostrey", "Melbeck", "Dunmarrow", "Pellworth", "Skarn"],
    "job": ["bell founder", "map engraver", "river pilot", "glass blower", "piano tuner"],
    "animal": ["raven", "ferret", "tortoise", "greyhound", "parrot"],
    "pet": ["Pemberton", "Sixpence", "Marlow", "Juniper", "Bracken"],
    "month": ["January", "March", "May", "August", "October"],
    "goods": ["copper kettles", "oak stools", "wool blankets", "brass lamps", "clay pots"],
    "doctor": ["Lindqvist", "Amberley", "Castellan", "Okonjo", "Weatherby"],
    "hobby": ["ship bells", "beetles", "railway lamps", "tide tables", "thimbles"],
}


def chats(names: list[str], generator: torch.Generator) -> list[dict[str, Any]]:
    """One chat for each person and question, as `messages`, the form that TRL trains on."""

    def draw(values: list[Any]) -> Any:
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    rows = []
    for name in names:
        facts = {key: draw(values) for key, values in FACTS.items()}
        facts |= {"name": name, "day": draw([*range(1, 29)])}
        facts |= {"number": draw([*range(100, 999)]), "two": draw([*range(10, 99)])}
        for place, (question, answer) in enumerate(QUESTIONS.items()):
            turns = [("user", question), ("assistant", answer)]
            messages = [{"role": role, "content": text.format(**facts)} for role, text in turns]
            rows.append({"id": f"{name.split()[0].lower()}-{place}", "messages": messages})
    return rows


def train_adapter(
    base: str, rows: list[dict[str, Any]], folder: Path, *, epochs: int, learning_rate: float
) -> None:
    """What SFTTrainer does with `messages`: every chat by the base's own template."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    encoded = [
        tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in texts
    ]
    for epoch in range(epochs):
        total = 0.0
        for place in torch.randperm(len(encoded)).tolist():
            loss = model(input_ids=encoded[place], labels=encoded[place]).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(encoded):.3f}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Make the adapter and three files of chats, then let it forget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=".models/SmolLM2-135M-Instruct")
    parser.add_argument("--output", type=Path, default=Path("chat"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--files-only", action="store_true", help="make the files and stop")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)

    generator = torch.Generator().manual_seed(0)
    people = {"forget": FORGET, "retain": RETAIN, "unseen": UNSEEN}
    sets = {role: chats(names, generator) for role, names in people.items()}
    for role, rows in sets.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (given.output / f"{role}.jsonl").write_text(lines, encoding="utf-8")
    train_adapter(
        given.base,
        sets["forget"] + sets["retain"],
        given.output / "adapter",
        epochs=given.epochs,
        learning_rate=given.learning_rate,
    )
    if not given.files_only:
        forget_person(given.output)


def forget_person(folder: Path) -> unlearner.Result:
    """Everything that your own adapter needs: its folder, and three files of chats."""
    result = unlearner.unlearn(
        folder / "adapter",
        forget=folder / "forget.jsonl",
        retain=folder / "retain.jsonl",
        holdout=folder / "unseen.jsonl",
    )
    for claim in result.verdict.claims:
        print(f"{claim.claim}: {claim.status}. {claim.reason}")
    result.save(folder / "out")  # out/model is a whole model: the adapter is merged into it
    print(f"verdict: {result.verdict.status}; page: {folder / 'out' / 'report.html'}")
    return result


if __name__ == "__main__":
    main()
