"""Loads ComfyUI and the pack for the tests: the pack under one fixed name, as the host would.

Under pytest-xdist every worker does so, and the process that hands the tests out to them does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from development.device import host_arguments
from reference.pack import load_pack

WORKERS = 2
FIRST = ("tests/browser/", "tests/server/")  # what takes longest must not begin last


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported."""
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    if _hands_out(config):
        return
    if os.environ.get("COMFYUI_PATH"):
        _load_host()
    load_pack()


def _hands_out(config: pytest.Config) -> bool:
    spread = config.getoption("dist", "no") != "no" and not config.option.collectonly
    return spread and not hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two, and none for a single file, which is soonest done by this process."""
    files = {argument.split("::")[0] for argument in config.args}
    alone = config.option.collectonly or (len(files) == 1 and files.pop().endswith(".py"))
    return 0 if alone or os.cpu_count() == 1 else WORKERS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays with one worker, and so does the page: two browsers at once are too slow.

    Files go out in the order of their tests; by itself xdist keeps those of few tests, which may
    take minutes, for the end, when one worker is idle.
    """
    config.option.loadscopereorder = False
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return FIRST[0] if nodeid.startswith(FIRST[0]) else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order in which workers get the tests."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="session", autouse=True)
def user_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The host's, for what is learnt in fixtures: no session goes on from a killed one's file."""
    if not os.environ.get("COMFYUI_PATH"):
        yield
        return
    import folder_paths  # the host is there only now

    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))
    yield
    folder_paths.set_user_directory(before)


def _load_host() -> None:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    # The server tests run the host's own choice on a CPU, which is slower on long sequences.
    arguments = sys.argv
    where = host_arguments(Path(sys.executable))
    sys.argv = [sys.argv[0], *where, "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  (reads sys.argv once)
    import torch

    torch.backends.cudnn.allow_tf32 = False  # the tests' tolerances are those of whole fp32
    sys.argv = arguments
