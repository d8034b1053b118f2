"""The families of models that can be made to forget, by the name that reports give them."""

from unlearner.families.base import AnyFamily
from unlearner.families.causal_lm import CausalLM
from unlearner.families.classifier import ClassifierFamily

CAUSAL_LM = CausalLM()
SEQUENCE = ClassifierFamily("sequence-classification")
TOKEN = ClassifierFamily("token-classification")

FAMILIES: dict[str, AnyFamily] = {one.name: one for one in (CAUSAL_LM, SEQUENCE, TOKEN)}
