"""Averages of weights over training, their batch norms, and the rate that goes with them."""

from __future__ import annotations

import copy
import doctest
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn
from tinygrad_bn.errors import ArgumentError, DTypeError, ShapeError
from tinygrad_bn.optim import SGD, swa_utils
from tinygrad_bn.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)


def network() -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def data(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + 1, np.float32)


def moved(model: Any, seed: int) -> Any:
    """Put other numbers into everything a model has."""
    rng = np.random.default_rng(seed)
    with tb.no_grad():
        for t in model.state_dict().values():
            t.copy_(tb.tensor(rng.integers(1, 9, t.shape) if t.ndim == 0 else rng.uniform(0.5, 2, t.shape)))
    return model


def test_examples() -> None:
    found = doctest.testmod(swa_utils)
    assert found.attempted
    assert not found.failed


WAYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"multi_avg_fn": get_swa_multi_avg_fn()}, {"multi_avg_fn": "get_swa_multi_avg_fn"}),
    ({"avg_fn": get_swa_avg_fn()}, {"avg_fn": "get_swa_avg_fn"}),
    ({"avg_fn": get_ema_avg_fn(0.8)}, {"avg_fn": "get_ema_avg_fn"}),
    ({"multi_avg_fn": get_ema_multi_avg_fn(0.8)}, {"multi_avg_fn": "get_ema_multi_avg_fn"}),
]


@pytest.mark.peers
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), WAYS)
def test_averages_follow_pytorch(ours: dict[str, Any], theirs: dict[str, Any], use_buffers: bool) -> None:
    torch = pytest.importorskip("torch")
    if use_buffers and "get_swa_multi_avg_fn" in theirs.values():
        pytest.skip("PyTorch's cannot average the number of batches")
    utils = torch.optim.swa_utils
    makers = {k: getattr(utils, v)(*([0.8] if "ema" in v else [])) for k, v in theirs.items()}
    model = moved(network(), 0)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))

    def same() -> None:
        other.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in model.state_dict().items()})

    same()
    mine = AveragedModel(model, use_buffers=use_buffers, **ours)
    reference = utils.AveragedModel(other, use_buffers=use_buffers, **makers)
    for seed in range(1, 5):
        moved(model, seed)
        same()
        mine.update_parameters(model)
        reference.update_parameters(other)
        state = mine.state_dict()
        assert sorted(state) == sorted(reference.state_dict())
        for name, t in reference.state_dict().items():
            np.testing.assert_allclose(state[name].numpy(), t.numpy(), rtol=3e-6, err_msg=name)


def test_means_and_moving_averages() -> None:
    model = nn.Linear(1, 1, bias=False)
    mean, ema = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for value in (1.0, 2.0, 6.0):
        with tb.no_grad():
            model.weight.fill_(value)
        mean.update_parameters(model)
        ema.update_parameters(model)
    assert mean.module.weight.item() == pytest.approx(3.0)
    assert ema.module.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 6)
    assert mean.n_averaged.item() == 3
    assert mean(tb.ones(1, 1)).item() == pytest.approx(3.0)


def test_the_average_is_a_model_of_its_own() -> None:
    model = network()
    average = AveragedModel(model)
    average.update_parameters(model)
    before = average.module[0].weight.tolist()
    moved(model, 3)
    assert average.module[0].weight.tolist() == before
    assert average.n_averaged.dtype is tb.int64
    assert next(iter(average.state_dict())) == "n_averaged"
    again = AveragedModel(network())
    again.load_state_dict(average.state_dict())
    assert again.module[0].weight.tolist() == before
    assert pickle.loads(pickle.dumps(average)).n_averaged.item() == 1
    assert copy.deepcopy(average).module[0].weight.tolist() == before
    assert [p.requires_grad for p in average.parameters()] == [True] * 6
    assert not AveragedModel(network().eval()).training


@pytest.mark.parametrize("nested", [False, True])
def test_a_loaded_average_has_its_batch_norm_estimated(nested: bool) -> None:
    """A checkpoint of averages holds running statistics of none of them, unless they were evaluated before."""
    loader = [tb.tensor(data(20, 3))]
    model = moved(network(), 1)
    average = AveragedModel(model, loader=loader)
    for seed in (2, 3):
        average.update_parameters(moved(model, seed))
    again = AveragedModel(network(), loader=loader)
    if nested:
        nn.Sequential(again).load_state_dict(nn.Sequential(average).state_dict())
    else:
        again.load_state_dict(average.state_dict())
    want = average.eval()(loader[0]).tolist()
    assert again.eval()(loader[0]).tolist() == want
    assert pickle.loads(pickle.dumps(again))(loader[0]).tolist() == want
    assert again.module[1].num_batches_tracked.item() == 1


def test_an_error_of_the_loader_leaves_the_estimate_due() -> None:
    def loader() -> Any:
        yield tb.tensor(data(20, 3))
        raise OSError("the disk is gone")

    class Bad:
        def __iter__(self) -> Any:
            return loader()

    average = AveragedModel(network(), loader=Bad())
    average.update_parameters(network())
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            average.eval()(tb.tensor(data(4, 3)))
    assert average.module[1].running_mean.tolist() == [0.0] * 4


def test_batch_norm_is_estimated_anew_by_itself() -> None:
    """In evaluation, once after the averages have moved; in training not at all."""
    x = data(20, 3)
    asked = []

    class Loader:
        def __iter__(self) -> Any:
            asked.append(1)
            yield from (tb.tensor(x[:13]), (tb.tensor(x[13:]), "labels"))

    model = moved(network(), 1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), loader=Loader())
    average(tb.tensor(x))
    average.eval()(tb.tensor(x))
    assert asked == []  # a copy of the model as it is
    average.update_parameters(model)
    average.update_parameters(moved(model, 2))
    average.train()(tb.tensor(x))
    assert asked == []
    average.eval()
    y = average(tb.tensor(x))
    average(tb.tensor(x))
    assert asked == [1]
    hidden = average.module[0](tb.tensor(x)).detach().numpy().astype(np.float64)
    norm = average.module[1]
    np.testing.assert_allclose(norm.running_mean.numpy(), hidden.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), hidden.var(0, ddof=1), rtol=1e-6)
    assert y.shape == (20, 2)
    assert not average.module.training
    average.update_parameters(model)
    average.update_bn()
    average(tb.tensor(x))
    assert asked == [1, 1]
    average.update_bn([tb.tensor(x[:5])])
    np.testing.assert_allclose(
        norm.running_mean.numpy(), average.module[0](tb.tensor(x[:5])).detach().numpy().mean(0), rtol=1e-5
    )


def test_the_average_evaluates_better_than_with_the_statistics_of_the_last_model() -> None:
    """What it is for: averaged weights under copied running statistics are off; under their own they are not."""
    x = data(64, 3)
    model = network()
    average = AveragedModel(model, loader=[tb.tensor(x)])
    for seed in range(4):
        average.update_parameters(moved(model, seed))
    plain = average.train().module(tb.tensor(x)).detach().numpy()  # by the batch, which is the whole set
    average.update_parameters(moved(model, 3))
    stale = average.module.eval()(tb.tensor(x)).detach().numpy()
    fresh = average.eval()(tb.tensor(x)).detach().numpy()
    by_batch = average.module.train()(tb.tensor(x)).detach().numpy()
    assert np.abs(fresh - by_batch).max() < 0.05 * np.abs(by_batch).max()
    assert np.abs(stale - by_batch).max() > 0.2 * np.abs(by_batch).max()
    assert plain.shape == fresh.shape


def test_update_bn_takes_arguments_in_pytorchs_order() -> None:
    layer, x = nn.BatchNorm1d(3), data(6, 3)
    update_bn([tb.tensor(x[:2]), tb.tensor(x[2:])], layer, device="cpu")
    np.testing.assert_allclose(layer.running_mean.numpy(), x.astype(np.float64).mean(0), rtol=1e-6)
    with pytest.raises(ArgumentError, match="at least one batch"):
        update_bn([], layer)


@pytest.mark.peers
def test_update_bn_follows_pytorch_where_batches_are_alike() -> None:
    """The means; PyTorch's variance is the mean of the batches', without what lies between their means."""
    torch = pytest.importorskip("torch")
    x = data(12, 3)
    mine, theirs = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    update_bn([tb.tensor(p) for p in np.split(x, 3)], mine)
    torch.optim.swa_utils.update_bn([torch.from_numpy(p) for p in np.split(x, 3)], theirs)
    np.testing.assert_allclose(mine.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-5)
    assert mine.num_batches_tracked.item() == theirs.num_batches_tracked.item() == 3
    between = np.split(x.astype(np.float64), 3)
    m2 = sum(4 * p.var(0) for p in between) + 4 * np.var([p.mean(0) for p in between], axis=0) * 3
    np.testing.assert_allclose(mine.running_var.numpy(), m2 / 11, rtol=1e-5)


def test_errors() -> None:
    model = network()
    with pytest.raises(ArgumentError, match="'avg_fn' and 'multi_avg_fn' exclude each other"):
        AveragedModel(model, avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())
    with pytest.raises(DTypeError, match="'model' must be a Module"):
        AveragedModel(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="'loader' must be given here or to AveragedModel"):
        AveragedModel(model).update_bn()
    with pytest.raises(ShapeError, match="the parameters of the model that is averaged"):
        AveragedModel(model).update_parameters(nn.Linear(3, 4))
    for bad in (1.5, -1, "0.9", float("nan")):
        with pytest.raises(ArgumentError, match="'decay' must be from 0 to 1"):
            get_ema_multi_avg_fn(bad)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ SWALR


def rates(module: Any, parameters: Any, options: dict[str, Any], before: bool) -> list[list[float]]:
    """The groups' rates over twelve epochs; with ``before``, another schedule takes turns."""
    a, b = parameters
    optimizer = module.SGD([{"params": [a]}, {"params": [b], "lr": 0.4}], lr=1.0)
    first = module.lr_scheduler.StepLR(optimizer, 2, 0.5) if before else None
    schedule = module.swa_utils.SWALR(optimizer, **options)
    found = []
    for epoch in range(12):
        optimizer.step()
        (first if first is not None and epoch < 3 else schedule).step()
        found.append([g["lr"] for g in optimizer.param_groups])
    return [*found, [float(rate) for rate in schedule.get_last_lr()]]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*optimizer.step.*:UserWarning")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 5, 20])
@pytest.mark.parametrize("swa_lr", [0.05, [0.05, 0.2]])
def test_rates_follow_pytorch(before: bool, strategy: str, epochs: int, swa_lr: Any) -> None:
    torch = pytest.importorskip("torch")
    options = {"swa_lr": swa_lr, "anneal_epochs": epochs, "anneal_strategy": strategy}
    mine = rates(tb.optim, [tb.ones(1, requires_grad=True) for _ in range(2)], options, before)
    theirs = rates(torch.optim, [torch.ones(1, requires_grad=True) for _ in range(2)], options, before)
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_schedule_that_is_continued() -> None:
    def made() -> tuple[Any, Any]:
        optimizer = SGD([tb.ones(1, requires_grad=True)], lr=1.0)
        return optimizer, SWALR(optimizer, 0.1, 4, "linear")

    optimizer, schedule = made()
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.55)
    other, again = made()
    other.load_state_dict(optimizer.state_dict())
    again.load_state_dict(pickle.loads(pickle.dumps(schedule.state_dict())))
    for o, s in ((optimizer, schedule), (other, again)):
        o.step()
        s.step()
    assert other.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"]) == pytest.approx(0.325)


def test_errors_of_the_schedule() -> None:
    optimizer = SGD([tb.ones(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ArgumentError, match="'anneal_strategy' must be 'cos' or 'linear'. Got 'step'"):
        SWALR(optimizer, 0.1, anneal_strategy="step")
    for bad in (-1, 2.5, True):
        with pytest.raises(ArgumentError, match="'anneal_epochs' must be an int of at least 0"):
            SWALR(optimizer, 0.1, anneal_epochs=bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="'swa_lr' must have one rate a group, 1. Got 2"):
        SWALR(optimizer, [0.1, 0.2])
    with pytest.raises(DTypeError, match="'optimizer' must be an Optimizer"):
        SWALR(3, 0.1)  # type: ignore[arg-type]
