"""Words and tokens by the host's own tokenizer, through the demo model's CLIP."""

from typing import Any

import comfy.hooks
import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host import text_encoder


@pytest.fixture(scope="module")
def clip() -> Any:
    return loading.load_clip()


def positions(clip: Any, prompt: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(word.text, word.positions) for word in text_encoder.tokenize(clip, prompt).words]


def test_words_hold_the_positions_of_all_their_tokens(clip: Any) -> None:
    found = positions(clip, "a brown cat, sitting")
    assert found == [("a", (1,)), ("brown", (2,)), ("cat,", (3, 4)), ("sitting", (5,))]


@pytest.mark.parametrize("weighted, plain", [
    ("a (brown:1.3) cat", "a brown cat"),
    ("a (brown cat:1.3), sitting", "a brown cat, sitting"),
    ("((a)) brown (cat)", "a brown cat"),
])
def test_weights_leave_the_words_as_they_are(clip: Any, weighted: str, plain: str) -> None:
    assert positions(clip, weighted) == positions(clip, plain)


@pytest.mark.parametrize("prompt", [
    "a (red:0) cat", "(a (red:1.2) cat:0.5)", "a cat BREAK a dog", "a <lora:wool:1> cat",
    "a cat's whiskers, e-mail & x/y", "ein schöner Kater, 猫 и кот 🐈", "a (cat",
    "a cat) \\(dog\\)", "  a \n\t cat  ", "((((a))))", "a [red] {cat}", "a:1.3 (:1.2) ()"])
def test_words_share_out_all_tokens_of_the_hosts_in_order(clip: Any, prompt: str) -> None:
    rows = clip.tokenize(prompt, return_word_ids=True)["l"]
    wanted = [i for i, token in enumerate(t for row in rows for t in row) if token[2]]
    words = text_encoder.tokenize(clip, prompt).words
    assert [place for word in words for place in word.positions] == wanted


def test_escaped_brackets_are_tokens_of_their_word(clip: Any) -> None:
    found = positions(clip, "a cat\\(s\\) (here)")
    assert found == [("a", (1,)), ("cat(s)", (2, 3, 4, 5)), ("here", (6,))]


def test_token_ids_are_one_chunk_of_the_hosts(clip: Any) -> None:
    prompt = text_encoder.tokenize(clip, "a brown cat")
    assert prompt.token_ids[:5] == (49406, 320, 2866, 2368, 49407)
    assert len(prompt.token_ids) == 77 and prompt.length == 5


def test_a_prompt_longer_than_a_chunk_goes_on_after_the_next_start_token(clip: Any) -> None:
    prompt = text_encoder.tokenize(clip, "a " * 74 + "dog, cat")
    assert len(prompt.token_ids) == 154
    places = {word.text: word.positions for word in prompt.words}
    assert places["dog,"] == (75, 78) and places["cat"] == (79,)
    assert prompt.token_ids[76:78] == (49407, 49406) and prompt.token_ids[79:81] == (2368, 49407)
    assert prompt.length == 81


def test_a_weighted_word_that_does_not_fit_starts_the_next_chunk(clip: Any) -> None:
    prompt = text_encoder.tokenize(clip, "a " * 74 + "(brown cat:1.3)")
    places = {word.text: word.positions for word in prompt.words}
    assert places["brown"] == (78,) and places["cat"] == (79,)


def test_prompts_that_a_schedule_changes_on_the_way_are_an_error_with_a_remedy() -> None:
    clip = loading.load_clip()
    name = next(iter(clip.patcher.model.state_dict()))
    hooks = comfy.hooks.create_hook_lora({}, 0.0, 1.0)
    hooks.hooks[0].weights = {name: ("diff", (torch.zeros(()),))}
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.5, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(frames)
    with torch.inference_mode():
        (scheduled,) = SetClipHooks().apply_hooks(clip, True, True, hooks)
        (steady,) = SetClipHooks().apply_hooks(clip, False, True, hooks)
        for hooked in (scheduled, steady):
            with pytest.raises(ValueError, match="changes its strength .* take Set Hook Keyframes"):
                text_encoder.encode(hooked, "a brown cat")


def test_prompts_of_which_only_some_have_hooks_are_not_painted_together() -> None:
    clip = loading.load_clip()
    prompts = []
    with torch.inference_mode():
        for _ in range(2):
            hooks = comfy.hooks.create_hook_lora({}, 1.0, 0.0)
            (hooked,) = SetClipHooks().apply_hooks(clip, False, True, hooks)
            prompts.append(text_encoder.encode(hooked, "a brown cat"))
            prompts.append(text_encoder.encode(hooked, "a dog"))
        plain = text_encoder.encode(clip, "a dog")
    (_, extra), = text_encoder.stacked(prompts[:2])
    assert extra["hooks"] is prompts[0][0][1]["hooks"]
    for other in (plain, prompts[2]):
        for pair in ([prompts[0], other], [other, prompts[0]]):
            with pytest.raises(ValueError, match="have hooks.*that the others have not.*same CLIP"):
                text_encoder.stacked(pair)


def test_a_checkpoint_without_text_encoder_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="connect a CLIP loader"):
        text_encoder.encode(None, "a cat")


def test_prompts_from_a_file_and_new_ones_meet_on_the_first_ones_device() -> None:
    """As under --gpu-only, where the host keeps new prompts on the card."""
    def entry(device: str) -> Any:
        return [(torch.zeros(1, 77, 8, device=device),
                 {"pooled_output": torch.zeros(1, 8, device=device)})]

    (tensor, extra), = text_encoder.stacked([entry("meta"), entry("cpu")])
    assert tensor.shape == (2, 77, 8) and extra["pooled_output"].shape == (2, 8)
    assert {tensor.device.type, extra["pooled_output"].device.type} == {"meta"}
