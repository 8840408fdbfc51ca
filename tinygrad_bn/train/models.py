"""The network that the main job trains unless told otherwise, and what may be chosen for it."""

from tinygrad_bn.models.mlp import ACTIVATIONS, NORMS, mlp

__all__ = ["ACTIVATIONS", "NORMS", "mlp"]
