"""The part of Markdown that pages are written in, as HTML.

Blocks: headings, paragraphs, lists, tables, fenced code. Within them: code, bold, italic, pictures, links. A link leads
only to a place of the same page; of any other the text is kept, so that the result refers to nothing outside itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape

from tinygrad_bn.experiments.runner.verdicts import HELD, NOT_HELD, NOT_JUDGED, UNDECIDED

VERDICTS = (HELD, NOT_HELD, UNDECIDED, NOT_JUDGED)
INLINE = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|!\[(?P<alt>[^\]]*)\]\((?P<picture>[^)\s]+)\)"
    r"|\[(?P<text>[^\]]*)\]\((?P<link>[^)\s]+)\)"
    r"|\*\*(?P<bold>.+?)\*\*"
    r"|(?<![\w*])\*(?P<italic>[^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"
    r"|\\(?P<escaped>[\\`*_|\[\]])",
    re.DOTALL,
)
RULE = re.compile(r"\|([ :]*-+[ :]*\|)+")
PIPE = re.compile(r"(?<!\\)\|")
ITEM = re.compile(r"(?P<mark>[-*]|\d+\.) +")


def html(source: str, lower: int = 0, picture: Callable[[str], str] = str) -> str:
    """Return Markdown as HTML.

    Parameters
    ----------
    source : str
    lower : int
        By how many levels headings are lowered.
    picture : callable
        Gives a picture's address in the result for the one in the source.
    """
    return "\n".join(_block(lines, lower, picture) for lines in _blocks(source)) + "\n"


def _blocks(source: str) -> Iterator[list[str]]:
    """The lines of each block; those of fenced code with the fence ahead of them."""
    block: list[str] = []
    fenced = False
    for line in source.splitlines():
        if line.startswith("```"):
            if block:
                yield block
            block = [] if fenced else ["```"]
            fenced = not fenced
        elif fenced or line.strip():
            if block and not fenced and _begins(line, block[0]):
                yield block
                block = []
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _begins(line: str, first: str) -> bool:
    """Whether a line begins a block of its own, right below one with that first line."""
    return line.startswith("#") or first.startswith("#") or (_is_item(line) and not _is_item(first))


def _is_item(line: str) -> bool:
    return ITEM.match(line) is not None


def _block(lines: list[str], lower: int, picture: Callable[[str], str]) -> str:
    first = lines[0]
    if first == "```":
        return f"<pre><code>{escape(chr(10).join(lines[1:]))}</code></pre>"
    if heading := re.match(r"(#+) +", first):
        level = min(len(heading[1]) + lower, 6)
        text = " ".join([first[heading.end() :], *lines[1:]])
        return f"<h{level}>{inline(text, picture)}</h{level}>"
    if len(lines) > 1 and first.startswith("|") and RULE.fullmatch(lines[1]):
        return _table(lines, picture)
    if _is_item(first):
        return _list(lines, picture)
    return f"<p>{inline(chr(10).join(lines), picture)}</p>"


def _list(lines: list[str], picture: Callable[[str], str]) -> str:
    items: list[str] = []
    for line in lines:
        if found := ITEM.match(line):
            items.append(line[found.end() :])
        else:
            items[-1] += "\n" + line.strip()
    kind = "ol" if lines[0][0].isdecimal() else "ul"
    return f"<{kind}>" + "".join(f"<li>{inline(item, picture)}</li>" for item in items) + f"</{kind}>"


def _table(lines: list[str], picture: Callable[[str], str]) -> str:
    rows = [[cell.strip() for cell in PIPE.split(re.sub(r"^\||(?<!\\)\|$", "", line.strip()))] for line in lines]
    head = "".join(f"<th>{inline(cell, picture)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(_cell(cell, picture) for cell in row) + "</tr>" for row in rows[2:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, picture: Callable[[str], str]) -> str:
    kind = f' class="{text.replace(" ", "-")}"' if text in VERDICTS else ""
    return f"<td{kind}>{inline(text, picture)}</td>"


def inline(text: str, picture: Callable[[str], str] = str) -> str:
    """Return what stands in a block as HTML."""
    parts, end = [], 0
    for found in INLINE.finditer(text):
        parts += [escape(text[end : found.start()]), _mark(found, picture)]
        end = found.end()
    return "".join([*parts, escape(text[end:])])


def _mark(found: re.Match[str], picture: Callable[[str], str]) -> str:
    kind = found.lastgroup
    content = found[kind] if kind else ""
    if kind == "code":
        return f"<code>{escape(content).replace('_', '_<wbr>')}</code>"  # a long name may break there
    if kind == "picture":
        return f'<img src="{escape(picture(content))}" alt="{escape(found["alt"])}">'
    if kind == "link":
        words = inline(found["text"], picture)
        return f'<a href="{escape(content)}">{words}</a>' if content.startswith("#") else words
    if kind in ("bold", "italic"):
        tag = "strong" if kind == "bold" else "em"
        return f"<{tag}>{inline(content, picture)}</{tag}>"
    return escape(content)
