"""The comparison as one HTML page without other files, as LaTeX and as Markdown."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .comparison import COLUMNS, Column, Line, by_kind, columns_of, paired, shown, table

SIDE, QUALITY = 128, 85
DECIMALS = {column.name: column.decimals for column in COLUMNS}
SPREAD = ("The mean difference, plus or minus the standard error of the pictures' means, since "
          "edits of one picture go up and down together; in brackets the standard deviation of the "
          "differences, and in how many edits the method is the better one.")
STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem;
color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .6rem;text-align:right;
border-bottom:1px solid #ddd}th{cursor:pointer;vertical-align:bottom;max-width:9rem}
td:first-child,th:first-child{text-align:left}
.best{font-weight:700}.sheet{display:flex;flex-wrap:wrap;gap:.5rem;margin:.4rem 0 1.6rem}
figure{margin:0;width:128px}figcaption{font-size:11px;line-height:1.25;overflow-wrap:anywhere}
img{width:128px;height:auto;display:block}.wrong{color:#a00}
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const table = head.closest("table"), place = [...head.parentNode.children].indexOf(head);
  const down = head.dataset.down !== "1"; head.dataset.down = down ? "1" : "0";
  const cell = (row) => row.children[place].textContent;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const x = parseFloat(cell(a)), y = parseFloat(cell(b));
    const order = isNaN(x) || isNaN(y) ? cell(a).localeCompare(cell(b)) : x - y;
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows);
};
"""


def page(lines: Sequence[Line], files: Mapping[tuple[str, str], Path],
         around: Mapping[str, Sequence[tuple[str, Path]]], against: str, said: str) -> str:
    """Tables, then a sheet for every edit, those that `against` does worst first.

    `files` holds the picture of (name, method), `around` the source and the truth by name.
    """
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Methods</title><style>{STYLE}</style>",
        f"<h1>Methods side by side</h1><p>{html.escape(said)}</p>",
        "<p>Means over all edits. Click a heading to sort.</p>", _means(lines),
        f"<h2>Edit by edit, against {html.escape(against)}</h2><p>{SPREAD}</p>",
        _differences(lines, against)]
    for name, title in (("psnr_inside", "Inside, dB, by kind of edit"),
                        ("psnr_outside", "Outside, dB, by kind of edit")):
        if any(column.name == name for column in columns_of(lines)):
            parts += [f"<h2>{title}</h2>", _kinds(lines, name)]
    parts.append(f"<h2>All edits, from worst to best under {html.escape(against)}</h2>")
    parts += [_sheet(own, files, around) for own in _worst_first(lines, against)]
    return "\n".join([*parts, f"<script>{SCRIPT}</script>\n"])


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _means(lines: Sequence[Line]) -> str:
    columns = columns_of(lines)
    heads = ["method", *(column.title for column in columns)]
    return _rows(heads, cells(lines, columns, "<span class='best'>{}</span>"))


def cells(lines: Sequence[Line], columns: Sequence[Column], marked: str) -> list[list[str]]:
    """The table of means as text, the best of each column marked."""
    found = table(lines)
    best = {column.name: _best(found, column) for column in columns}
    rows = []
    for method, row in found.items():
        texts = [shown(row[column.name], column.decimals) for column in columns]
        rows.append([method, *(marked.format(text) if text and text == best[column.name] else text
                               for column, text in zip(columns, texts, strict=True))])
    return rows


def _best(found: Mapping[str, Mapping[str, float | None]], column: Column) -> str:
    values = [value for row in found.values() if (value := row[column.name]) is not None]
    if not column.better or not values:
        return ""
    return shown((max if column.better > 0 else min)(values), column.decimals)


def difference_rows(lines: Sequence[Line], against: str) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of the paired differences."""
    found = paired(lines, against)
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    titles = {column.name: column.title for column in COLUMNS}
    rows = []
    for method, row in found.items():
        texts = []
        for name in names:
            one, digits = row.get(name), DECIMALS[name]
            if one is None:
                texts.append("")
                continue
            error = "" if one.error is None else f" ± {one.error:.{digits}f}"
            texts.append(f"{one.mean:+.{digits}f}{error} "
                         f"({one.deviation:.{digits}f}; {one.better} of {one.count})")
        rows.append([method, *texts])
    return ["method", *(titles[name] for name in names)], rows


def _differences(lines: Sequence[Line], against: str) -> str:
    heads, rows = difference_rows(lines, against)
    return _rows(heads, rows)


def _kinds(lines: Sequence[Line], name: str) -> str:
    found = by_kind(lines, name)
    kinds = list(next(iter(found.values())))
    return _rows(["method", *kinds], [
        [method, *(shown(row[kind], DECIMALS[name]) for kind in kinds)]
        for method, row in found.items()])


def _worst_first(lines: Sequence[Line], against: str) -> list[list[Line]]:
    """The lines of each edit, by how near the truth, or the source, `against` comes."""
    names = list(dict.fromkeys(str(line["name"]) for line in lines))
    groups = [[line for line in lines if line["name"] == name] for name in names]

    def nearness(group: list[Line]) -> float:
        own = next((line for line in group if line["method"] == against), group[0])
        return float(own.get("psnr_inside") or own.get("psnr") or 0)

    return sorted(groups, key=nearness)


def _sheet(group: list[Line], files: Mapping[tuple[str, str], Path],
           around: Mapping[str, Sequence[tuple[str, Path]]]) -> str:
    first = group[0]
    name = str(first["name"])
    figures = [_figure(path, title) for title, path in around.get(name, ())]
    for line in group:
        told = [f"{float(line[key]):.1f}" for key in ("psnr_inside", "psnr_outside") if line.get(
            key) is not None]
        wrong = " wrong" if line.get("right") == 0 else ""
        figures.append(_figure(files[name, str(line["method"])], str(line["method"]),
                               " / ".join(told) + wrong, wrong))
    title = f"<b>{html.escape(name)}</b> {html.escape(str(first['prompt']))} &rarr; "
    return f"{title}{html.escape(str(first['target']))}<div class='sheet'>{''.join(figures)}</div>"


def _figure(path: Path, title: str, told: str = "", kind: str = "") -> str:
    caption = f"{html.escape(title)}<br><span class='{kind.strip()}'>{html.escape(told)}</span>"
    return f"<figure><img src='{inline(path)}' alt=''><figcaption>{caption}</figcaption></figure>"


def inline(path: Path) -> str:
    """A picture as an address that holds it."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * SIDE, 2 * SIDE))
    small.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def latex(lines: Sequence[Line]) -> str:
    """The table of means; needs the package booktabs."""
    columns = columns_of(lines)
    rows: list[list[Any]] = [["method", *(column.title for column in columns)],
                             *cells(lines, columns, "\\textbf{{{}}}")]
    body = [" & ".join(str(text).replace("%", "\\%").replace("_", "\\_") for text in row) + " \\\\"
            for row in rows]
    return "\n".join([
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule", body[0], "\\midrule",
        *body[1:], "\\bottomrule", "\\end{tabular}", ""])


def markdown(lines: Sequence[Line], against: str) -> str:
    """Both tables, for a console or a page of docs."""
    columns = columns_of(lines)
    heads, rows = difference_rows(lines, against)
    tables = [(["method", *(column.title for column in columns)], cells(lines, columns, "**{}**")),
              (heads, rows)]
    return "\n\n".join(
        "\n".join("| " + " | ".join(row) + " |" for row in (
            top, ["---"] * len(top), *body)) for top, body in tables)
