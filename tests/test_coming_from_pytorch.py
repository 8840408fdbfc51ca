"""The page "Coming from PyTorch": its examples run, and each difference that it lists is there, on both sides."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import errors

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "coming-from-pytorch.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
Difference = Callable[[Any], None]
DIFFERENCES: dict[str, Difference] = {}


def section(title: str) -> str:
    """What stands under a heading."""
    return re.split(r"\n##+ ", PAGE.split(f" {title}\n", 1)[1])[0]


# ------------------------------------------------------------------------------------------------------------ examples


def mentions_torch(example: str) -> bool:
    return re.search(r"^import torch$", example, re.MULTILINE) is not None


def test_examples_run() -> None:
    namespace: dict[str, Any] = {}
    ours = [e for e in EXAMPLES if not mentions_torch(e)]
    assert len(ours) == 3
    for example in ours:
        exec(compile(example, "coming-from-pytorch.md", "exec"), namespace)


@pytest.mark.peers
def test_example_with_both_libraries() -> None:
    pytest.importorskip("torch")
    (example,) = filter(mentions_torch, EXAMPLES)
    namespace: dict[str, Any] = {}
    exec(compile(example, "coming-from-pytorch.md", "exec"), namespace)
    x = np.ones((1, 4), np.float32)
    ours, theirs = namespace["ours"](tb.tensor(x)), namespace["theirs"](namespace["torch"].tensor(x))
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)


@pytest.mark.peers
def test_safetensors_files_go_both_ways(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    theirs, ours = torch.nn.BatchNorm1d(3), tb.nn.BatchNorm1d(3)
    theirs(torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 9.0]]))
    files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load_state_dict(tb.load(tmp_path / "theirs.safetensors"))
    tb.save(ours.state_dict(), tmp_path / "ours.safetensors")
    again = files.load_file(tmp_path / "ours.safetensors")
    assert again.keys() == theirs.state_dict().keys()
    assert all(torch.equal(again[k], v) for k, v in theirs.state_dict().items())


# --------------------------------------------------------------------------------------------------------- differences


def difference(name: str) -> Callable[[Difference], Difference]:
    """Register what shows a row of the table; it is called with PyTorch."""

    def register(check: Difference) -> Difference:
        DIFFERENCES[name] = check
        return check

    return register


@difference("errors")
def _(torch: Any) -> None:
    cases: list[tuple[Callable[[Any], Any], type[Exception], type[Exception]]] = [
        (lambda lib: lib.ones(2, 3) @ lib.ones(2, 3), errors.ShapeError, ValueError),
        (lambda lib: lib.ones(2, 3) + lib.ones(2, 4), errors.ShapeError, ValueError),
        (lambda lib: lib.arange(3).mean(), errors.DTypeError, TypeError),
        (lambda lib: bool(lib.ones(2)), errors.ArgumentError, ValueError),
        (lambda lib: twice(lib), errors.GraphFreedError, RuntimeError),
    ]
    for call, named, builtin in cases:
        with pytest.raises(RuntimeError):
            call(torch)
        with pytest.raises(named, match="(must|has|were) .*") as caught:
            call(tb)
        assert isinstance(caught.value, builtin)


def twice(lib: Any) -> None:
    """Backward, twice."""
    y = (lib.ones(2, requires_grad=True) ** 2).sum()
    y.backward()
    y.backward()


@difference("missing names")
def _(torch: Any) -> None:
    for lib, hint in ((torch, False), (tb, True)):
        with pytest.raises(AttributeError) as caught:
            lib.nn.Conv2D(1, 1, 1)
        assert ("Conv2d" in str(caught.value)) is hint


@difference("shapes")
def _(torch: Any) -> None:
    assert torch.ones(2, 3).shape.numel() == 6
    assert type(tb.ones(2, 3).shape) is tuple
    assert tb.ones(2, 3).numel() == 6


@difference("`view`")
def _(torch: Any) -> None:
    with pytest.raises(RuntimeError):
        torch.arange(6).reshape(2, 3).t().view(6)
    assert tb.arange(6).reshape(2, 3).t().view(6).tolist() == [0, 3, 1, 4, 2, 5]


@difference("changing a view in place")
def _(torch: Any) -> None:
    def change(lib: Any) -> Any:
        x = lib.ones(3, requires_grad=True)
        y = x * 2
        part = y[:2]
        part.mul_(3.0)
        y.sum().backward()
        return x.grad.tolist()

    def assign(lib: Any) -> Any:
        x = lib.ones(3, requires_grad=True)
        y = x * 2
        y[:2] = 5.0
        y.sum().backward()
        return x.grad.tolist()

    assert change(torch) == [6.0, 6.0, 2.0]
    with pytest.raises(errors.GradientError):
        change(tb)
    assert assign(torch) == assign(tb) == [0.0, 0.0, 2.0]


@difference("`x.data = y`")
def _(torch: Any) -> None:
    def changed(lib: Any) -> Any:
        x, y = lib.zeros(2), lib.ones(2)
        x.data = y
        y[0] = 7.0
        return x.tolist()

    assert changed(torch) == [7.0, 1.0]
    assert changed(tb) == [1.0, 1.0]


@difference("`x == None`")
def _(torch: Any) -> None:
    assert (torch.ones(2) == None) is False  # noqa: E711  # the comparison is what is tested
    with pytest.raises(errors.DTypeError):
        tb.ones(2) == None  # noqa: B015, E711


@difference("`softmax` without `dim`")
def _(torch: Any) -> None:
    with pytest.warns(UserWarning, match="dim"):
        torch.nn.functional.softmax(torch.ones(2, 3))
    with pytest.raises(errors.ArgumentError, match="'dim'"):
        tb.nn.functional.softmax(tb.ones(2, 3))


@difference("`from_numpy` of negative strides")
def _(torch: Any) -> None:
    array = np.arange(4)
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(array[::-1])
    shared = tb.from_numpy(array[::-1])
    array[0] = 9
    assert shared.tolist() == [3, 2, 1, 9]


@difference("random numbers")
def _(torch: Any) -> None:
    def drawn(lib: Any, **options: Any) -> Any:
        lib.manual_seed(3)
        return lib.randn(1000, **options).tolist()

    first = drawn(tb)
    tb.set_num_threads(1)
    assert first == drawn(tb) == drawn(tb, device="ref")
    assert first[:10] != drawn(torch)[:10]


@difference("number of threads")
def _(torch: Any) -> None:
    model = tb.nn.Sequential(tb.nn.Conv2d(16, 32, 3), tb.nn.BatchNorm2d(32), tb.nn.ReLU(), tb.nn.MaxPool2d(2))
    x = tb.randn(16, 16, 20, 20)

    def gradients() -> list[np.ndarray]:
        model.zero_grad()
        (model(x) ** 2).mean().backward()
        return [p.grad.numpy().copy() for p in model.parameters()]

    several = gradients()
    tb.set_num_threads(1)
    assert all(np.array_equal(a, b) for a, b in zip(several, gradients(), strict=True))


@difference("batch norm, a batch with NaN")
def _(torch: Any) -> None:
    def layer(lib: Any) -> Any:
        bn = lib.nn.BatchNorm1d(2)
        bn(lib.tensor([[1.0, float("nan")], [2.0, 3.0]]))
        return bn

    assert np.isnan(layer(torch).running_mean.numpy()).any()
    ours = layer(tb)
    assert ours.running_mean.tolist() == [0.0, 0.0]
    assert ours.skipped_batches == 1


@difference("a state dict that does not fit")
def _(torch: Any) -> None:
    for lib, loaded in ((torch, True), (tb, False)):
        model = lib.nn.Linear(2, 2)
        with pytest.raises(RuntimeError, match="bias"):
            model.load_state_dict({"weight": lib.full((2, 2), 5.0)})
        assert bool((model.weight == 5.0).all()) is loaded


@difference("`save`, `load`")
def _(torch: Any) -> None:
    import io
    import tempfile

    torch.save(torch.nn.Linear(1, 1), io.BytesIO())
    file = Path(tempfile.mkdtemp()) / "file"
    with pytest.raises(errors.DTypeError):
        tb.save({"model": tb.nn.Linear(1, 1)}, file)
    assert not file.exists()
    kept = {"step": 3, "names": ["a", ("b", None)], "weights": {0: tb.ones(2)}}
    tb.save(kept, file)
    found = tb.load(file)
    assert found["names"] == kept["names"]
    assert found["step"] == 3
    assert found["weights"][0].tolist() == [1.0, 1.0]


@difference("`DataLoader` workers")
def _(torch: Any) -> None:
    import os
    import threading

    fetched: set[tuple[int, int]] = set()

    class Watched(tb.data.Dataset[int]):
        def __getitem__(self, index: int) -> int:
            fetched.add((os.getpid(), threading.get_ident()))
            return index

        def __len__(self) -> int:
            return 8

    def order(seed: int) -> Any:
        return [int(i) for i in tb.data.DataLoader(list(range(20)), shuffle=True, seed=seed)]

    assert [b.tolist() for b in tb.data.DataLoader(Watched(), 4, num_workers=2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    ((process, thread),) = fetched
    assert process == os.getpid()
    assert thread != threading.get_ident()
    assert order(1) == order(1) != order(2)
    with pytest.raises(TypeError):
        torch.utils.data.DataLoader([1, 2], seed=1)


@difference("devices")
def _(torch: Any) -> None:
    assert torch.ones(2, device="meta").shape == (2,)
    assert tb.ones(2, device="ref").tolist() == [1.0, 1.0]
    assert tb.cuda.is_available() is False
    for name in ("cuda", "meta"):
        with pytest.raises(errors.DeviceError):
            tb.ones(2, device=name)


@difference("complex numbers")
def _(torch: Any) -> None:
    assert torch.tensor([1j]).numel() == 1
    with pytest.raises(errors.DTypeError):
        tb.tensor([1j])


@difference("`interpolate`")
def _(torch: Any) -> None:
    for mode in ("nearest", "bilinear"):
        out = torch.nn.functional.interpolate(torch.ones(1, 1, 2, 2), scale_factor=2, mode=mode)
        assert tuple(out.shape) == (1, 1, 4, 4)
    assert tb.nn.functional.interpolate(tb.ones(1, 1, 2, 2), scale_factor=2).shape == (1, 1, 4, 4)
    with pytest.raises(errors.ArgumentError, match="'nearest'"):
        tb.nn.functional.interpolate(tb.ones(1, 1, 2, 2), scale_factor=2, mode="bilinear")


def test_every_row_has_a_test() -> None:
    rows = re.findall(r"^\| (.*?) \|", section("What differs"), re.MULTILINE)
    assert [r for r in rows if r not in ("what", "---")] == list(DIFFERENCES)


@pytest.mark.peers
@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(name: str) -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning)
        DIFFERENCES[name](torch)


# ----------------------------------------------------------------------------------------------------------- not there


def absent() -> Iterator[str]:
    """What stands in code under "Not there", but for what the text says is there."""
    text = re.sub(r"\(`[^`]*` is there\)", "", section("Not there"))
    yield from (n for n in re.findall(r"`([^`]+)`", text) if n not in ("//", "%", "out=", "Tensor(...)"))


def has(lib: Any, name: str) -> bool:
    name = name.removesuffix("()")
    places = [lib, lib.Tensor, lib.nn.functional]
    if "." in name:
        package, name = name.split(".")
        places = [getattr(lib, package)]
    return any(hasattr(place, name) for place in places)


@pytest.mark.peers
def test_what_is_not_there_is_not_there_and_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    names = list(absent())
    assert len(names) > 30
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [n for n in names if not has(torch, n)] == []
    assert [n for n in names if has(tb, n)] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: tb.Tensor([1.0, 2.0]),
        lambda: tb.ones(2) // 2,
        lambda: tb.ones(2) % 2,
        lambda: tb.add(tb.ones(2), tb.ones(2), out=tb.ones(2)),
    ],
)
def test_what_is_not_there_raises(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        call()
