"""A table of edits: every picture inverted and learnt once, and all edits beside a CSV.

    python3 dev.py edits TABLE --out DIR [--checkpoint NAME] [--method NAME...]

TABLE is a .csv (columns prompt, image_path, target and, as you like, blend_word, eq_params, tau_v,
tau_c, tau_s, tau_u, edit_type, true_edit), PIE-Bench's mapping_file.json, or a folder of pictures
with a .txt beside each: its first line describes the picture, every further line is an edit. Texts
are UTF-8. DIR may lie inside that folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from development import examples

from . import rows
from .engine import Unfinished, Worker
from .graphs import Settings
from .methods import DEFAULT, GRAMMAR, INVERSIONS, method
from .ray_workers import ray_workers
from .running import Run
from .workers import Start, UrlWorker, own_workers

DEMO_SIDE = 128
COLUMNS = ("blend_words", "emphasis", *rows.TAUS)


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Who does the work; shared with bench paper."""
    parser.add_argument("--workers", type=int, default=0,
                        help="how many servers of our own; without it one, or with --ray one a GPU")
    parser.add_argument("--servers", nargs="+", default=[], metavar="URL",
                        help="ComfyUI servers that run already, with this pack installed")
    parser.add_argument("--ray", default="", metavar="ADDRESS|local",
                        help="an actor a server on this Ray cluster")
    parser.add_argument("--models", default="", metavar="DIR",
                        help="where checkpoints/ and clip_vision/ lie, if not in ComfyUI's folder")


def workers_for(chosen: argparse.Namespace, metered: bool = False) -> Sequence[Worker]:
    """The workers that were asked for."""
    start = Start(models=str(Path(chosen.models).absolute()) if chosen.models else "",
                  metered=metered)
    if chosen.ray:
        return ray_workers(chosen.ray, chosen.workers, start)
    if chosen.servers:
        return [UrlWorker(url) for url in chosen.servers]
    return own_workers(chosen.workers or 1, start)


def settings_for(chosen: argparse.Namespace) -> Settings:
    """The demo model has a size of its own, and the guidance and blend of the example *Demo*."""
    own = Settings()
    if not chosen.checkpoint:
        demo = examples.settings("Demo")
        own = replace(own, side=DEMO_SIDE, guidance=demo.guidance, blend=demo.blend)
    guidance = own.guidance if chosen.guidance is None else chosen.guidance
    return replace(
        own, checkpoint=chosen.checkpoint, clip_vision=chosen.clip_vision, steps=chosen.steps,
        guidance=guidance, side=chosen.side or own.side, seed=chosen.seed)


def add_edit_options(parser: argparse.ArgumentParser) -> None:
    """With what model and numbers; shared with bench paper."""
    parser.add_argument("--checkpoint", default="", help="without it the demo model")
    parser.add_argument("--clip-vision", default="", help="for stylediffusion-exact")
    parser.add_argument("--side", type=int, default=0, help="pictures are brought to the area of a "
                        "square of this side: 512, the demo model's 128")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--guidance", type=float, help=f"{Settings.guidance}, the demo model's "
                        f"{examples.settings('Demo').guidance:g}")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--ignore", nargs="+", default=[], choices=COLUMNS,
                        help="columns of the table that are taken as empty")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where rows failed."""
    parser = argparse.ArgumentParser(
        prog="dev.py edits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", nargs="+", default=[DEFAULT], metavar="NAME",
                        help=f"{', '.join(INVERSIONS)}; for what is not the rows' own, a plus and, "
                        f"{GRAMMAR}")
    add_edit_options(parser)
    add_worker_options(parser)
    chosen = parser.parse_args(arguments)
    try:
        table = rows.without(rows.read(chosen.table, chosen.out), chosen.ignore)
        methods = [method(name) for name in chosen.method]
        run = Run(table, methods, settings_for(chosen), chosen.out)
        return run.finish(workers_for(chosen))
    except (ValueError, Unfinished) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
