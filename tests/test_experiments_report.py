"""What experiments write for readers: figure, tables, pages, the HTML report, TensorBoard files."""

from __future__ import annotations

import base64
import doctest
import io
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toy_experiment import ARMS, EXPERIMENT, Setting, changed

import tinygrad_bn as tb
from tinygrad_bn.experiments.runner import board, figure, html, registry, report, words
from tinygrad_bn.experiments.runner.cli import main
from tinygrad_bn.experiments.runner.experiment import Published
from tinygrad_bn.experiments.runner.finished import Row
from tinygrad_bn.experiments.runner.markup import html as to_html
from tinygrad_bn.experiments.runner.verdicts import estimate

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy at the scale standard; not to be changed."""
    return tb.experiments.run(EXPERIMENT, "standard", out=tmp_path_factory.mktemp("out"))


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGRAD_BN_DATA", raising=False)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    monkeypatch.setitem(sys.modules, "tinygrad_bn.experiments.toy", SimpleNamespace(EXPERIMENT=EXPERIMENT))


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_page_has_everything(done: Any) -> None:
    page = (done.folder / "page.md").read_text()
    titles = ["Question", "Setting", "Outcome", "Published and measured", "Claims", "What it means", "To run it again"]
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == titles
    assert page.startswith("# Walks | with & without drift\n\nSmith 2001")
    assert "| rates | 0.1, 0.5 |" in page
    assert "![Walks | with & without drift](figure.png)" in page
    assert re.search(r"\| drift, m/step \| 3 \| \d\.\d\d ± 0\.\d\d \| table 1 \|", page)
    assert "| time | 1 \\| 2 s | not measured here | table 2 |" in page
    assert "- **`stays`, not held.** It stays. *Why < 1:* it is there **Our explanation:** it was <pushed>" in page
    assert "held.** It leads away. *Why > 1:* as it says\n" in page
    assert "python -m tinygrad_bn.experiments toy --scale standard\n" in page
    assert f"numpy {np.__version__}" in page
    tables = (done.folder / "table.md").read_text()
    assert all(table in page for table in tables.split("\n\n")[2:4])


def test_the_command_names_what_is_not_usual(tmp_path: Path) -> None:
    outcome = tb.experiments.run(changed(data="mnist"), seeds=2, out=tmp_path)
    assert report.command(outcome) == "python -m tinygrad_bn.experiments toy --scale quick --seeds 2"
    outcome.facts["data"]["name"] = "mnist"
    assert report.command(outcome).endswith("--scale quick --data-dir DATA --seeds 2")


@pytest.mark.parametrize(
    ("values", "format", "said"),
    [
        ([1.0, 2.0, 3.0], ".1f", "2.0 ± 2.5"),
        ([2.0], ".3g", "2"),
        ([2.0, 2.0], ".0%", "200%"),
        ([np.inf, np.inf], ".3g", "inf"),
        ([1.0, np.inf], ".3g", "inf [1, inf]"),
        ([np.nan], ".3g", "nan"),
    ],
)
def test_measured_numbers_in_words(values: list[float], format: str, said: str) -> None:
    row = Row(Published("x", "1", "here", lambda outcome: 0.0, format), estimate(values))
    assert words.measured(row) == said


def test_settings_in_words() -> None:
    found = [True, 50000, 1e-6, 0.25, [1, 2], {"a": None}, "relu"]
    assert [words.value_of(v) for v in found] == ["yes", "50,000", "1e-06", "0.25", "1, 2", "a: none", "relu"]


# -------------------------------------------------------------------------------------------------------------- figure


def test_the_figure_is_small_and_says_what_it_was_made_of(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (done.folder / "figure.png").read_bytes()
    assert len(content) < 100_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (1440, 600)
        below = np.asarray(image.convert("L"))[-30:]
    assert below.min() < 200  # the footer
    assert figure.footer(done) == "toy · scale standard · 5 seeds"
    assert figure.png(done) == content  # the same numbers, the same file


def test_a_figure_that_is_too_large_is_reduced(done: Any) -> None:
    def noise(results: Any, figure: Any) -> None:
        figure.subplots().imshow(np.random.default_rng(0).random((400, 900, 3)), aspect="auto")

    loud = replace(done, experiment=changed(draw=noise, figsize=(6, 4)))
    assert len(figure.png(loud)) < 100_000


def test_data_stand_in_the_footer(tmp_path: Path) -> None:
    outcome = tb.experiments.run(changed(data="cifar10"), out=tmp_path)
    assert figure.footer(outcome) == "toy · scale quick · 1 seed · digits: 1,438 training and 359 test pictures"


# ---------------------------------------------------------------------------------------------------------------- HTML

VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Reader(HTMLParser):
    """Checks that elements are closed in order; gathers addresses, text and elements."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        found = dict(attrs)
        self.addresses += [str(found[name]) for name in ("src", "href", "srcset", "action", "data") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        assert not [name for name in found if name.startswith("on") or name == "style"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_holds_everything_and_refers_to_nothing(done: Any, tmp_path: Path) -> None:
    other = tb.experiments.run(changed(name="other", title="<Other>"), out=tmp_path)
    html.write([done, other], tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text()
    assert source.startswith("<!doctype html>")
    found = Reader(source)
    assert {"script", "link", "iframe", "object"}.isdisjoint(found.names)
    assert found.ids == ["toy", "other"]
    pictures = [a for a in found.addresses if a.startswith("data:image/png;base64,")]
    assert [base64.b64decode(p.split(",")[1]) for p in pictures] == [
        (outcome.folder / "figure.png").read_bytes() for outcome in (done, other)
    ]
    assert [a for a in found.addresses if a not in pictures] == ["#toy", "#other", *["#toy"] * 4, *["#other"] * 4]
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert 'name="viewport"' in source
    text = "".join(found.text)
    for said in ("3 held, 1 not held", "<Other>", "it was <pushed>", "1 | 2 s", "not judged", "the source"):
        assert said in text
    assert "example.org" not in source
    assert source.index("3 held") < source.index("data:image")
    assert '<td class="not-held">not held</td>' in source


def test_a_single_report(done: Any) -> None:
    found = Reader((done.folder / "report.html").read_text())
    assert found.names.count("h1") == 1
    assert found.names.count("main") == 1
    assert found.addresses[0].startswith("data:image/png")


MARKS = st.text(st.sampled_from("ab *_`|#-[]()!<>&\\\n1.\"'"), max_size=60)


@given(MARKS)
def test_any_text_becomes_proper_html(source: str) -> None:
    found = Reader(to_html(source))
    assert set(found.names) <= {"p", "ul", "ol", "li", "pre", "code", "strong", "em", "a", "img", "div"} | {
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "wbr",
        *(f"h{level}" for level in range(1, 7)),
    }
    kept = "".join(re.findall(r"[ab]", re.sub(r"!?\[[^\]]*\]\([^)\s]+\)", "", source)))
    assert set(kept) <= set("".join(found.text)) | set("ab" if "pre" in found.names or "img" in found.names else "")


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("# A `b`", "<h1>A <code>b</code></h1>"),
        ("a\nb\n\nc", "<p>a\nb</p>\n<p>c</p>"),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("`a_b` ", "<p><code>a_<wbr>b</code> </p>"),
        ("2 * 3 * 4", "<p>2 * 3 * 4</p>"),
        ("x_1 and y_2", "<p>x_1 and y_2</p>"),
        ("`a*b*c < d`", "<p><code>a*b*c &lt; d</code></p>"),
        ("- a\n  b\n- c", "<ul><li>a\nb</li><li>c</li></ul>"),
        ("- a\nb", "<ul><li>a\nb</li></ul>"),
        ("|a| is large\n- b", "<p>|a| is large</p>\n<ul><li>b</li></ul>"),
        ("words\n- a", "<p>words</p>\n<ul><li>a</li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("```sh\na # b\n\n```", "<pre><code>a # b\n</code></pre>"),
        ("[a](#b) [c](http://d.e)", '<p><a href="#b">a</a> c</p>'),
        ("\\*a\\*", "<p>*a*</p>"),
        ("<b>&", "<p>&lt;b&gt;&amp;</p>"),
        ("![a](b.png)", '<p><img src="b.png" alt="a"></p>'),
        ("", ""),
    ],
)
def test_markup(source: str, result: str) -> None:
    assert to_html(source).strip() == result


def test_tables_as_html() -> None:
    found = to_html(report.markdown([["", "a|b"], ["x", "held"]]))
    assert "<th></th><th>a|b</th>" in found
    assert '<td>x</td><td class="held">held</td>' in found


# --------------------------------------------------------------------------------------------------------- TensorBoard


def events(folder: Path) -> Iterator[Any]:
    """The events of a folder's file: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event()
        event.ParseFromString(content[12 : 12 + length])
        yield event
        content = content[16 + length :]


def test_tensorboard_files_hold_every_curve(done: Any) -> None:
    folder = done.folder / "tensorboard"
    assert {path.name for path in folder.iterdir()} == {f"{arm}-{seed}" for arm in ARMS for seed in range(5)}
    values: dict[str, list[tuple[int, float]]] = {}
    texts = []
    for event in events(folder / "drift-3"):
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts.append(value.tensor.string_val[0].decode())
            else:
                values.setdefault(value.tag, []).append((event.step, value.simple_value))
    walk = done.results.outcomes[3]["drift"]["walk"]
    assert set(values) == {"walk", "both/0", "both/1"}
    assert [step for step, _ in values["walk"]] == walk["x"]
    np.testing.assert_allclose([v for _, v in values["walk"]], walk["y"], rtol=1e-6)
    assert values["both/1"] == [(0, 2.0), (1, 4.0)]  # x is not whole: the index
    assert len(texts) == 1
    assert "drift: 3.0" in texts[0]
    assert "seed: 3" in texts[0]


def test_curves_of_all_kinds() -> None:
    numbers = {
        "a": {"x": [1, 2], "y": [0.5, np.nan]},
        "deep": {"b": {"x": [], "y": []}, "c": 3, "d": {"x": 1, "y": 2}, "e": {"x": [1], "y": [1, 2]}},
        "list": [1, 2],
    }
    assert [name for name, _, _ in board.curves(numbers)] == ["a", "deep/b"]
    assert board.steps([1, 5]) == [1, 5]
    assert board.steps([0.5, 5]) == board.steps([-1, 5]) == board.steps([np.inf, 1e300]) == [0, 1]


def test_files_of_an_earlier_start_are_replaced_and_torch_is_not_loaded_for_them(tmp_path: Path) -> None:
    loaded = "torch" in sys.modules
    tb.experiments.run(EXPERIMENT, out=tmp_path, seeds=2)
    tb.experiments.run(EXPERIMENT, out=tmp_path)
    assert sorted(p.name for p in (tmp_path / "toy/quick/tensorboard").iterdir()) == ["drift-0", "none-0"]
    assert len(list((tmp_path / "toy/quick/tensorboard/none-0").iterdir())) == 1
    assert loaded or "torch" not in sys.modules


# --------------------------------------------------------------------------------------------------------------- pages


def test_pages_for_the_documentation(done: Any, toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, pages = done.folder.parents[1], tmp_path / "pages"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(["toy", "--scale", "standard", "--out", str(out), "--pages", str(pages)]) == 0
    assert capsys.readouterr().out == f"pages written to {pages}\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before  # nothing is run or written there
    assert sorted(path.name for path in pages.iterdir()) == ["README.md", "toy.md", "toy.png"]
    assert (pages / "toy.png").read_bytes() == (done.folder / "figure.png").read_bytes()
    assert (pages / "toy.md").read_text() == (done.folder / "page.md").read_text().replace("figure.png", "toy.png")
    index = (pages / "README.md").read_text()
    assert "Results at the scale `standard`: 3 held, 1 not held." in index
    assert "[Walks \\| with & without drift](toy.md)" in index
    assert re.search(r"\| \[`toy`\]\(toy.md\) \| `stays` \| not held \| \d+.*\| < 1 \|", index)


def test_pages_of_what_is_not_there(toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--out", str(tmp_path), "--pages", str(tmp_path / "pages")]
    assert main(["toy", *flags]) == 1
    assert "has no results of toy at the scale quick.\nHint: run them first." in capsys.readouterr().err
    assert main(["all", *flags]) == 0
    assert "no results of toy" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main(["toy", "--out", str(tmp_path), "--pages", str(tmp_path / "file")]) == 1
    assert "file' cannot be made: File exists." in capsys.readouterr().err
    tb.experiments.run(changed(scales={**EXPERIMENT.scales, "quick": Setting(6)}), out=tmp_path)
    assert main(["all", *flags]) == 1
    assert "was made with another setting" in capsys.readouterr().err


def test_all_writes_one_report(toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "NAMES", ("toy", "two"))
    monkeypatch.setitem(
        sys.modules, "tinygrad_bn.experiments.two", SimpleNamespace(EXPERIMENT=changed(name="two", seeds={"quick": 2}))
    )
    assert main(["all", "--out", str(tmp_path)]) == 0
    assert Reader((tmp_path / "report-quick.html").read_text()).ids == ["toy", "two"]


def test_the_page_on_experiments_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(DOCS / "experiments.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 5
    assert found.failed == 0
