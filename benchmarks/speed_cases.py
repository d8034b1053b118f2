"""The models and the sets of records that the speed benchmark works on."""

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearner.data.record import Record
from unlearner.data.windows import TokenizedSet, Window
from unlearner.inference.language_model import Questions, infer
from unlearner.models.loading import load_causal_lm
from unlearner.settings import TrainingSettings
from unlearner.training.finetune import FinetuneSettings, Until, finetune_model
from unlearner.training.log import Log
from unlearner.training.trainer import Trainer

NUM_TOKENS = 200
ROOT = Path(__file__).resolve().parents[1]


class NoText:
    """In place of a tokenizer where the tokens are no text."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))


@dataclass(frozen=True)
class Case:
    """A model and records of equal length that it is asked about.

    Attributes:
        kind: "memorised", "unlearned" or "unseen".
        ids: (B, T).
    """

    name: str
    kind: str
    model: Any
    tokenizer: Any
    ids: Tensor

    @property
    def windows(self) -> list[Window]:
        return windows_of(self.ids.cpu())


def windows_of(ids: Tensor) -> list[Window]:
    """One window per record, every label scored."""
    scored = np.ones(ids.shape[1] - 1, dtype=bool)
    prefix = ids.shape[1] * 3 // 4
    return [Window(i, str(i), row.numpy(), scored, prefix) for i, row in enumerate(ids)]


def gpt_neo(device: str, *, layers: int = 12, width: int = 768) -> Any:
    """A random GPT-Neo; 12 layers of width 768 are the shape of the one with 125 M parameters."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=50257,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        attention_types=[[["global", "local"], layers // 2]],
        window_size=256,
        max_position_embeddings=2048,
        bos_token_id=50256,
        eos_token_id=50256,
    )
    return GPTNeoForCausalLM(config).eval().to(device)


def random_ids(model: Any, count: int, seed: int, num_tokens: int = NUM_TOKENS) -> Tensor:
    """(B, T) uniform tokens without the last one, which ends the text in GPT-Neo."""
    generator = torch.Generator().manual_seed(seed)
    top = model.config.vocab_size - 1
    return torch.randint(0, top, (count, num_tokens), generator=generator).to(model.device)


def own_text(model: Any, ids: Tensor, *, given: int = 1) -> Tensor:
    """What the model itself goes on with behind the first tokens: it knows that text by heart."""
    prompts = ids[:, :given]
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=ids.shape[1] - given,
        min_new_tokens=ids.shape[1] - given,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
    )


def gpt_neo_cases(model: Any, count: int) -> list[Case]:
    """No unlearned set: a random model knows nothing that it could forget."""
    unseen = random_ids(model, count, seed=1)
    memorised = own_text(model, random_ids(model, count, seed=2))
    name = f"GPT-Neo {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M shape, random"
    return [
        Case(name, "memorised", model, NoText(), memorised),
        Case(name, "unseen", model, NoText(), unseen),
    ]


def shared_data() -> Path:
    """The folder of real data sets, which is no part of the project."""
    return Path(os.environ.get("UNLEARNER_DATA", ROOT.parent / "shared" / "data"))


def tofu_stream(tokenizer: Any, rows: slice) -> list[int]:
    """Tokens of questions and answers of TOFU, one behind the other."""
    lines = (shared_data() / "tofu" / "full.json").read_text(encoding="utf-8").splitlines()
    found: list[int] = []
    for line in lines[rows]:
        row = json.loads(line)
        found += tokenizer(f"{row['question']} {row['answer']}")["input_ids"]
    return found


def packed(stream: Sequence[int], count: int) -> Tensor:
    """(count, T) consecutive stretches."""
    return torch.tensor(stream[: count * NUM_TOKENS]).view(count, NUM_TOKENS)


def small_cases(target: str | None, device: str, count: int) -> list[Case]:
    """A real small model: records of TOFU that it knows, the same once forgotten, and others.

    Without a `target` folder of a model that knows them, stories260k learns them first.
    """
    folder = target or str(shared_data() / "models" / "stories260k")
    loaded = load_causal_lm(folder)
    model, tokenizer = loaded.model.to(device), loaded.tokenizer
    trained = packed(tofu_stream(tokenizer, slice(-200, None)), count)
    if target is None:
        model = learn(model, tokenizer, trained, device)
    memorised = trained[:count].to(device)
    unseen = packed(tofu_stream(tokenizer, slice(0, 200)), count).to(device)
    forgetful = forget(copy.deepcopy(model), memorised, level=accuracy(model, tokenizer, unseen))
    name = "stories260k, fine-tuned on TOFU"
    return [
        Case(name, "memorised", model, tokenizer, memorised),
        Case(name, "unlearned", forgetful, tokenizer, memorised),
        Case(name, "unseen", model, tokenizer, unseen),
    ]


def learn(model: Any, tokenizer: Any, ids: Tensor, device: str) -> Any:
    """The model once it knows the records by heart."""
    records = tuple(Record(str(i), input_ids=tuple(row)) for i, row in enumerate(ids.tolist()))
    windows = tuple(windows_of(ids))
    trainer = Trainer(TrainingSettings(device="cpu" if device == "cpu" else "auto"), Log())
    settings = FinetuneSettings(epochs=150, learning_rate=5e-3)
    until = Until.parse("ma>=1")
    result = finetune_model(
        model,
        tokenizer,
        TokenizedSet("trained", records, windows, "memory"),
        settings,
        trainer,
        until,
    )
    return result.model.eval()


def accuracy(model: Any, tokenizer: Any, ids: Tensor) -> float:
    """Mean MA."""
    answers = infer(model, tokenizer, windows_of(ids.cpu()), Questions(continuations="none"))
    return float(np.mean([answer.hits.mean() for answer in answers]))


def forget(model: Any, ids: Tensor, level: float) -> Any:
    """A few steps of gradient ascent, until MA is at the level of unseen text."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(100):
        if accuracy(model, NoText(), ids) <= level:
            break
        optimiser.zero_grad()
        (-model(input_ids=ids, labels=ids).loss).backward()
        optimiser.step()
    return model.eval()
