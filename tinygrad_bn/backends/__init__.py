"""What may be chosen about how a device computes; by default everything is chosen by measured rules.

tb.backends.cpu.conv_algorithm = "direct"
with tb.backends.cpu.flags(conv_algorithm="im2col"):
    …
"""

from tinygrad_bn.backends._cpu import CpuBackend

cpu = CpuBackend()

__all__ = ["CpuBackend", "cpu"]
