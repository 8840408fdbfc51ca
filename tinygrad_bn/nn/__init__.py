"""Layers, losses and what they are made of. Names, arguments and initial values are PyTorch's."""

from __future__ import annotations

import sys
from typing import Any

from tinygrad_bn import functional
from tinygrad_bn.errors import nearest
from tinygrad_bn.nn import init, parametrizations, parametrize, utils
from tinygrad_bn.nn.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Dropout,
    Flatten,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
    Tanhshrink,
)
from tinygrad_bn.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from tinygrad_bn.nn.batch_norm_act import BatchNormAct2d
from tinygrad_bn.nn.bn_tools import SyncBatchNorm, fusion
from tinygrad_bn.nn.collections import ModuleDict, ParameterDict, ParameterList
from tinygrad_bn.nn.containers import ModuleList, Sequential
from tinygrad_bn.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Fold, Unfold
from tinygrad_bn.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from tinygrad_bn.nn.linear import Identity, Linear
from tinygrad_bn.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CosineSimilarity,
    CrossEntropyLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginRankingLoss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
)
from tinygrad_bn.nn.module import Module
from tinygrad_bn.nn.normalisation import GroupNorm, LayerNorm, RMSNorm
from tinygrad_bn.nn.norms.domain import (
    DomainSpecificBatchNorm1d,
    DomainSpecificBatchNorm2d,
    DomainSpecificBatchNorm3d,
    ada_bn,
)
from tinygrad_bn.nn.norms.ghost import GhostBatchNorm
from tinygrad_bn.nn.norms.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from tinygrad_bn.nn.norms.lp import LpBatchNorm
from tinygrad_bn.nn.norms.noisy import NoisyBatchNorm
from tinygrad_bn.nn.norms.recurrent import BNLSTMCell, BNRNNCell, SeparatedBatchNorm1d
from tinygrad_bn.nn.norms.renorm import BatchRenorm, RenormSchedule
from tinygrad_bn.nn.norms.response import TLU, FilterResponseNorm
from tinygrad_bn.nn.norms.whitening import DecorrelatedBatchNorm, IterNorm
from tinygrad_bn.nn.parameter import Parameter
from tinygrad_bn.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from tinygrad_bn.nn.rnn import GRU, LSTM, RNN, RNNBase
from tinygrad_bn.nn.rnn_cells import GRUCell, LSTMCell, RNNCell, RNNCellBase
from tinygrad_bn.nn.sparse import Embedding
from tinygrad_bn.nn.vision import (
    ConstantPad1d,
    ConstantPad2d,
    LocalResponseNorm,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    Upsample,
    UpsamplingNearest2d,
    ZeroPad1d,
    ZeroPad2d,
)

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "TLU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BNLSTMCell",
    "BNRNNCell",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct2d",
    "BatchRenorm",
    "ConstantPad1d",
    "ConstantPad2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "CrossEntropyLoss",
    "DecorrelatedBatchNorm",
    "DomainSpecificBatchNorm1d",
    "DomainSpecificBatchNorm2d",
    "DomainSpecificBatchNorm3d",
    "Dropout",
    "Embedding",
    "FilterResponseNorm",
    "Flatten",
    "Fold",
    "GRUCell",
    "GhostBatchNorm",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "IterNorm",
    "KLDivLoss",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LogSigmoid",
    "LogSoftmax",
    "LpBatchNorm",
    "MSELoss",
    "MarginRankingLoss",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "NoisyBatchNorm",
    "PReLU",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "RMSNorm",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "RenormSchedule",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "SeparatedBatchNorm1d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
    "Softplus",
    "Softsign",
    "SyncBatchNorm",
    "Tanh",
    "Tanhshrink",
    "Unfold",
    "Upsample",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ada_bn",
    "functional",
    "init",
    "utils",
]

sys.modules[f"{__name__}.functional"] = functional  # so that ``import tinygrad_bn.nn.functional as F`` finds it

for _module in (fusion, parametrizations, parametrize):  # nn.utils.parametrize and the others, as in PyTorch
    _name = _module.__name__.rpartition(".")[2]
    setattr(utils, _name, _module)
    sys.modules[f"{__name__}.utils.{_name}"] = _module


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.nn", name, __all__))
