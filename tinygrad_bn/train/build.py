"""What a configuration stands for: network, optimiser, schedule, loaders; and how it reads."""

from __future__ import annotations

from math import prod

from tinygrad_bn import models, nn, optim
from tinygrad_bn.core.device import as_device
from tinygrad_bn.core.random import manual_seed
from tinygrad_bn.data import CIFAR10_MEAN, CIFAR10_STD, DataLoader, Split, transforms
from tinygrad_bn.optim import lr_scheduler
from tinygrad_bn.train.config import PICTURES, Config
from tinygrad_bn.train.history import History
from tinygrad_bn.train.models import mlp
from tinygrad_bn.train.state import Training

CLASSES = 10
EVALUATION_BATCH = {"mlp": 1000}
EVALUATION_BATCH_OF_PICTURES = 200


def build(config: Config, split: Split, prefetch: int) -> tuple[Training, DataLoader]:
    """Return the configured run before its first step, and the loader of the test pictures.

    Initial values are drawn from the seed.
    """
    manual_seed(config.seed)
    model = network(config).to(as_device(config.device, "train"))
    optimizer = optimiser(config, model)
    training = Training(model, optimizer, schedule(config, optimizer), loader(config, split, prefetch), History())
    return training, evaluation_loader(config, split, prefetch)


def network(config: Config) -> nn.Module:
    """Return the configured network."""
    if config.model == "mlp":
        return mlp(prod(PICTURES[config.data]), config.hidden, CLASSES, config.norm, config.activation)
    made: nn.Module = getattr(models, config.model)(CLASSES)
    return made


def optimiser(config: Config, model: nn.Module) -> optim.Optimizer:
    """Return the configured optimiser of a network's parameters."""
    lr, decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return optim.SGD(model.parameters(), lr, config.momentum or 0.0, weight_decay=decay)
    kind = optim.Adam if config.optimizer == "adam" else optim.AdamW
    return kind(model.parameters(), lr, weight_decay=decay)


def schedule(config: Config, optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler | None:
    """Return the configured schedule, None for a constant rate.

    In W epochs of warm-up the rate is 1, 2 … W of W + 1 parts of the first one (Goyal et al. 2017, arXiv:1706.02677, by
    epochs); the schedule proper begins after them.
    """
    warm = config.warmup_epochs
    first = lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), 1.0, warm) if warm else None
    main = _schedule_proper(config, optimizer)
    if first is None or main is None:
        return main if first is None else first
    return lr_scheduler.SequentialLR(optimizer, [first, main], [warm])


def _schedule_proper(config: Config, optimizer: optim.Optimizer) -> lr_scheduler.LRScheduler | None:
    warm = config.warmup_epochs
    gamma = 0.1 if config.gamma is None else config.gamma
    match config.lr_schedule:
        case "step":
            return lr_scheduler.StepLR(optimizer, config.step_size or 1, gamma)
        case "multistep":
            return lr_scheduler.MultiStepLR(optimizer, [m - warm for m in config.milestones], gamma)
        case "exponential":
            return lr_scheduler.ExponentialLR(optimizer, gamma)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, config.epochs - warm)
    return None


def loader(config: Config, split: Split, prefetch: int) -> DataLoader:
    """Return the loader of the training pictures; a last batch of one is left out: batch norm cannot train on it."""
    single = needs_two(config) and len(split.train) % config.batch_size == 1
    return DataLoader(
        split.train,
        config.batch_size,
        shuffle=True,
        drop_last=single,
        seed=config.seed,
        transform=changes(config),
        prefetch=prefetch,
    )


def evaluation_loader(config: Config, split: Split, prefetch: int = 0) -> DataLoader:
    """Return the loader of the test pictures."""
    size = EVALUATION_BATCH.get(config.model, EVALUATION_BATCH_OF_PICTURES)
    return DataLoader(split.test, size, transform=normalisation(config), prefetch=prefetch)


def needs_two(config: Config) -> bool:
    """Whether a batch of one picture cannot be trained on."""
    return config.model != "mlp" or config.norm == "batch"


def normalisation(config: Config) -> transforms.Normalize | None:
    """What is done with pictures before the network gets them; digits come as floats of [0, 1] already."""
    return transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD) if config.data == "cifar10" else None


def changes(config: Config) -> transforms.Transform | None:
    """What is done with training pictures.

    ``standard``: a border of 4, a crop of 32, a flip, as He et al. 2016 (arXiv:1512.03385, section 4.2);
    ``photometric``: the colours as well, after Howard 2013 (arXiv:1312.5402).
    """
    last = normalisation(config)
    if last is None or config.augment == "none":
        return last
    parts: list[transforms.Transform] = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    if config.augment == "photometric":
        parts.append(transforms.PhotometricDistortion())
    return transforms.Compose([*parts, last])


def describe(config: Config, split: Split, model: nn.Module) -> str:
    """Return two lines on what is going to be trained."""
    count = sum(p.numel() for p in model.parameters())
    rate = f"learning rate {config.lr:g}{_of_schedule(config)}"
    rate += "" if config.momentum is None else f", momentum {config.momentum:g}"
    rate += f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    augmented = "" if config.augment == "none" else f"; {config.augment} augmentation"
    return (
        f"{config.data}: {len(split.train):,} training and {len(split.test):,} test pictures{augmented}\n"
        f"{title(config)}: {count:,} parameters; "
        f"{config.optimizer}, {rate}, batches of {config.batch_size}, seed {config.seed}"
    )


def title(config: Config) -> str:
    """Return the network in words."""
    if config.model != "mlp":
        return config.model
    widths = "-".join(str(n) for n in (prod(PICTURES[config.data]), *config.hidden, CLASSES))
    return f"mlp {widths}, {config.activation}, {'batch norm' if config.norm == 'batch' else 'no batch norm'}"


def _of_schedule(config: Config) -> str:
    words = {
        "constant": "",
        "step": f", times {config.gamma} every {config.step_size} epochs",
        "multistep": f", times {config.gamma} at epochs {', '.join(map(str, config.milestones))}",
        "exponential": f", times {config.gamma} every epoch",
        "cosine": ", falling to 0 along a cosine",
    }
    n = config.warmup_epochs
    return words[config.lr_schedule] + (f", after a warm-up of {n} epoch{'s' * (n > 1)}" if n else "")
