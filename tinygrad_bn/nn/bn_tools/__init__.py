"""Tools around batch normalisation: exact statistics, folding, freezing, conversion, synchronisation over ranks."""

from __future__ import annotations

from tinygrad_bn.nn.bn_tools.communicator import Communicator, ThreadCommunicator, run_ranks
from tinygrad_bn.nn.bn_tools.convert import convert, momentum_from_keras
from tinygrad_bn.nn.bn_tools.fold import Folded, fold_bn
from tinygrad_bn.nn.bn_tools.freeze import freeze_bn, unfreeze_bn
from tinygrad_bn.nn.bn_tools.moments import Moments, merge
from tinygrad_bn.nn.bn_tools.sync import SyncBatchNorm, sync_batch_norm
from tinygrad_bn.nn.bn_tools.update import update_bn

__all__ = [
    "Communicator",
    "Folded",
    "Moments",
    "SyncBatchNorm",
    "ThreadCommunicator",
    "convert",
    "fold_bn",
    "freeze_bn",
    "merge",
    "momentum_from_keras",
    "run_ranks",
    "sync_batch_norm",
    "unfreeze_bn",
    "update_bn",
]
