"""A generated picture's way is the host's own Euler over the trajectory's levels."""

from typing import Any

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import apply_torch_compile_factory
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import model as patchers
from stylediffusion_pack.stylediffusion.host.edit import controller, sampling
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.host.invert import generation, inversion
from stylediffusion_pack.stylediffusion.method import prompt_to_prompt

from reference import textbook
from tests import golden

STEPS, GUIDANCE, SEED = 4, 3.0, 8


@pytest.fixture(scope="module")
def parts() -> Any:
    with torch.inference_mode():
        return loading.load_model(), loading.load_clip()


def wishes(**other: Any) -> generation.PictureSettings:
    usual = {"prompt": "a painting of a red car in the snow", "negative_prompt": "", "width": 192,
             "height": 128, "steps": STEPS, "guidance": GUIDANCE, "seed": SEED}
    return generation.PictureSettings(**{**usual, **other})


def test_the_way_is_ddim_from_the_seeds_noise_written_out(parts: Any) -> None:
    model, clip = parts
    with torch.inference_mode():
        trajectory, latent = generation.generate(model, clip, wishes())
        alphas = 1 / (1 + model.model.model_sampling.sigmas.double() ** 2)
        z = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(SEED))
        context = torch.cat([trajectory.negative[0][0], trajectory.positive[0][0]])
        way = [z]
        for here, below in ((751, 501), (501, 251), (251, 1), (1, 0)):
            a, b = float(alphas[here]), float(alphas[below])
            x, sigma = z / a**0.5, ((1 - a) / a) ** 0.5
            clean = textbook.called(
                model, x.repeat(2, 1, 1, 1), torch.full((2,), sigma), context)
            uncond, cond = ((x - clean) / sigma).chunk(2)
            noise = uncond + GUIDANCE * (cond - uncond)
            z = b**0.5 * (z - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise
            way.insert(0, z)
    assert trajectory.latents.shape == (STEPS + 1, 4, 16, 24)
    torch.testing.assert_close(trajectory.latents, torch.cat(way), rtol=1e-4, atol=1e-4)
    scale = model.get_model_object("latent_format").scale_factor
    torch.testing.assert_close(latent["samples"] * scale, way[0], rtol=1e-4, atol=1e-4)


def test_sample_paints_it_again(parts: Any) -> None:
    model, clip = parts
    with torch.inference_mode():
        trajectory, latent = generation.generate(model, clip, wishes())
        again = sampling.sample_edits(Edit(model, trajectory, None, None, GUIDANCE))
    assert golden.relative(again["samples"], latent["samples"]) < 1e-5
    assert trajectory.fingerprint == patchers.fingerprint(model)
    assert {layer.block for layer in trajectory.layers} >= {"input", "output"}


def broken_at(model: Any, step: int) -> Any:
    """The model with a NaN in what it finds at one step."""
    broken, calls = model.clone(), [0]

    def wrapper(apply: Any, args: Any) -> torch.Tensor:
        calls[0] += 1
        found = apply(args["input"], args["timestep"], **args["c"])
        return found * torch.nan if calls[0] == step else found

    broken.set_model_unet_function_wrapper(wrapper)
    return broken


@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_a_model_that_overflows_is_an_error_that_names_the_step(parts: Any, step: int) -> None:
    model, clip = parts
    with torch.inference_mode(), pytest.raises(
            FloatingPointError, match=f"not finite .* step {step} of {STEPS}: the model over"):
        generation.generate(broken_at(model, step), clip, wishes())


@pytest.mark.parametrize("words", [{"prompt": None}, {"negative_prompt": "\ud800"}])
def test_a_prompt_that_is_no_text_is_an_error(parts: Any, words: Any) -> None:
    with pytest.raises(ValueError, match="prompt is"):
        generation.generate(*parts, wishes(**words))


class Compiled(torch.nn.Module):
    """What torch.compile makes under the host: it keeps the form of the options it first saw."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet: Any = unet
        self.dtype = unet.dtype
        self.form: list[str] | None = None

    def forward(self, *args: Any, transformer_options: Any, **kwargs: Any) -> Any:
        form = sorted(transformer_options.get("patches", {}))
        self.form = form if self.form is None else self.form
        assert form == self.form, "compiled code reads what was there when it was compiled"
        return self.unet(*args, transformer_options=transformer_options, **kwargs)


def compiled(model: Any) -> tuple[Any, Compiled]:
    """The model with its UNet in the compiled one's place, by the wrapper of TorchCompileModel."""
    clone, wrapped = model.clone(), Compiled(model.model.diffusion_model)
    clone.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, "torch.compile",
        apply_torch_compile_factory({"diffusion_model": wrapped}))
    return clone, wrapped


@pytest.mark.parametrize("used_before", [False, True])
def test_a_compiled_model_is_inverted_and_generated_with_as_an_uncompiled_one(
    parts: Any, used_before: bool
) -> None:
    model, clip = parts
    torch_compiled, wrapped = compiled(model)
    wrapped.form = [] if used_before else None
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
    with torch.inference_mode():
        for run in (lambda m: generation.generate(m, clip, wishes())[0],
                    lambda m: inversion.invert_latent(m, clip, latent, "a red car", "", 4)):
            plain, other = run(model), run(torch_compiled)
            assert other.latents.equal(plain.latents)
            assert other.layers == plain.layers and len(plain.layers) > 4
    assert wrapped.form == [], "most steps are of the compiled one"


@pytest.mark.parametrize("used_before", [False, True])
def test_a_compiled_model_is_edited_with_as_an_uncompiled_one(
    parts: Any, used_before: bool
) -> None:
    """Windows open and close, so steps differ in their patches."""
    model, clip = parts
    torch_compiled, wrapped = compiled(model)
    wrapped.form = [] if used_before else None
    with torch.inference_mode():
        trajectory = generation.generate(model, clip, wishes())[0]
        edits = controller.make_control(
            clip, trajectory, wishes().prompt + " at night", "auto",
            {tau: prompt_to_prompt.Window(0.0, 0.5) for tau in prompt_to_prompt.TAUS})
        plain, other = (sampling.sample_edits(Edit(m, trajectory, None, edits, GUIDANCE))["samples"]
                        for m in (model, torch_compiled))
        assert other.equal(plain) and not plain[1].equal(plain[0])
        alone, same = (sampling.sample_edits(Edit(m, trajectory, None, None, GUIDANCE))["samples"]
                       for m in (model, torch_compiled))
        assert same.equal(alone)
    assert wrapped.form == [], "without an edit the compiled one samples"
