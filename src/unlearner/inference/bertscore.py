"""BERTScore F1 of pairs of texts by an encoder that is loaded once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from unlearner.errors import UserError
from unlearner.inference.answers import Answer

BATCH = 32


def greedy_match_f1(candidate_CD: Tensor, reference_RD: Tensor) -> float:
    """F1 of the mean best cosine of each candidate token and of each reference token, in [-1, 1].

    Reference: Zhang et al. (2020), arXiv:1904.09675, section 3, without idf weights.

    Args:
        candidate_CD: L2-normalised token vectors of the candidate, at least one.
        reference_RD: Likewise of the reference.
    """
    cosines = candidate_CD @ reference_RD.T
    precision, recall = cosines.amax(1).mean(), cosines.amax(0).mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total != 0 else 0.0


class BertScorer:
    """Compares texts by the hidden states of an encoder.

    Args:
        name: Path or hub id of the encoder.
        baseline: The score of unrelated texts; scores are rescaled to (F1 - b) / (1 - b).
        setting: Where the name was given, for the message if it cannot be loaded.

    The states are those three quarters up the layers, which is layer 9 of the 12 of
    bert-base-uncased, the layer that its authors chose. Special tokens are left out.
    """

    def __init__(
        self, name: str, *, baseline: float = 0.0, setting: str = "method.bertscore_model"
    ) -> None:
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
            self.model: PreTrainedModel = AutoModel.from_pretrained(name, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{setting}: cannot load {name!r} ({reason}); give the folder of an encoder, or "
                "leave it out to go on with BLEU alone"
            ) from error
        self.model.eval()
        self.baseline = baseline
        self.layer = round(0.75 * self.model.config.num_hidden_layers)

    def score(self, candidates: Sequence[str], references: Sequence[str]) -> list[float]:
        """F1 of each candidate with its reference; 0 where either has no token."""
        vectors = self._vectors([*candidates, *references])
        count = len(candidates)
        raw = [
            greedy_match_f1(one, other) if len(one) and len(other) else None
            for one, other in zip(vectors[:count], vectors[count:], strict=True)
        ]
        return [0.0 if f1 is None else (f1 - self.baseline) / (1 - self.baseline) for f1 in raw]

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str]) -> list[Tensor]:
        found: list[Tensor] = []
        # Encoders with relative positions name no number of them.
        positions = getattr(self.model.config, "max_position_embeddings", 512)
        longest = min(512, positions, self.tokenizer.model_max_length)
        for start in range(0, len(texts), BATCH):
            encoded = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
                return_special_tokens_mask=True,
            )
            special = encoded.pop("special_tokens_mask").bool()
            out = self.model(**encoded, output_hidden_states=True)
            states = torch.nn.functional.normalize(out.hidden_states[self.layer], dim=-1)
            keep = encoded["attention_mask"].bool() & ~special
            found += [row[mask] for row, mask in zip(states, keep, strict=True)]
        return found


def with_scores(answers: Sequence[Answer], scorer: BertScorer) -> list[Answer]:
    """The answers with the BERTScore of each one's continuation."""
    scores = scorer.score(
        [answer.continuation_text for answer in answers],
        [answer.reference_text for answer in answers],
    )
    return [replace(a, bertscore=score) for a, score in zip(answers, scores, strict=True)]


@lru_cache(maxsize=1)
def measuring_scorer(name: str, baseline: float) -> BertScorer:
    """The scorer of a run's figures, loaded once.

    Raises:
        UserError: It cannot be loaded.
    """
    return BertScorer(name, baseline=baseline, setting="evaluation.bertscore_model")
