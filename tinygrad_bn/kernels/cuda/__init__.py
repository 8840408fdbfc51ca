"""Kernels for NVIDIA GPUs: the same names and signatures as ``cpu`` and ``ref``, compiled by numba.cuda."""
