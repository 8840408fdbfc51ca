"""Training: the fit loop and evaluation, their history, figure and checkpoint, and the main job built of them."""

from tinygrad_bn.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinygrad_bn.train.history import EpochDone, History, Sums
from tinygrad_bn.train.loop import Scores, StepDone, StopTraining, evaluate, fit
from tinygrad_bn.train.models import mlp
from tinygrad_bn.train.state import Training

__all__ = [
    "Checkpoint",
    "EpochDone",
    "History",
    "Scores",
    "StepDone",
    "StopTraining",
    "Sums",
    "Training",
    "evaluate",
    "fit",
    "load_checkpoint",
    "mlp",
    "save_checkpoint",
]
