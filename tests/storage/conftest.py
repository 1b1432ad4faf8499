"""An inversion in a file."""

from pathlib import Path

import pytest
from stylediffusion_pack.stylediffusion.storage import inversion_file

from tests.storage.inversions import embedding, trajectory


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "cat.safetensors"
    inversion_file.save(path, trajectory(), embedding())
    return path
