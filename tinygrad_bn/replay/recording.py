"""A recorded step, made ready to be run again: its calls, and what else a step leaves behind."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from tinygrad_bn.core import launch
from tinygrad_bn.core.device import report
from tinygrad_bn.core.launch import observers, pool
from tinygrad_bn.core.tensor import Array, Tensor
from tinygrad_bn.replay import results
from tinygrad_bn.replay.calls import Call, Recorder
from tinygrad_bn.replay.finds import Before, Gradients, Left, Update, changed
from tinygrad_bn.replay.graph import Graph, on_gpu
from tinygrad_bn.replay.memory import Memory, bottom, root_of, unowned
from tinygrad_bn.replay.runs import Runs, Views
from tinygrad_bn.replay.watch import Watch


class Recording:
    """A step to be run again.

    Parameters
    ----------
    noted : Recorder
        What the step did.
    memory : Memory
    watch : Watch
        What Python saw ahead of the step.
    before : Before
        What the step found.
    result : Any
        What it returned, in the form that ``results.kept`` gives it.

    Attributes
    ----------
    unfit : str
        Why it cannot be run again, in words; "" where it can.
    drawn : bool
        Whether Python or NumPy has drawn random numbers meanwhile, perhaps on another thread.
    roots : frozenset of int
        The numbers of the arrays whose memory no argument may lie in: that of what the step sees, and leaves.
    used : int
        When it was last run.
    """

    def __init__(self, noted: Recorder, memory: Memory, watch: Watch, before: Before, result: Any) -> None:
        self.calls = noted.calls
        self.memory = memory
        self.watch = watch
        self.result = result
        self.optimisers = noted.optimisers
        self.given = len(before.sources)
        self.used = 0
        self.drawn = watch.drawn()
        self.unfit = self._unfit(noted, before)
        self.left = before.left(len(self.optimisers))
        self._bumps = any(self.left.sources)
        self._leaves = [leaf for leaf, *_ in before.gradients]
        self._tensors = [(t, 0) for t, _ in before.versions]
        self.versions = changed(before.versions, self.left.versions)
        self.views = Views(self.calls)
        used = {found.source for call in self.calls for found in call.bound}
        held = [*enumerate(before.holders, self.given)]
        self.in_place = [(leaf, count) for leaf, count in before.changed_in_place()]
        apart = [id(leaf) for leaf, _ in self.in_place]
        self.reads = [(n, leaf, id(leaf) not in apart) for n, leaf in held if n in used]
        asks = "grad" in {*watch.names.used, *watch.names.quoted}  # the step may ask whether there is one
        self.needs_some = [leaf for n, leaf in held if n in used or asks]
        self.needs_none = [leaf for leaf, gradient, _ in before.gradients if gradient is None]
        made = [(leaf, leaf._grad) for leaf, gradient, _ in before.gradients if leaf._grad is not gradient]
        self._made = [(leaf, gradient) for leaf, gradient in made if gradient is not None]
        self.cleared = [leaf for leaf, gradient in made if gradient is None]
        self.gradients = Gradients([])
        self.updates: list[Update] = []
        self.roots: frozenset[int] = frozenset()
        self._lasting: dict[int, list[bool]] = {}
        self._runs: dict[int, Runs | Graph] = {}
        self.on_gpu = any(map(on_gpu, self.calls))
        self._broken: Call | None = None

    def _unfit(self, noted: Recorder, before: Before) -> str:
        self.watch.leave_to_kernels(self._others())
        told = self.watch.unfit or self.watch.change()
        if told:
            return self.watch.unfit or f"it changes what Python sees: {told}"
        if self.drawn:
            return "it draws numbers from Python's or NumPy's random, or another thread does: use this package's"
        known = [t.array for o in noted.optimisers for s in o.state.values() for t in s.values()]
        known += [leaf._grad.array for leaf, *_ in before.gradients if leaf._grad is not None]
        known += [tensor.array for tensor in results.tensors(self.result)]
        count = escaped(self.memory, known)
        if count:
            return f"{count} of the tensors that it makes are kept outside of it: return them"
        if any(map(on_gpu, self.calls)) and not all(map(on_gpu, self.calls)):
            odd = next(call for call in self.calls if not on_gpu(call))
            return f"it runs kernels of the GPU, and {odd.kernel.name} in {odd.line} on the host"
        if any(o not in self.watch.optimisers for o in noted.optimisers):
            return "an optimiser that it uses was not in sight"
        return ""

    def settle(self) -> None:
        """Make it ready to be run again."""
        self.gradients = Gradients(self._made)
        for call in self.calls:
            if call.left is not None:
                now = {id(leaf): of for leaf, (_, of) in zip(self._leaves, call.left.gradients)}
                self._lasting[id(call)] = [(of := now[id(p)]) is not None and of() is g for p, g in self._made]
        self._made.clear()
        for tensor in results.tensors(self.result):  # or a gradient that is returned would look shared
            root = root_of(tensor.array)
            tensor.array = tensor.array if root is None else unowned(tensor.array, root)
        self.watch.look_for(self._others())
        self.watch.settle()
        self.gradients.settle()
        self.updates = [Update(o) for o in self.optimisers]
        seen = [array for _, array, *_ in self.watch.tensors.values()] + self.gradients.arrays
        self.roots = frozenset(id(bottom(array)) for array in seen)

    def _others(self) -> list[Array]:
        """The arrays that the kernels are given and that neither the recording nor the caller owns."""
        found: dict[int, Array] = {}
        for call in self.calls:
            own = call.lent | {b.position for b in call.bound}
            given = [a for i, a in enumerate(call.arguments) if isinstance(a, np.ndarray) and i not in own]
            found.update({id(a): a for a in given if a.size})
        found.pop(id(self.memory.status), None)
        return list(found.values())

    def change(self) -> str:
        """Return why this recording does not hold any more, in words; "" where it does."""
        for leaf in self.needs_none:
            if leaf._grad is not None:
                return "a parameter has a gradient ahead of the step and had none"
        for leaf in self.needs_some:
            if leaf._grad is None or not leaf._grad.array.flags.c_contiguous:
                return "a parameter has no gradient ahead of the step and had one"
        for update in self.updates:
            changed = update.change()
            if changed:
                return changed
        return "" if self.watch.same() else self.watch.change()

    def release(self) -> bool:
        """Let earlier gradients keep their values; return False where that cannot be."""
        return self.gradients.release()

    def run(self, given: list[Tensor]) -> None:
        """Run the kernels on the step's new arguments, and leave behind what the step leaves."""
        sources = [t.array for t in given]
        earlier = self._earlier() if self.reads else []
        for update in self.updates:
            update.renew()
        self._broken = None
        done = False
        try:
            self._run(sources + earlier if earlier else sources)
            done = True
        finally:
            if not done:
                self._break_off(given, earlier)
        self.gradients.expose()
        for leaf in self.cleared:
            leaf._grad = None
        for storage, count in self.versions:
            storage.version += count
        for leaf, count in self.in_place:
            leaf._grad.shared_storage().version += count  # type: ignore[union-attr]  # there is one: see change
        if self._bumps:
            self._bump(given, self.left)

    def _earlier(self) -> list[Any]:
        """The gradients that the step adds to, copied: their memory may be this recording's own."""
        found: list[Any] = [None] * (1 + self.reads[-1][0] - self.given)
        for number, leaf, copied in self.reads:
            array = leaf._grad.array  # type: ignore[union-attr]  # there is one: see change
            found[number - self.given] = leaf.device.copied(array) if copied else array
        return found

    def _bump(self, given: list[Tensor], left: Left) -> None:
        storages = {id(t.shared_storage()): (t.shared_storage(), n) for t, n in zip(given, left.sources) if n}
        for storage, count in storages.values():
            storage.version += count

    def _break_off(self, given: list[Tensor], earlier: list[Any]) -> None:
        """Leave behind what the step does as far as a kernel that has reported something; or no gradients."""
        at = self._broken
        left = self.left if at is None or at.left is None else at.left
        copies = {id(leaf): earlier[n - self.given] for n, leaf, copied in self.reads if copied}
        before = {id(leaf): kept for leaf, (kept, _) in zip(self._leaves, left.gradients)}
        lasting = [] if at is None else self._lasting[id(at)]
        for i, (leaf, gradient) in enumerate(zip(self.gradients.leaves, self.gradients.tensors)):
            own = leaf._grad is gradient
            if lasting and lasting[i]:
                leaf._grad = gradient
            elif not (lasting and before[id(leaf)]):
                leaf._grad = None
            elif own:  # its memory has served for other things
                copy = copies.get(id(leaf))
                leaf._grad = None if copy is None else Tensor(copy, leaf.dtype, leaf.device)
        for leaf in self.cleared:
            leaf._grad = leaf._grad if before[id(leaf)] else None
        for update in self.updates[left.steps :]:
            update.optimiser.step_count -= 1
        for storage, count in changed(self._tensors, left.versions):
            storage.version += count
        self._bump(given, left)

    def _run(self, sources: list[Array]) -> None:
        if observers:
            self._run_observed(sources)
            return
        threads = 1 if launch._applied.serial else pool.threads
        if threads > 1:
            pool.enter()
        runs = self._runs.get(threads)
        if runs is None:
            runs = self._runs[threads] = (
                Graph(self.calls, self.views) if self.on_gpu else Runs(self.calls, self.views, threads)
            )
            if isinstance(runs, Runs) and runs.compiled:
                self.watch.quicken()
                self.gradients.quicken()
        self._broken = call = runs.run(sources)
        if call is not None:
            raise report(call.op, call.kernel, call.arguments[-1])

    def _run_observed(self, sources: list[Array]) -> None:
        for call, arguments in zip(self.calls, self.views.given(self.calls, sources)):
            launch.launch(call.kernel, *arguments)
            if call.kernel.spec.status and call.arguments[-1][0]:
                self._broken = call
                raise report(call.op, call.kernel, call.arguments[-1])


def escaped(memory: Memory, known: list[Array]) -> int:
    """Return how many arrays that the last trial has made are still in use, beside the known ones."""
    roots = {id(root_of(array)) for array in known}
    if all(id(root) in roots for root in memory.made()):
        return 0
    gc.collect()
    return sum(id(root) not in roots for root in memory.made())
