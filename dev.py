"""The one entrance for people who work on StyleDiffusion; needs nothing but Python."""

import argparse
import signal
import sys

HELP = """\
usage: python3 dev.py COMMAND [arguments]

  demo [--out DIR]      edit a picture in the real ComfyUI and write the sheet to DIR (demo_output);
                        with --trials the twelve test scenes instead (five minutes)
  test [pytest args]    run the tests, for example: python3 dev.py test tests/development -k graph;
                        two workers share them where pytest-xdist is installed, -n 0 uses none;
                        --host VERSION runs them with another ComfyUI, such as 0.27.0
  serve [--no-browser] [--port N]
                        open ComfyUI's page with the pack and the demo graph loaded
  lint                  run ruff and the type checker
  bench abuse [--only inputs|kills|folders|interrupts|queue]
                        what ten thousand wrong inputs, kills and broken folders do (an hour)
  bench learn|edit|ops|live|start [--json FILE]
                        how fast, lean and exact learning is, what edits cost (up to an hour;
                        --only picks a part), how many operations and host reads both launch
                        (a minute), what learning keeps in memory at full size (a minute), or what
                        the pack adds to the host's start
  bench compat [--json FILE]
                        which families of models, sizes and other nodes the pack works with, a
                        table each (an hour; --only families|sizes|neighbours|full picks one)
  bench mutants [--only MODULE]
                        which small mistakes in the method no test would notice (hours)
  bench paper [--rows N] [--methods NAME...]
                        the paper's table on sixty edits whose truth is known (an hour; goes on
                        where it was), or on a --table of yours; --report ablations answers those
  edits TABLE --out DIR [--checkpoint NAME] [--method NAME...]
                        edit the pictures of a table, on servers of our own, on --servers URL... or
                        on a cluster with --ray ADDRESS; edits --help says more
  graphs [NAME ...]     save the example graphs of workflows/ and the blocks of subgraphs/ as the
                        real page does, with what their nodes have now, and the API form of each
                        beside them (a minute; needs Chromium or Chrome)
  locales               write the page's English texts (locales/en) anew from the node definitions
  pictures              run the example graphs in the real page and take all pictures of the README,
                        the templates and the help pages (minutes; needs Chromium or Chrome)
  train [args]          train the demo model (python -m training.train)
  evaluate [args]       measure the demo model (python -m training.evaluate)

demo, test, serve, bench, edits and train work on the accelerator that torch sees (CUDA, ROCm, XPU,
MPS); with --cpu behind the command, or where there is none, on the CPU, as all other commands do.
Relative paths are seen from the folder of dev.py.

Every command first makes what is missing: a virtual environment with torch, and ComfyUI, in a
cache directory of yours. The first time takes a few minutes and 9 GB of disk; after that it starts
at once. An interrupted set-up is repaired by the next command.

  STYLEDIFFUSION_CACHE=DIR   keep all that in DIR
  COMFYUI_PATH=DIR           use this ComfyUI and its Python instead and install nothing
  COMFYUI_PYTHON=FILE        the Python that goes with COMFYUI_PATH, if it is not found by itself
  STYLEDIFFUSION_CPU=1       the same as --cpu
"""
MODULES = {
    "demo": "training.demo", "test": "pytest", "serve": "development.serve",
    "lint": "development.checks", "graphs": "development.graphs",
    "locales": "development.locales", "pictures": "gallery.pictures", "train": "training.train",
    "evaluate": "training.evaluate", "edits": "edits",
}
BENCHES = {name: f"bench.{name}" for name in (
    "learn", "edit", "ops", "live", "start", "abuse", "compat", "mutants", "paper")}
NEEDED = {"test": ("pytest",), "lint": ("ruff", "mypy")}
WORKERS = ("-n", "auto", "--dist", "loadfile")  # how many that is, tests/conftest.py says
ON_ACCELERATOR = ("demo", "test", "serve", "bench", "edits", "train")
SIGTERM_CODE = 128 + signal.SIGTERM


def main(arguments: "list[str]") -> int:
    """Run one command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if sys.version_info < (3, 9):  # noqa: UP036 (someone may start it with any Python)
        return complain("dev.py needs Python 3.9 or newer; ComfyUI is happiest with Python 3.11.")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(SIGTERM_CODE))
    from development.environment import SetupError

    try:
        return dispatch(arguments[0], arguments[1:])
    except SetupError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("Interrupted; the next run goes on from here.")


def dispatch(command: str, rest: "list[str]") -> int:
    """Hand one command over to the module that does it, in the environment it needs."""
    from development import device, environment

    if command in ON_ACCELERATOR:
        rest = device.without_option(rest)
    else:
        device.keep_to_cpu()
    module = MODULES.get(command)
    if command == "bench":
        if not rest or rest[0] not in BENCHES:
            return complain(f"Say what to measure: dev.py bench {'|'.join(BENCHES)}")
        module, *rest = BENCHES[rest[0]], *rest[1:]
    if module is None:
        return complain(f"There is no command '{command}'.\n\n{HELP}")
    version = environment.HOST_VERSION
    if command == "test":
        parser = argparse.ArgumentParser(prog="dev.py test", add_help=False, allow_abbrev=False)
        parser.add_argument("--host", default=version)
        chosen, rest = parser.parse_known_args(rest)
        version = chosen.host
    found = environment.ensure(say, version)
    found.require(*NEEDED.get(command, ()))
    if command == "test" and not found.missing("xdist"):
        rest = [*WORKERS, *rest]
    return found.run(module, *rest)


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def complain(sentence: str) -> int:
    """Print what is wrong; the exit code is 1."""
    print(sentence, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
