"""An inversion in a file."""

from pathlib import Path

import pytest


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    from stylediffusion_pack.stylediffusion.storage import inversion_file

    from tests.storage.inversions import embedding, trajectory  # the pack is there only now

    path = tmp_path / "cat.safetensors"
    inversion_file.save(path, trajectory(), embedding())
    return path
