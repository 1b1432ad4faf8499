"""What the edits of a batch share in a graph, and what stays each row's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edits.graphs import Entry, Settings, graph
from edits.methods import method
from edits.rows import Row

SAID = [("cat, tiger", "tiger: 2"), ("cat, tiger", "tiger: 2"), ("", ""), ("cat, dog", "dog: 2")]


@pytest.mark.parametrize("places", [(0,), (2,), (0, 1), (2, 2), (0, 2), (2, 3), (0, 1, 2, 3)])
def test_every_row_of_a_batch_has_lists_of_its_own(places: tuple[int, ...]) -> None:
    """One list for all would be refused only where its words are in none of the prompts."""
    rows = [Row(f"edit{n}", Path("photo.png"), "a cat", f"a tiger {n}", *SAID[place])
            for n, place in enumerate(places)]
    made = graph([Entry(row, method("ddim")) for row in rows], "photo.png", Settings())
    said = made.prompt["control 0"]["inputs"]
    for column, name in enumerate(("blend_words", "emphasis")):
        assert [part.strip() for part in said[name].split(";")] == [
            SAID[place][column] for place in places]
