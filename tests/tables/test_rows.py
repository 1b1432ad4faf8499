"""The three forms of a table of edits, and what is wrong with single rows."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from edits import pictures, rows

CAT, TIGER = "a photo of a cat", "a photo of a tiger"


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 8), "red").save(path)
    return path


def csv_table(folder: Path, text: str) -> rows.Table:
    picture(folder / "photos" / "cat.png")
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return rows.read(folder / "table.csv")


def test_a_csv_with_the_released_columns_is_read(tmp_path: Path) -> None:
    table = csv_table(tmp_path, (
        "prompt,image_path,target,blend_word,eq_params,tau_v,tau_c,tau_s,tau_u,edit_type\n"
        f'{CAT},photos/cat.png,{TIGER},"((\'cat\',), (\'tiger\',))",'
        '"{""words"": (""tiger"",), ""values"": (2,)}",0.2,0.4,0.8,0.5,Replace\n'))
    assert table.failures == ()
    assert table.rows == (rows.Row(
        "photos/cat", tmp_path / "photos" / "cat.png", CAT, TIGER, "cat, tiger", "tiger: 2",
        0.2, 0.4, 0.8, 0.5, "replace", "Replace"),)


def test_columns_but_the_first_three_may_be_missing_or_empty(tmp_path: Path) -> None:
    table = csv_table(tmp_path, (
        f"prompt,image_path,target,tau_v\n{CAT},photos/cat.png,{TIGER},\n"))
    (row,) = table.rows
    assert (row.tau_v, row.tau_u, row.blend_words, row.emphasis, row.mode) == (
        None, None, "", "", "auto")


def test_rows_of_one_picture_get_names_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "cat_1.png")
    line = f"{CAT},photos/cat.png,{TIGER}\n"
    table = csv_table(tmp_path, (
        f"prompt,image_path,target\n{line}{line}{CAT},photos/cat_1.png,{TIGER}\n"))
    assert [row.name for row in table.rows] == ["photos/cat_2", "photos/cat_3", "photos/cat_1"]


@pytest.mark.parametrize(("line", "said"), [
    (f"{CAT},photos/dog.png,{TIGER},,,", "dog.png' is not there"),
    (f",photos/cat.png,{TIGER},,,", "the prompt is empty"),
    (f"{CAT},photos/cat.png,,,,", "the target is empty"),
    (f"{CAT},photos/cat.png,{TIGER},,,much", "tau_v 'much' is no share of the steps"),
    (f"{CAT},photos/cat.png,{TIGER},,,1.5", "tau_v '1.5' is no share of the steps"),
    (f'{CAT},photos/cat.png,{TIGER},"((cat,",,', "blend_word '((cat,' cannot be read"),
    (f"{CAT},photos/cat.png,{TIGER},cat; dog,,", "blend_word 'cat; dog' has more than one part"),
])
def test_a_bad_row_is_told_and_the_others_are_kept(tmp_path: Path, line: str, said: str) -> None:
    table = csv_table(tmp_path, (
        "prompt,image_path,target,blend_word,eq_params,tau_v\n"
        f"{line}\n{CAT},photos/cat.png,{TIGER},,,\n"))
    (failure,) = table.failures
    assert said in failure.message
    assert failure.row == "line 2"
    assert [row.target for row in table.rows] == [TIGER]


def test_values_are_read_as_data_and_never_run(tmp_path: Path) -> None:
    spell = "(__import__('pathlib').Path('cast').touch(),)"
    table = csv_table(tmp_path, (
        f'prompt,image_path,target,blend_word\n{CAT},photos/cat.png,{TIGER},"{spell}"\n'))
    assert len(table.failures) == 1
    assert not Path("cast").exists()


def test_a_csv_without_a_needed_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'target'"):
        csv_table(tmp_path, "prompt,image_path\n")


def test_a_folder_has_its_edits_in_captions(tmp_path: Path) -> None:
    picture(tmp_path / "animals" / "cat.png").with_suffix(".txt").write_text(
        f"{CAT}\n\n{TIGER}\na photo of a dog\n")
    picture(tmp_path / "boat.jpg")
    table = rows.read(tmp_path)
    assert [(row.name, row.prompt, row.target) for row in table.rows] == [
        ("animals/cat_1", CAT, TIGER), ("animals/cat_2", CAT, "a photo of a dog")]
    assert [(f.image, f.message[:31]) for f in table.failures] == [
        ("boat.jpg", "'boat.txt' names no edit; its f")]


def test_the_mapping_file_of_pie_bench_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "annotation_images" / "0_random" / "000.jpg")
    (tmp_path / "mapping_file.json").write_text(json.dumps({
        "000": {"image_path": "0_random/000.jpg", "original_prompt": "a [cat]  on a mat",
                "editing_prompt": "a [tiger] on a mat", "blended_word": "cat tiger",
                "editing_type_id": "1", "mask": [513, 2, 1030, 1]},
        "001": {"image_path": "0_random/000.jpg", "original_prompt": "a cat",
                "editing_prompt": "a cat [asleep]", "blended_word": "", "mask": []}}))
    first, second = rows.read(tmp_path / "mapping_file.json").rows
    assert (first.prompt, first.target, first.blend_words, first.kind) == (
        "a cat on a mat", "a tiger on a mat", "cat, tiger", "1")
    assert (second.target, second.blend_words) == ("a cat asleep", "")
    mask = pictures.mask(first.mask)
    inner = torch.zeros(512, 512)
    inner[1, 1] = inner[1, 2] = inner[2, 6] = 1
    assert mask.shape == (1, 512, 512)
    assert torch.equal(mask[0, 1:-1, 1:-1], inner[1:-1, 1:-1])
    border = torch.cat([mask[0, 0], mask[0, -1], mask[0, :, 0], mask[0, :, -1]])
    assert border.min() == 1


def test_columns_can_be_left_out(tmp_path: Path) -> None:
    table = csv_table(tmp_path, (
        f"prompt,image_path,target,blend_word,tau_u\n{CAT},photos/cat.png,{TIGER},cat,0.5\n"))
    (row,) = rows.without(table, ["blend_words", "tau_u"]).rows
    assert (row.blend_words, row.tau_u, row.target) == ("", None, TIGER)
