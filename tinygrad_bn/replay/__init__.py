"""Steps that are recorded once and run again without Python.

``capture`` decides when to record and when to run. ``calls`` notes what a step does, ``watch`` what it sees, with
``sight`` for what an object leads to and ``held`` for what it holds; ``finds`` is what a step finds and leaves of
gradients, versions and counts. ``memory`` lends it what it works on, ``results`` keeps what it returns, ``recording``
runs it again: ``runs`` its kernels, ``native`` where compiled code can go through them, and ``words`` is what compiled
code compares ahead of that.
"""

from tinygrad_bn.replay.capture import Captured, capture

__all__ = ["Captured", "capture"]
