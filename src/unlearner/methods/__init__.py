"""One method a file. The folder is the registry: a file's name is the method's name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unlearner.methods.bad_teacher import BadTeacher as BadTeacher
    from unlearner.methods.base import LossMethod as LossMethod
    from unlearner.methods.base import Method as Method
    from unlearner.methods.calibrated_distillation import (
        CalibratedDistillation as CalibratedDistillation,
    )
    from unlearner.methods.contrastive_unlearning import (
        ContrastiveUnlearning as ContrastiveUnlearning,
    )
    from unlearner.methods.deepcut import DeepCUT as DeepCUT
    from unlearner.methods.dpo import DPO as DPO
    from unlearner.methods.finetune import FineTune as FineTune
    from unlearner.methods.gradient_ascent import GradientAscent as GradientAscent
    from unlearner.methods.gradient_difference import GradientDifference as GradientDifference
    from unlearner.methods.icu import ICU as ICU
    from unlearner.methods.idk import IDK as IDK
    from unlearner.methods.kl_minimization import KLMinimization as KLMinimization
    from unlearner.methods.l1_sparse import L1Sparse as L1Sparse
    from unlearner.methods.llmu import LLMU as LLMU
    from unlearner.methods.npo import NPO as NPO
    from unlearner.methods.random_labels import RandomLabels as RandomLabels
    from unlearner.methods.retrain import Retrain as Retrain
    from unlearner.methods.rmu import RMU as RMU
    from unlearner.methods.salun import SalUn as SalUn
    from unlearner.methods.scrub import SCRUB as SCRUB
    from unlearner.methods.simnpo import SimNPO as SimNPO
    from unlearner.methods.sisa import SISA as SISA
    from unlearner.methods.task_arithmetic import TaskArithmetic as TaskArithmetic
    from unlearner.methods.undial import UNDIAL as UNDIAL
    from unlearner.methods.weighted_gradient_ascent import (
        WeightedGradientAscent as WeightedGradientAscent,
    )


def __getattr__(name: str) -> "type[Method]":
    """The class of a method file, found by its name: `methods.ICU` is in `icu.py`."""
    from unlearner import registry
    from unlearner.methods.base import LossMethod, Method, load_method

    for kind in (Method, LossMethod):
        if name == kind.__name__:
            return kind
    for method in registry.names("methods"):
        if method.replace("_", "") == name.lower():
            return load_method(method)
    raise AttributeError(f"there is no method {name!r}; see `unlearner list methods`")
