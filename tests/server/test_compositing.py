"""Keep Unedited Pixels in the real ComfyUI: the demo graph on a photo larger than the model's."""

import io
from typing import Any

import pytest
import torch
from PIL import Image

from demo import drawing
from development import examples
from development.examples import Prompt
from development.server import ExecutionError, Server
from tests.graphs import CONTROL, SAMPLE, short
from training import editing, trials

KEEP, SCENE, ENCODE, DECODE = (
    "StyleDiffusionKeepPixels", "StyleDiffusionDemoScene", "VAEEncode", "VAEDecode")
WIDTH, HEIGHT = 413, 406
FEATHER = 12


def photo() -> bytes:
    """The demo's scene, larger, and with a grain that no VAE gives back."""
    image = drawing.draw(trials.DEMO.scene).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((WIDTH, HEIGHT), 40).convert("RGB")
    written = io.BytesIO()
    Image.blend(image, grain, 0.1).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    """The photo is scaled to 133 x 131, which the VAE crops to 128 x 128."""
    prompt = short(examples.prompt("Demo"))
    scene, encode, decode = (examples.node_of(prompt, kind) for kind in (SCENE, ENCODE, DECODE))
    invert = prompt[examples.node_of(prompt, "StyleDiffusionDDIMInvert")]
    invert["inputs"]["prompt"] = "a painting of a brown cat in the city"
    prompt[scene] = {"class_type": "LoadImage", "inputs": {
        "image": server.upload_image("larger.png", photo())}}
    prompt["scaled"] = {"class_type": "ImageScale", "inputs": {
        "image": [scene, 0], "upscale_method": "lanczos", "width": 133, "height": 131,
        "crop": "disabled"}}
    prompt[encode]["inputs"]["pixels"] = ["scaled", 0]
    sample = examples.node_of(prompt, SAMPLE)
    prompt["kept"] = {"class_type": KEEP, "inputs": {
        "image": [scene, 0], "edits": [decode, 0], "mask": [sample, 1], "feather": FEATHER}}
    prompt["masks"] = {"class_type": "MaskToImage", "inputs": {"mask": [sample, 1]}}
    for name, source in (("photo", scene), ("images", "kept"), ("shown masks", "masks")):
        prompt[name] = {"class_type": "PreviewImage", "inputs": {"images": [source, 0]}}
    return prompt


@pytest.fixture(scope="module")
def entry(server: Server, graph: Prompt) -> dict[str, Any]:
    return server.wait(server.queue(graph))


@pytest.fixture(scope="module")
def pictures(server: Server, entry: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    return {name: editing.decoded(files) for name, files in server.images(entry).items()}


def reach(mask: torch.Tensor) -> torch.Tensor:
    """Where an edit may show in the photo: its mask, moved and scaled by hand, and the feather."""
    rows, columns = (mask[..., 0] > 0.5).nonzero().unbind(1)
    found = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        top, left = (y + 1) * HEIGHT / 131, (x + 2) * WIDTH / 133
        found[max(0, int(top) - FEATHER - 4) : int(top) + FEATHER + 8,
              max(0, int(left) - FEATHER - 4) : int(left) + FEATHER + 8] = True
    return found


def test_the_edits_come_at_the_photos_size_and_the_rest_is_the_photo(
    pictures: dict[str, list[torch.Tensor]]
) -> None:
    (photo,) = pictures["photo"]
    first, *edits = pictures["images"]
    assert first.equal(photo) and photo.shape == (HEIGHT, WIDTH, 3)
    assert len(edits) == len(pictures["shown masks"]) == 2
    for edit, mask in zip(edits, pictures["shown masks"], strict=True):
        away = ~reach(mask)
        assert 0.3 < away.float().mean() < 0.95
        assert edit[away].equal(photo[away])
        assert (edit - photo).abs().amax(-1)[~away].max() > 0.2, "the edit shows in its mask"


def test_the_node_says_that_nothing_differs_and_how_much_is_kept(
    entry: dict[str, Any], pictures: dict[str, list[torch.Tensor]]
) -> None:
    (said,) = entry["outputs"]["kept"]["text"]
    first, second = said.splitlines()
    assert first == "difference outside the edits: 0"
    shares = [float(part.strip(" %")) for part in second.partition(":")[2].split(",")]
    assert shares[0] == 100
    for share, edit in zip(shares[1:], pictures["images"][1:], strict=True):
        same = (edit == pictures["photo"][0]).all(-1).float().mean()
        assert share / 100 <= same + 0.001 and 30 < share < 95


def test_a_photo_of_another_shape_is_an_error_with_the_remedy(
    server: Server, graph: Prompt
) -> None:
    cropped = {"class_type": "ImageScale", "inputs": {
        **graph["scaled"]["inputs"], "width": 300, "height": 200}}
    kept = {**graph["kept"], "inputs": {**graph["kept"]["inputs"], "image": ["other", 0]}}
    with pytest.raises(ExecutionError, match="the image is 300 x 200, but the edits are 128 x 128"):
        server.wait(server.queue({**graph, "other": cropped, "kept": kept}))


def test_without_a_region_the_log_says_that_nothing_is_kept(
    server: Server, graph: Prompt
) -> None:
    control = examples.node_of(graph, CONTROL)
    everywhere = {**graph[control], "inputs": {**graph[control]["inputs"], "blend_words": ""}}
    entry = server.wait(server.queue({**graph, control: everywhere}))
    assert entry["outputs"]["kept"]["text"][0].endswith("100.0 %, 5.8 %, 5.8 %")
    assert "mask 1 covers the whole picture" in server.log.read_text(encoding="utf-8")
