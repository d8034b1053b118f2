"""ICU's published training loop, written plainly: what the preset "paper" is held against.

Records are rows of equal length, and the i-th pair belongs to the i-th record. N records, T tokens,
V vocabulary.
"""

import copy
from collections.abc import Collection, Sequence

import torch
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONTINUED = 50  # tokens that are generated, behind as many that are given
BLEU_BELOW = 0.01


class PublishedLoop:
    """Trains a model in place.

    Args:
        every_position: The last position of a pair, which predicts no token of it, counts in the
            third term, as published.
        batch_size: Records of a step.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        records_NT: Tensor,
        pairs_NT: Tensor,
        learning_rate: float,
        *,
        every_position: bool = True,
        batch_size: int = 8,
    ) -> None:
        self.model, self.target = model, copy.deepcopy(model).eval()
        self.records_NT, self.pairs_NT = records_NT, pairs_NT
        self.optimiser = torch.optim.Adam(model.parameters(), learning_rate, betas=(0.9, 0.98))
        self.last = None if every_position else -1
        self.batch_size = batch_size

    def epoch(self, remembered: Collection[int], order: Sequence[int]) -> None:
        """Batches of all records in their order, each without those that are forgotten."""
        self.model.train()
        for start in range(0, len(order), self.batch_size):
            whole = order[start : start + self.batch_size]
            self.optimiser.zero_grad()
            self.loss([record for record in whole if record in remembered]).backward()
            self.optimiser.step()
        self.model.eval()

    def loss(self, batch: Sequence[int]) -> Tensor:
        """The objective of what is left of a batch; not a number where nothing is."""
        records_NT, pairs_NT = self.records_NT[list(batch)], self.pairs_NT[list(batch)]
        climbed = _loss(self.model(input_ids=records_NT).logits, records_NT)
        logits_NTV = self.model(input_ids=pairs_NT).logits
        with torch.no_grad():
            wanted_NTV = self.target(input_ids=pairs_NT).logits.softmax(-1)
        distance_NT = -(wanted_NTV * (logits_NTV.softmax(-1) + 1e-12).log()).sum(-1)
        return -climbed + 0.5 * _loss(logits_NTV, pairs_NT) + distance_NT[:, : self.last].mean()


def _loss(logits_NTV: Tensor, ids_NT: Tensor) -> Tensor:
    return cross_entropy(logits_NTV[:, :-1].flatten(0, 1), ids_NT[:, 1:].flatten())


@torch.no_grad()
def remembered_by_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records_NT: Tensor
) -> set[int]:
    """Records of which the model, given 50 tokens, still says the last 50 by BLEU; beams of two."""
    given = records_NT[:, -2 * CONTINUED : -CONTINUED]
    said = model.generate(  # type: ignore[operator]
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=CONTINUED,
        do_sample=False,
        num_beams=2,
        pad_token_id=tokenizer.eos_token_id,
    )
    texts = tokenizer.batch_decode(said[:, CONTINUED:], skip_special_tokens=True)
    truths = tokenizer.batch_decode(records_NT[:, -CONTINUED:], skip_special_tokens=True)
    return {
        record
        for record, (text, truth) in enumerate(zip(texts, truths, strict=True))
        if _bleu(text, truth) >= BLEU_BELOW
    }


def _bleu(text: str, truth: str) -> float:
    scorer = BLEU(lowercase=True, smooth_method="none", max_ngram_order=4)
    return scorer.corpus_score([text], [[truth]]).score / 100
