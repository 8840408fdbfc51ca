"""Kernels of the device ``cpu``: the names and signatures of ``kernels.ref``, compiled by Numba."""
