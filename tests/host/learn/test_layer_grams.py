"""How strongly tokens and channels are heard, against sums over the recorded UNet's own layers."""

from typing import Any

import comfy.samplers
import pytest
import torch
from stylediffusion_pack.stylediffusion.host.invert import inversion
from stylediffusion_pack.stylediffusion.host.learn import layer_grams
from stylediffusion_pack.stylediffusion.host.learn.unet import HostLearningModel
from stylediffusion_pack.stylediffusion.host.model import training_alphas
from stylediffusion_pack.stylediffusion.method.layers import supervising_layers
from stylediffusion_pack.stylediffusion.method.schedule import make_levels

from tests import golden

WIDTH, LEVEL = 64, 2


class Looking(comfy.samplers.Sampler):
    """Asks for the grams and for the maps where the host would sample."""

    def __init__(self, levels: Any, layers: Any, latent: torch.Tensor) -> None:
        self.levels, self.layers, self.latent = levels, layers, latent
        self.grams: Any = None
        self.maps: Any = None

    def sample(self, model_wrap: Any, sigmas: torch.Tensor, extra_args: Any, *rest: Any,
               **more: Any) -> torch.Tensor:
        model = HostLearningModel(
            model_wrap, extra_args["model_options"], self.levels, sigmas, self.layers)
        self.grams = (model.token_gram(self.latent, LEVEL),
                      model.channel_gram(torch.zeros(77, WIDTH)))
        self.maps = model.maps(self.latent, LEVEL)
        return self.latent


def looked(tokens: int) -> Looking:
    generator = torch.Generator().manual_seed(9)
    model = golden.load_unet()
    cond, uncond = ([(torch.randn(1, tokens, WIDTH, generator=generator), {})] for _ in range(2))
    levels = make_levels(4, training_alphas(model))
    latent = torch.randn(1, 4, 16, 16, generator=generator)
    inverted = inversion.run_inversion(model, latent, cond, levels)
    layers = supervising_layers(inverted.layers, 16, 16)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(cond, uncond)
    found = Looking(levels, layers, latent)
    guider.sample(torch.zeros_like(latent), latent, found, levels.sigmas.float(),
                  disable_pbar=True)
    return found


def test_the_token_gram_is_the_sum_of_the_maps_squares_with_chunks_folded() -> None:
    for tokens in (77, 154):
        found, wanted = looked(tokens), torch.zeros(77, 77)
        for one in found.maps:
            folded = sum(part for part in one.split(77, dim=-1))
            gram = torch.einsum("hct,hcu->tu", folded, folded)
            wanted += gram / gram.diagonal().sum()
        torch.testing.assert_close(found.grams[0], wanted, rtol=1e-4, atol=1e-6)


def test_the_channel_gram_is_that_of_the_value_and_output_weights() -> None:
    unet = golden.load_unet().model.diffusion_model
    weights, wanted, layers = dict(unet.named_parameters()), torch.zeros(WIDTH, WIDTH), 0
    for name, value in weights.items():
        if name.endswith("attn2.to_v.weight"):
            out = weights[name.replace("to_v.weight", "to_out.0.weight")]
            both = (out @ value).detach()
            gram = both.T @ both
            wanted, layers = wanted + gram / gram.trace(), layers + 1
    assert layers == 16
    found = layer_grams.channel_gram(unet, torch.zeros(1, WIDTH))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_both_grams_are_summed_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_copies(own: Any) -> Any:
        def run(self: Any, *arguments: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("a copy to the CPU"))
                return own(self, *arguments)

        return run

    for name in ("token_gram", "channel_gram"):
        monkeypatch.setattr(
            HostLearningModel, name, without_copies(getattr(HostLearningModel, name)))
    found = looked(77)
    assert found.grams[0].shape == (77, 77) and found.grams[1].shape == (WIDTH, WIDTH)
    meta = torch.zeros(1, WIDTH, device="meta")
    assert layer_grams.channel_gram(torch.nn.Identity(), meta).device.type == "meta"
