"""Kernels of the device ``ref``, in plain NumPy: the specification of every other backend, and the tests' oracle."""
