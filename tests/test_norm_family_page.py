"""The page of the family: its examples run, it has every member, and what it links to is there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import tinygrad_bn as tb
from tinygrad_bn import nn

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "normalisation.md"
PAPERS = [
    "1502.03167", "1602.07868", "1603.04779", "1603.09025", "1607.06450", "1607.08022",
    "1702.03275", "1705.08741", "1803.01814", "1803.08494", "1804.08450", "1805.11604",
    "1903.10520", "1904.03441", "1906.03950", "1910.07467", "1911.09737", "2105.07576",
]  # fmt: skip


def test_the_page_runs() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert found.attempted > 40
    assert found.failed == 0


def test_every_member_and_its_paper_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    own = {"SeparatedBatchNorm1d", "TLU", "BNLSTMCell", "BNRNNCell", "ada_bn"}
    layers = {n for n in nn.__all__ if re.search(r"Norm(1d)?$|Renorm$", n)} | own
    assert {"BatchRenorm", "IterNorm", "GroupNorm", "InstanceNorm1d", "LpBatchNorm"} < layers
    apart = {"LocalResponseNorm"}  # of neighbouring channels, without statistics: AlexNet's
    missing = [n for n in sorted(layers - apart) if n not in text and n.removesuffix("1d") not in text]
    assert missing == []
    assert [n for n in ("weight_norm", "weight_standardization", "RenormSchedule") if n not in text] == []
    assert [n for n in PAPERS if f"[arXiv:{n}](https://arxiv.org/abs/{n})" not in text] == []


def test_names_and_links_of_the_page_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([\w-]+\.md)\)", text) if not (DOCS / link).exists()] == []
    for name in re.findall(r"^\| `((?:nn|optim|tb)[\w.]+)", text, re.MULTILINE):
        found: object = tb
        for part in name.removeprefix("tb.").split("."):
            found = getattr(found, part)
        assert callable(found)
    assert "(normalisation.md)" in (DOCS / "batch-norm.md").read_text(encoding="utf-8")
