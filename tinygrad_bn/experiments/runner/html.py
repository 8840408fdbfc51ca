"""One HTML file on all experiments, with everything in it: no script, no address outside itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tinygrad_bn.experiments.runner import report
from tinygrad_bn.experiments.runner.figure import FIGURE
from tinygrad_bn.experiments.runner.finished import Finished
from tinygrad_bn.experiments.runner.markup import html
from tinygrad_bn.train.files import replaced

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --quiet: #60666c; --back: #fff; --line: #d8dce0; --soft: #f3f5f7;
  --held: #14723c; --not: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --quiet: #9aa1a8; --back: #15181b; --line: #363b41;
  --soft: #1f2428; --held: #5fce8d; --not: #ff8a80; --open: #f2bd5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; background: var(--back); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.4rem; line-height: 1.3; } h3 { font-size: 1.1rem; }
section { border-top: 1px solid var(--line); margin-top: 3rem; }
a { color: inherit; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; }
td.held { color: var(--held); font-weight: 600; } td.not-held { color: var(--not); font-weight: 600; }
td.undecided { color: var(--open); font-weight: 600; } td.not-judged { color: var(--quiet); }
td.held, td.not-held, td.undecided, td.not-judged { white-space: nowrap; }
code { font: .9em ui-monospace, monospace; background: var(--soft); border-radius: 3px; padding: .1em .3em; }
pre { background: var(--soft); border-radius: 4px; padding: .8rem; overflow-x: auto; }
pre code { padding: 0; background: none; }
li { margin: .5rem 0; }
"""


def document(outcomes: Sequence[Finished], figures: Sequence[bytes | None]) -> str:
    """Return the report on some experiments.

    Parameters
    ----------
    outcomes : sequence of Finished
    figures : sequence of bytes or None
        The PNG of each.
    """
    title = "Experiments on batch normalisation" if len(outcomes) > 1 else outcomes[0].experiment.title
    body = [_summary(outcomes, title)] if len(outcomes) > 1 else []
    body += [_section(*both, alone=len(outcomes) == 1) for both in zip(outcomes, figures, strict=True)]
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n' + "\n".join(body) + "</body>\n</html>\n"
    )


def _summary(outcomes: Sequence[Finished], title: str) -> str:
    scale = outcomes[0].results.scale
    parts = [f"# {title}", f"Scale `{scale}`: {report.total(outcomes)}.", report.overview(outcomes, "#{}")]
    parts += ["## Claims", report.all_claims(outcomes, "#{}"), report.rule(outcomes[0])]
    return html("\n\n".join(parts))


def _section(outcome: Finished, figure: bytes | None, alone: bool) -> str:
    def picture(address: str) -> str:
        return f"data:image/png;base64,{base64.b64encode(figure or b'').decode()}"

    page = report.page(outcome, None if figure is None else FIGURE)
    kind = "main" if alone else "section"
    return f'<{kind} id="{escape(outcome.experiment.name)}">\n{html(page, 0 if alone else 1, picture)}</{kind}>\n'


def write(outcomes: Sequence[Finished], path: Path) -> None:
    """Write the report on some experiments, with the figures that their folders have."""
    files = [outcome.folder / FIGURE for outcome in outcomes]
    figures = [file.read_bytes() if file.exists() else None for file in files]
    with replaced(path) as part:
        part.write_text(document(outcomes, figures), encoding="utf-8")
