"""The three forms of a table of edits, and what is wrong with single rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edits import pictures, rows
from edits.__main__ import main

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
    (f"{CAT},photos/cat.png,{TIGER},cat\uff1b,,", "blend_word 'cat\uff1b' has more than one part"),
    (f'{CAT},photos/cat.png,{TIGER},"({{\'cat\': 1}},)",,', "blend_word '({'cat': 1},)' cannot be"),
    (f'{CAT},photos/cat.png,{TIGER},"({{[]: 1}},)",,', "blend_word '({[]: 1},)' cannot be read"),
    (f"{CAT},photos/cat.png,{TIGER},,{{'tiger'}},", "eq_params '{'tiger'}' cannot be read"),
    (f"{CAT},photos/cat.png,{TIGER},,{{'tiger': 'much'}},", "gives 'tiger' the number 'much'"),
    (f"{CAT},photos/cat.png,{TIGER},,{{2: 'tiger'}},", "gives 2 the number 'tiger'"),
    (f"{CAT},photos/cat.png,{TIGER},,{{'words': 'tiger'}},", "names 1 words and 0 values"),
    (f"{CAT},,{TIGER},,,", "image_path is empty"),
    (f"{CAT},.,{TIGER},,,", "which image_path names, cannot be opened: Is a directory"),
    (f"{CAT},photos,{TIGER},,,", "photos', which image_path names, cannot be opened: Is a dir"),
    (f"{CAT},{'a cat ' * 50},{TIGER},,,", "which image_path names, cannot be opened: File name"),
    (f"{CAT},photos\0,{TIGER},,,", "which image_path names, cannot be opened: embedded null"),
    (CAT, "image_path is empty"),
    (f"{CAT},photos/cat.png,a cat, a dog,,,tiger", "'tiger' stands behind the last column"),
])
def test_a_bad_row_is_told_and_the_others_are_kept(tmp_path: Path, line: str, said: str) -> None:
    table = csv_table(tmp_path, (
        "prompt,image_path,target,blend_word,eq_params,tau_v\n"
        f"{line}\n{CAT},photos/cat.png,{TIGER},,,\n"))
    (failure,) = table.failures
    assert said in failure.message
    assert failure.row == "line 2"
    assert [row.target for row in table.rows] == [TIGER]


@pytest.mark.parametrize(("written", "wanted"), [
    ('{"tiger": 2}', "tiger: 2"), ('{"tiger": -1, "big cat": 0.5}', "tiger: -1, big cat: 0.5"),
    ('{"words": "tiger", "values": 2}', "tiger: 2"), ("{}", ""), ("tiger: 2", "tiger: 2"),
])
def test_emphasis_is_read_in_all_its_forms(tmp_path: Path, written: str, wanted: str) -> None:
    quoted = written.replace('"', '""')
    table = csv_table(tmp_path, (
        f'prompt,image_path,target,eq_params\n{CAT},photos/cat.png,{TIGER},"{quoted}"\n'))
    assert [row.emphasis for row in table.rows] == [wanted]


def test_a_true_edit_that_is_not_there_is_told(tmp_path: Path) -> None:
    line = f"{CAT},photos/cat.png,{TIGER}"
    table = csv_table(tmp_path, (
        f"prompt,image_path,target,true_edit\n{line},true.png\n{line},photos/cat.png\n"))
    assert [row.truth for row in table.rows] == [tmp_path / "photos" / "cat.png"]
    assert [failure.row for failure in table.failures] == ["line 2"]
    assert "true.png' is not there; write its path from " in table.failures[0].message
    assert table.failures[0].message.endswith("into true_edit")


def test_values_are_read_as_data_and_never_run(tmp_path: Path) -> None:
    spell = "(__import__('pathlib').Path('cast').touch(),)"
    table = csv_table(tmp_path, (
        f'prompt,image_path,target,blend_word\n{CAT},photos/cat.png,{TIGER},"{spell}"\n'))
    assert len(table.failures) == 1
    assert not Path("cast").exists()


def test_a_csv_without_a_needed_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'target'"):
        csv_table(tmp_path, "prompt,image_path\n")


@pytest.mark.parametrize(("name", "data", "said"), [
    ("none.csv", None, "none.csv' is not there; give a table of edits, or a folder of pictures"),
    ("folder", None, "folder' is not there; give a table of edits, or a folder of pictures"),
    ("table.txt", b"", "table.txt' is no table of edits"),
    ("table.csv", b"", "no column 'image_path'"),
    ("table.csv", "prompt,image_path,target\ncaf\u00e9,,\n".encode("latin-1"),
     "table.csv' is not in UTF-8, from its byte 28 on; save it as UTF-8"),
    ("table.csv", b'prompt,image_path,target\n"' + b"a cat\n" * 30000,
     "table.csv' cannot be read, at its line .* look for a quote that is not closed"),
    ("map.json", b'{"000": ', "map.json' is no JSON: Expecting value: line 1"),
    ("map.json", b"[]", "map.json' holds no entries by name; give PIE-Bench's mapping_file.json"),
    ("map.json", b'{"caf\xe9": 1}', "map.json' is not in UTF-8, from its byte 5 on"),
])
def test_what_is_no_table_is_refused_by_its_name(
    tmp_path: Path, name: str, data: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        rows.read(tmp_path / name)
    assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
    assert str(tmp_path / name) in capsys.readouterr().err


def test_a_caption_that_is_not_utf_8_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    for name, encoding in (("bar", "latin-1"), ("cat", "utf-8-sig")):
        picture(tmp_path / f"{name}.png").with_suffix(".txt").write_text(
            "a caf\u00e9\na bar\n", encoding=encoding)
    table = rows.read(tmp_path)
    assert [(row.name, row.prompt) for row in table.rows] == [("cat", "a caf\u00e9")]
    (failure,) = table.failures
    assert failure.image == "bar.png"
    assert failure.message == (
        f"'{tmp_path / 'bar.txt'}' is not in UTF-8, from its byte 5 on; save it as UTF-8")


@pytest.mark.parametrize("out", ["edited", "animals/edited", "../edited", ".."])
def test_what_lies_in_the_output_folder_is_none_of_the_pictures(tmp_path: Path, out: str) -> None:
    folder = tmp_path / "photos"
    picture(folder / "animals" / "cat.png").with_suffix(".txt").write_text(f"{CAT}\n{TIGER}\n")
    before = rows.read(folder, folder / out)
    assert [row.name for row in before.rows] == ["animals/cat"]
    picture(folder / out / "animals" / "cat.png")
    picture(folder / out / "ddim" / "animals" / "cat_1.png")
    assert rows.read(folder, folder / out) == before


def test_the_folder_of_the_pictures_cannot_be_the_output_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the folder of the pictures itself.*--out .*edited"):
        rows.read(tmp_path, tmp_path / "animals" / "..")


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


@pytest.mark.parametrize(("changed", "said"), [
    ({"editing_prompt": ...}, "editing_prompt is missing"),
    ({"editing_prompt": None}, "editing_prompt is None; write it as a text"),
    ({"editing_prompt": "[ ]"}, "the target is empty"),
    ({"original_prompt": ["a cat"]}, r"original_prompt is ['a cat']; write it as a text"),
    ({"image_path": ...}, "image_path is missing"), ({"image_path": 7}, "image_path is 7"),
    ({"image_path": ""}, "image_path is empty"), ({"image_path": "001.jpg"}, "is not there"),
    ({"blended_word": "cat"}, "blended_word 'cat' is not a word of the prompt and one of the"),
    ({"blended_word": ["cat", "tiger"]}, "blended_word is ['cat', 'tiger']; write it as a text"),
    ({"mask": "x 2"}, "mask holds 'x', which is no number of pixels"),
    ({"mask": [0.5, 2]}, "mask holds 0.5"), ({"mask": [-4, 2]}, "mask holds -4"),
    ({"mask": [1, 2, 3]}, "mask has 3 numbers, an odd count"), ({"mask": 5}, "mask 5 is no list"),
    (["a cat", "a tiger"], "original_prompt is missing"), (None, "original_prompt is missing"),
])
def test_a_bad_entry_of_a_mapping_is_told_and_the_others_are_kept(
    tmp_path: Path, changed: Any, said: str
) -> None:
    picture(tmp_path / "annotation_images" / "000.jpg")
    good = {"image_path": "000.jpg", "original_prompt": CAT, "editing_prompt": TIGER,
            "blended_word": None, "mask": None}
    bad = {**good, **changed} if isinstance(changed, dict) else changed
    if isinstance(bad, dict):
        bad = {key: value for key, value in bad.items() if value is not ...}
    (tmp_path / "mapping_file.json").write_text(json.dumps({"000": bad, "001": good}))
    table = rows.read(tmp_path / "mapping_file.json")
    assert [(row.target, row.blend_words, row.mask) for row in table.rows] == [(TIGER, "", ())]
    (failure,) = table.failures
    assert failure.row == "entry 000"
    assert said in failure.message


def test_columns_can_be_left_out(tmp_path: Path) -> None:
    table = csv_table(tmp_path, (
        f"prompt,image_path,target,blend_word,tau_u\n{CAT},photos/cat.png,{TIGER},cat,0.5\n"))
    (row,) = rows.without(table, ["blend_words", "tau_u"]).rows
    assert (row.blend_words, row.tau_u, row.target) == ("", None, TIGER)
