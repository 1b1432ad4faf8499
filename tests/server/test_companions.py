"""The demo graph with companions in its nodes' place, and their metrics, on the real server."""

import pytest
import torch

from development import examples
from development.examples import Prompt
from development.server import ExecutionError, Server
from tests.graphs import INVERT, LEARN, PREFIX, SAMPLE, changed, short
from training import editing

PROMPTS = PREFIX + "LearnPromptEmbedding"
MODEL = PREFIX + "LoadDemoModel"


@pytest.fixture(scope="module")
def graph(server: Server) -> Prompt:
    return short(examples.prompt("Demo"))


def with_companion(prompt: Prompt, kind: str) -> Prompt:
    """The graph with Learn Prompt Embedding under the id that Learn Value Embedding had."""
    place = examples.node_of(prompt, LEARN)
    kept = {name: prompt[place]["inputs"][name] for name in ("model", "trajectory", "guidance")}
    learning = {"class_type": PROMPTS, "inputs": {
        **kept, "learn": kind, "inner_steps": 10, "learning_rate": 0.01}}
    return {**prompt, place: learning}


@pytest.mark.parametrize("kind", ["null text", "text embedding"])
def test_the_reconstruction_comes_nearer_than_without_and_edits_are_painted(
    server: Server, graph: Prompt, kind: str
) -> None:
    learnt = with_companion(graph, kind)
    sample, save = (examples.node_of(learnt, name) for name in (SAMPLE, "SaveImage"))
    bare = {name: value for name, value in learnt[sample]["inputs"].items()
            if name != "value_embedding"}
    without = {**learnt, sample: {**learnt[sample], "inputs": bare}}
    source = {"class_type": "PreviewImage", "inputs": {
        "images": [examples.node_of(learnt, PREFIX + "DemoScene"), 0]}}
    first = server.images(server.wait(server.queue({**learnt, "source": source})))
    second = server.images(server.wait(server.queue(without)))
    wanted = editing.decoded(first["source"])[0]
    painted, plain = editing.decoded(first[save]), editing.decoded(second[save])
    assert editing.decibels(painted[0], wanted) > editing.decibels(plain[0], wanted) + 1
    assert len(painted) == 3
    for edit in painted[1:]:
        assert not edit.equal(painted[0])


def reconstruction(server: Server, prompt: Prompt) -> torch.Tensor:
    """What Sample paints first."""
    save = examples.node_of(prompt, "SaveImage")
    return editing.decoded(server.images(server.wait(server.queue(prompt)))[save])[0]


def test_an_exact_inversion_comes_back_at_any_guidance_with_nothing_learnt(
    server: Server, graph: Prompt
) -> None:
    """Negative-prompt inversion of a solved trajectory, to what the VAE alone makes of it."""
    nothing = with_companion(graph, "negative prompt")
    exact = changed(nothing, INVERT, inversion="Anderson", iterations=8)
    encode, model = (examples.node_of(graph, kind) for kind in ("VAEEncode", MODEL))
    through = {"class_type": "VAEDecode", "inputs": {"samples": [encode, 0], "vae": [model, 2]}}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["through", 0]}}
    entry = server.wait(server.queue({**exact, "through": through, "shown": shown}))
    images = server.images(entry)
    ceiling = editing.decoded(images["shown"])[0]
    solved = editing.decoded(images[examples.node_of(exact, "SaveImage")])[0]
    plain = reconstruction(server, nothing)
    assert editing.decibels(solved, ceiling) > editing.decibels(plain, ceiling) + 10
    assert editing.decibels(solved, ceiling) > 35


def test_sdedit_is_the_hosts_own_sampler_from_a_noised_picture(
    server: Server, graph: Prompt
) -> None:
    """The more noise, the less of the source is left."""
    encode, model, scene = (
        examples.node_of(graph, kind) for kind in ("VAEEncode", MODEL, PREFIX + "DemoScene"))
    asked: Prompt = {name: graph[name] for name in (encode, model, scene)}
    for name, words in (("target", "a painting of an orange cat in the city"), ("nothing", "")):
        asked[name] = {"class_type": "CLIPTextEncode",
                       "inputs": {"clip": [model, 1], "text": words}}
    asked["source"] = {"class_type": "PreviewImage", "inputs": {"images": [scene, 0]}}
    for strength in (0.3, 0.6, 0.9):
        asked[f"edit {strength}"] = {"class_type": "KSampler", "inputs": {
            "model": [model, 0], "positive": ["target", 0], "negative": ["nothing", 0],
            "latent_image": [encode, 0], "seed": 1, "steps": 8, "cfg": 7.5, "denoise": strength,
            "sampler_name": "ddim", "scheduler": "ddim_uniform"}}
        asked[f"picture {strength}"] = {"class_type": "VAEDecode", "inputs": {
            "samples": [f"edit {strength}", 0], "vae": [model, 2]}}
        asked[f"shown {strength}"] = {"class_type": "PreviewImage", "inputs": {
            "images": [f"picture {strength}", 0]}}
    images = server.images(server.wait(server.queue(asked)))
    source = editing.decoded(images["source"])[0]
    kept = [editing.decibels(editing.decoded(images[f"shown {strength}"])[0], source)
            for strength in (0.3, 0.6, 0.9)]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[2] + 1


def test_edits_are_measured_on_the_server_and_sizes_that_differ_are_named(
    server: Server, graph: Prompt
) -> None:
    scene = examples.node_of(graph, PREFIX + "DemoScene")
    asked: Prompt = {scene: graph[scene], "darker": {"class_type": "ImageBlend", "inputs": {
        "image1": [scene, 0], "image2": [scene, 0], "blend_factor": 0.5,
        "blend_mode": "multiply"}}}
    asked["measured"] = {"class_type": PREFIX + "EditMetrics", "inputs": {
        "reference": [scene, 0], "edit": ["darker", 0], "prompt": "a cat"}}
    for name, image in (("source", scene), ("seen", "darker")):
        asked[name] = {"class_type": "PreviewImage", "inputs": {"images": [image, 0]}}
    entry = server.wait(server.queue(asked))
    images = server.images(entry)
    source, edit = (editing.decoded(images[name])[0] for name in ("source", "seen"))
    (report,) = entry["outputs"]["measured"]["text"]
    told = dict(line.split(": ", 1) for line in report.splitlines()[1:])
    assert float(told["PSNR in dB, whole"]) == pytest.approx(
        editing.decibels(edit + 0.5 / 255, source), abs=0.05)  # a preview rounds down
    assert told["SSIM, unmasked pixels"] == "- (connect mask)"
    assert "models/clip_vision/clip-vit-large-patch14.safetensors is missing" in told[
        "CLIPScore ViT-L/14, whole"]
    asked["smaller"] = {"class_type": "ImageScale", "inputs": {
        "image": [scene, 0], "upscale_method": "area", "width": 64, "height": 96,
        "crop": "disabled"}}
    asked["measured"]["inputs"]["edit"] = ["smaller", 0]
    with pytest.raises(ExecutionError, match="reference is 128x128 pixels but the edit is 64x96"):
        server.wait(server.queue(asked))
