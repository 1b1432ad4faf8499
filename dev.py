"""The one entrance for people who work on StyleDiffusion; needs nothing but Python."""

import argparse
import signal
import sys
from pathlib import Path

HELP = """\
usage: python3 dev.py COMMAND [arguments]

  demo [--out DIR]      edit a picture in the real ComfyUI and write the sheet to DIR (demo_output);
                        with --trials the twelve test scenes instead (five minutes)
  test [pytest args]    run the tests, for example: python3 dev.py test tests/development -k graph;
                        two workers share them where pytest-xdist is installed, -n 0 uses none
  serve [--no-browser] [--port N]
                        open ComfyUI's page with the pack and the demo graph loaded
  lint                  run ruff and the type checker
  bench learn|edit|ops|start [--json FILE]
                        how fast, lean and exact learning is, what edits cost (up to an hour;
                        --only picks a part), how many operations and host reads both launch
                        (a minute), or what the pack adds to the host's start
  bench compat [--json FILE]
                        which families of models, sizes and other nodes the pack works with, a
                        table each (an hour; --only families|sizes|neighbours|full picks one)
  bench mutants [--only MODULE]
                        which small mistakes in the method no test would notice (hours)
  graphs                draw the example graphs of workflows/ and the blocks of subgraphs/ anew from
                        the node definitions
  locales               write the page's English texts (locales/en) anew from the node definitions
  pictures              run the example graphs in the real page and take all pictures of the README,
                        the templates and the help pages (minutes; needs Chromium or Chrome)
  train [args]          train the demo model (python -m training.train)
  evaluate [args]       measure the demo model (python -m training.evaluate)

demo, test, serve and bench work on the accelerator that torch sees (CUDA, ROCm, XPU, MPS); with
--cpu behind the command, or where there is none, on the CPU, as all other commands do.

Every command first makes what is missing: a virtual environment with torch, and ComfyUI, in a
cache directory of yours. The first time takes some minutes and 11 GB of disk, of which 8 stay;
after that it starts at once. An interrupted set-up is repaired by the next command.

  STYLEDIFFUSION_CACHE=DIR   keep all that in DIR
  COMFYUI_PATH=DIR           use this ComfyUI and its Python instead and install nothing
  COMFYUI_PYTHON=FILE        the Python that goes with COMFYUI_PATH, if it is not found by itself
  STYLEDIFFUSION_CPU=1       the same as --cpu
"""
MODULES = {
    "graphs": "development.graphs", "locales": "development.locales",
    "pictures": "development.pictures", "train": "training.train", "evaluate": "training.evaluate",
}
WORKERS = ("-n", "auto", "--dist", "loadfile")  # how many that is, tests/conftest.py says
ON_ACCELERATOR = ("demo", "test", "serve", "bench")
BENCHES = {name: f"bench.{name}" for name in (
    "learn", "edit", "ops", "start", "compat", "mutants")}
SIGTERM_CODE = 128 + signal.SIGTERM


def main(arguments: "list[str]") -> int:
    """Run one command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if sys.version_info < (3, 9):  # noqa: UP036 (someone may start it with any Python)
        return complain("dev.py needs Python 3.9 or newer; ComfyUI is happiest with Python 3.11.")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(SIGTERM_CODE))
    from development.server import ServerError
    from development.steps import SetupError

    try:
        return dispatch(arguments[0], arguments[1:])
    except (SetupError, ServerError) as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("Interrupted; the next run goes on from here.")


def dispatch(command: str, rest: "list[str]") -> int:
    """Hand one command over to what does it."""
    from development import checks, device, environment, serve

    if command in ON_ACCELERATOR:
        rest = device.without_option(rest)
    else:
        device.keep_to_cpu()
    if command in MODULES:
        return environment.ensure(say).run(MODULES[command], *rest)
    if command == "test":
        found = environment.ensure(say)
        found.require("pytest")
        return found.run("pytest", *(() if found.missing("xdist") else WORKERS), *rest)
    if command == "bench":
        if not rest or rest[0] not in BENCHES:
            return complain(f"Say what to measure: dev.py bench {'|'.join(BENCHES)}")
        return environment.ensure(say).run(BENCHES[rest[0]], *rest[1:])
    parser = argparse.ArgumentParser(prog=f"dev.py {command}")
    if command == "demo":
        parser.add_argument("--out", default="demo_output", help="where the pictures go")
        parser.add_argument("--trials", action="store_true", help="the twelve test scenes instead")
        chosen = parser.parse_args(rest)
        more = ["--trials"] if chosen.trials else []
        out = Path(chosen.out).absolute()
        return environment.ensure(say).run("development.demo", "--out", str(out), *more)
    if command == "serve":
        parser.add_argument("--no-browser", action="store_true", help="only print the address")
        parser.add_argument("--port", type=int, help="a port of your choice, else a free one")
        chosen = parser.parse_args(rest)
        return serve.run(environment.ensure(say), not chosen.no_browser, chosen.port)
    if command == "lint":
        parser.parse_args(rest)
        found = environment.ensure(say)
        found.require("ruff", "mypy")
        return checks.run(found)
    return complain(f"There is no command '{command}'.\n\n{HELP}")


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def complain(sentence: str) -> int:
    """Print what is wrong; the exit code is 1."""
    print(sentence, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
