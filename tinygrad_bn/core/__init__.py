"""What everything stands on: devices, dtypes, tensors, the tape, the registry of operations, the launch of kernels."""
