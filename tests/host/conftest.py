"""Every test has a user directory of its own, so that no run goes on from another's file."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path) -> Iterator[Path]:
    """The pack's folder in it, which learning makes."""
    import folder_paths  # the host is there only now

    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path))
    yield tmp_path / "stylediffusion"
    folder_paths.set_user_directory(before)
