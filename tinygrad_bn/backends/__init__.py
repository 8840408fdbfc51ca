"""What may be chosen about how a device computes; by default everything is chosen by measured rules.

tb.backends.cpu.conv_algorithm = "direct"
with tb.backends.cpu.flags(conv_algorithm="im2col"):
    …
tb.backends.cuda.allow_tf32 = True
"""

from tinygrad_bn.backends._cpu import CpuBackend
from tinygrad_bn.backends._cuda import CudaBackend

cpu = CpuBackend()
cuda = CudaBackend()

__all__ = ["CpuBackend", "CudaBackend", "cpu", "cuda"]
