"""Mixed precision: ``autocast`` chooses the precision of operations, ``GradScaler`` keeps gradients from underflowing.

Micikevicius et al. 2018 (arXiv:1710.03740); bfloat16: Kalamkar et al. 2019 (arXiv:1905.12322). Names and behaviour are
PyTorch's.
"""

from tinygrad_bn.amp.autocast import autocast, get_autocast_dtype, is_autocast_enabled
from tinygrad_bn.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]
