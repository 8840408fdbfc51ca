"""What is still put down to chance, and what is not: every threshold of the doctor, with its reason.

The mean of a batch of N samples that are drawn alike scatters by at most 1 / √N of the values' deviation: by just that
where each sample gives a channel one value, by less where it gives several that differ among themselves. A running
average of such means with momentum a scatters by √(a / (2 - a)) of that, the mean of B batches by 1 / √B of it.
"""

from __future__ import annotations

import math

GAP = 0.3
"""Difference of running and batch statistics: of means in deviations, of deviations in logarithms (35 %). As much moves
one value in nine to the other side of zero, and the layers behind multiply it."""
GAP_SEVERE = 1.0
"""A whole deviation, or a factor of e: the layer's output in evaluation has little to do with that in training."""
CHANCES = 3.0
"""How many times the scatter that is expected by chance a gap must exceed: the root of a mean over channels exceeds 3
times what is expected in one case of 400 even with one channel."""
INITIAL = 0.05
"""Part of the initial values (mean 0, variance 1) left in running statistics: (1 - momentum)^steps. The
default momentum is there after 29 steps."""
INITIAL_GAP = 0.1
"""The gap, beyond chance, from which what is left of the initial values does harm: a tenth of a deviation."""
UNEXPLAINED = 1 / 3
"""Part of the gap that may be left when the initial values, at the weight that momentum and steps give them, are taken
into account; else the running statistics come from elsewhere: ``update_bn``, say, counts batches without momentum."""
NOISE = 0.3
"""Scatter of batch means in deviations. Independent values reach it at N = 11, between the batch sizes 16, with
which Wu & He 2018 (arXiv:1803.08494, table 2) find hardly more errors than with 32, and 8, with 1.1 points more."""
UNLIKE = 1.5
"""How many times 1 / √N batch means may scatter before batches count as not drawn alike, however many they are."""
UNLIKE_CHANCE = 4.0
"""And in deviations of chance: one layer in 30,000 by itself."""
BATCHES = 4
"""Fewer batches say too little about scatter; the bound 1 / √N is taken instead."""
SMALL_LAST = 0.5
"""A last batch counts as small below this part of the others, if the scatter at its size is above NOISE: it weighs
as much in the running averages as a full one."""
DROPOUT = 0.05
"""Change of deviations by dropout (logarithm): 5 %. Without dropout ahead it is exactly 0; a p of 0.1 ahead of a linear
layer gives 5 % where inputs have mean 0 (Li et al. 2019, arXiv:1801.05134)."""
DEAD_SAMPLES = 100
"""Samples that must leave a channel at zero before it counts as dead: one that answers to one sample in twenty
is silent for 100 by chance in 0.6 % of cases."""
DEAD_SEVERE = 0.5
"""Part of a layer's channels."""
SATURATED = 0.3
"""Part of an activation's values where its slope is below FLAT of the steepest: a pre-activation of deviation 1 gives
tanh 3 %, one of deviation 2 27 %."""
SATURATED_SEVERE = 0.7
FLAT = 0.05
"""|x| > 2.2 for tanh, 4.4 for sigmoid: Glorot & Bengio 2010, section 3."""
ROUNDING = 4.0
"""A deviation below so many units in the last place of the mean is rounding."""
BIAS = 1e-3
"""Largest change of outputs, as a part of them, that counts as none when all of a bias is moved by the size of what
it is added to: float32 rounding through some dozens of layers."""


def unlike(batches: int) -> float:
    """Return how many times 1 / √N batch means must scatter to be no chance: χ² by Wilson & Hilferty's cube."""
    k = batches - 1
    quantile = (1 - 2 / (9 * k) + UNLIKE_CHANCE * math.sqrt(2 / (9 * k))) ** 3
    return max(UNLIKE, math.sqrt(quantile))
