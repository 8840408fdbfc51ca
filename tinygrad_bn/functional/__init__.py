"""The stateless functions, with PyTorch's signatures: ``F.batch_norm``, ``F.cross_entropy`` and the rest.

Composites of the operations, and the operations themselves, which carry the one docstring each.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bn.errors import nearest
from tinygrad_bn.functional.activation import (
    celu,
    dropout,
    elu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softmax,
    softsign,
    tanh,
    tanhshrink,
)
from tinygrad_bn.functional.adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
)
from tinygrad_bn.functional.chains import batch_norm_act_conv2d, conv2d_batch_norm_act
from tinygrad_bn.functional.convolution import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from tinygrad_bn.functional.family import batch_renorm, ghost_batch_norm, lp_batch_norm
from tinygrad_bn.functional.loss import cross_entropy, nll_loss
from tinygrad_bn.functional.losses_pairs import (
    cosine_embedding_loss,
    cosine_similarity,
    hinge_embedding_loss,
    margin_ranking_loss,
    soft_margin_loss,
)
from tinygrad_bn.functional.losses_probability import binary_cross_entropy, binary_cross_entropy_with_logits, kl_div
from tinygrad_bn.functional.losses_regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from tinygrad_bn.functional.normalisation import batch_norm, batch_norm_act
from tinygrad_bn.functional.norms import instance_norm, rms_norm
from tinygrad_bn.functional.pooling import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from tinygrad_bn.functional.responses import (
    filter_response_norm,
    thresholded_linear_unit,
    weight_standardization,
)
from tinygrad_bn.functional.sparse import embedding
from tinygrad_bn.functional.vision import interpolate, local_response_norm, pad, upsample
from tinygrad_bn.functional.whitening import decorrelated_batch_norm, iter_norm
from tinygrad_bn.ops.activation import prelu
from tinygrad_bn.ops.embedding import one_hot
from tinygrad_bn.ops.fold import fold, unfold
from tinygrad_bn.ops.group_norm import group_norm, layer_norm
from tinygrad_bn.ops.matmul import linear
from tinygrad_bn.ops.movement import flatten
from tinygrad_bn.ops.smooth import gelu, logsigmoid, softplus

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "batch_norm_act",
    "batch_norm_act_conv2d",
    "batch_renorm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "conv1d",
    "conv2d",
    "conv2d_batch_norm_act",
    "conv_transpose1d",
    "conv_transpose2d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "decorrelated_batch_norm",
    "dropout",
    "elu",
    "embedding",
    "filter_response_norm",
    "flatten",
    "fold",
    "gelu",
    "ghost_batch_norm",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "iter_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_batch_norm",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
    "tanhshrink",
    "thresholded_linear_unit",
    "unfold",
    "upsample",
    "weight_standardization",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(nearest("tinygrad_bn.functional", name, __all__))
