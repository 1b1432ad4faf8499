"""The real ComfyUI's console when it starts with the pack; test_examples.py reads it after that."""

import pytest

from development.server import Server
from tests import logs


def test_the_start_is_without_a_complaint(server: Server) -> None:
    start, ready, _ = logs.read(server).partition("To see the GUI go to")
    assert ready and "Import times for custom nodes" in start
    assert logs.complaints(start) == []


@pytest.mark.parametrize("line", [
    "[WARNING] 4 steps stop short of the noise",
    "[ERROR] !!! Exception during processing !!!",
    "\r 50%|#####     | 2/4\r[WARNING] said amid a progress bar",
    "Traceback (most recent call last):",
    "somewhere/file.py:3: UserWarning: said by a library",
    "    0.1 seconds (IMPORT FAILED): custom_nodes/stylediffusion",
])
def test_a_complaint_is_found_whoever_says_it(line: str) -> None:
    assert len(logs.complaints(f"[INFO] before\n{line}\n[INFO] after\n")) == 1


def test_what_is_only_told_is_no_complaint() -> None:
    assert logs.complaints("[INFO] Prompt executed in 3.1 seconds\n100%|###| 4/4 [00:01]\n") == []
