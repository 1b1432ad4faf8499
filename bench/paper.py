"""The paper's table: every method on the same edits, whose truth is known.

    python3 dev.py bench paper [--report table|ablations] [--rows N] [--methods NAME...]

Without --table these are the sixty edits of unseen subjects of the demo model. What is finished in
--out is not done again. Beside the pictures and edits.csv there come report.html, which holds all
pictures, and table.tex. All options of `dev.py edits` on models and workers hold here too.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from edits import __main__ as command
from edits import rows
from edits.engine import Unfinished
from edits.measuring import measure
from edits.methods import INVERSIONS, method
from edits.running import Run

from . import demo_table, paper_page
from .comparison import Line

OUT = Path("demo_output") / "paper"
AGAINST = "stylediffusion+p2plus"
ABLATIONS = (
    *(f"stylediffusion+tau_u={tau_u}" for tau_u in ("0", "0.25", "0.5", "0.75", "1")),
    *(f"{name}+tau_u=0" for name in (
        "stylediffusion-exact", "stylediffusion-exact-no-maps", "text-embedding", "ddim")),
)
LARGE = "object"
METHODS = {
    "table": ["sdedit", *(f"{name}+{controller}" for name in INVERSIONS if name != "sdedit"
                          for controller in ("p2p", "p2plus"))],
    "ablations": list(ABLATIONS),
}
AGAINST_IN = {"table": AGAINST, "ablations": "stylediffusion+tau_u=0.5"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where rows failed."""
    parser = argparse.ArgumentParser(prog="dev.py bench paper", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", choices=list(METHODS), default="table",
                        help="ablations: edits that change the shape, under other tau_u, without "
                        "the attention loss, and with keys and values learnt")
    parser.add_argument("--table", type=Path, help="edits of yours")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="as dev.py edits --method")
    parser.add_argument("--rows", type=int, default=0, help="only the first N edits")
    parser.add_argument("--against", metavar="NAME", help="what the others are held against")
    parser.add_argument("--out", type=Path, default=OUT)
    command.add_edit_options(parser)
    command.add_worker_options(parser)
    chosen = parser.parse_args(arguments)
    try:
        return compare(chosen)
    except (ValueError, Unfinished) as error:
        print(error, file=sys.stderr)
        return 1


def compare(chosen: argparse.Namespace) -> int:
    """Run what is left, then write the report of all that is finished."""
    own = chosen.table or demo_table.write(chosen.out / "demo")
    table = rows.read(own, chosen.out)
    kept = [row for row in table.rows if chosen.report == "table" or chosen.table
            or row.kind == LARGE]
    table = replace(table, rows=tuple(kept[:chosen.rows] if chosen.rows else kept))
    table = rows.without(table, chosen.ignore)
    methods = [method(name) for name in chosen.methods or METHODS[chosen.report]]
    run = Run(table, methods, command.settings_for(chosen), chosen.out,
              measure if chosen.table else demo_table.measure_demo, by_method=True)
    try:
        return run.finish(command.workers_for(chosen, metered=True))
    finally:
        report(run, chosen.report, chosen.against or AGAINST_IN[chosen.report])


def report(run: Run, name: str, against: str) -> None:
    """Write report.html and table.tex of a report, and print its tables."""
    lines = complete(run.folder.lines(run.entries), {e.method.name for e in run.entries})
    if not lines:
        print("No edit is finished under every method yet.")
        return
    files = {(entry.row.name, entry.method.name): run.folder.file(entry) for entry in run.entries}
    around = {entry.row.name: [("source", entry.row.image),
                               *([("true edit", entry.row.truth)] if entry.row.truth else [])]
              for entry in run.entries}
    edits, asked = (len(names) for names in ({line["name"] for line in lines}, around))
    counted = f"{edits} of {asked} edits, those that every method has finished"
    said = (f"{counted}; {lines[0]['checkpoint']}, {lines[0]['steps']} steps, guidance "
            f"{lines[0]['guidance']}. Under each picture: inside / outside in dB.")
    folder = run.folder.path
    stem = "report" if name == "table" else name
    (folder / f"{stem}.html").write_text(
        paper_page.page(lines, files, around, against, said), encoding="utf-8")
    (folder / f"{stem}.tex").write_text(paper_page.latex(lines), encoding="utf-8")
    print(f"{counted}\n\n{paper_page.markdown(lines, against)}\n\n{folder / stem}.html",
          flush=True)


def complete(lines: Sequence[Line], methods: Collection[str]) -> list[Line]:
    """The lines of edits that every method has finished, so that all means are over the same."""
    finished = Counter(str(line["name"]) for line in lines)
    return [line for line in lines if finished[str(line["name"])] == len(methods)]


if __name__ == "__main__":
    sys.exit(main())
