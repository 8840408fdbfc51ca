"""Cases of ``--suite gpu``: on tensors that live on the device that ``contenders.device`` names.

Where kernels are simulated, shapes are tiny: the answers are checked, and nothing is to be timed.
"""
