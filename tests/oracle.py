"""The definitions, written slowly: what the fast code has to equal."""

import torch


def greedy(model, prompt: list[int], total: int, *, use_cache: bool = True) -> list[int]:
    """The continuation of a prompt to `total` tokens by one call of `generate`, without padding."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=total - len(prompt),
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        use_cache=use_cache,
    )
    return out[0, len(prompt) :].tolist()


def overlap(a: list[int], b: list[int], n: int) -> float:
    """OV_n: n-grams of a, with multiplicity, that occur in b, per n-gram of b."""
    grams_a = [tuple(a[i : i + n]) for i in range(len(a) - n + 1)]
    grams_b = [tuple(b[i : i + n]) for i in range(len(b) - n + 1)]
    return sum(gram in set(grams_b) for gram in grams_a) / len(grams_b)


def continuations(model, x: list[int]) -> dict[int, list[int]]:
    """The continuation of every prompt x_<t by its length t, one `generate` each."""
    return {t: greedy(model, x[:t], len(x)) for t in range(1, len(x))}


def is_tie(model, before: list[int], one: int, other: int) -> bool:
    """Whether both tokens have the same logit behind `before` to rounding: either is greedy."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before]), use_cache=False).logits[0, -1]
    return abs(float(logits[one] - logits[other])) < 1e-4


def extraction_likelihood(
    continued: dict[int, list[int]], x: list[int], n: int, start: int = 1
) -> float:
    """EL_n: the mean overlap over prompts of start..T-n tokens."""
    prompts = range(start, len(x) - n + 1)
    return sum(overlap(continued[t], x[t:], n) for t in prompts) / (len(x) - n + 1 - start)


def memorization_accuracy(continued: dict[int, list[int]], x: list[int]) -> float:
    """MA: the share of tokens that the continuation of their prefix begins with."""
    return sum(continued[t][0] == x[t] for t in continued) / (len(x) - 1)


def log_probs(model, x: list[int]) -> list[float]:
    """log p(x_t | x_<t) in nats, from the whole softmax of one forward pass."""
    with torch.no_grad():
        table = model(input_ids=torch.tensor([x])).logits[0].double().log_softmax(-1)
    return [float(table[t - 1, x[t]]) for t in range(1, len(x))]
