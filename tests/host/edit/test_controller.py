"""From lines of text to a CONTROL, and every way the lines can be wrong."""

import logging
from typing import Any

import pytest
import torch
from stylediffusion_pack.demo import loading
from stylediffusion_pack.stylediffusion.host.edit import controller, guider
from stylediffusion_pack.stylediffusion.host.edit.request import Edit
from stylediffusion_pack.stylediffusion.method import data, prompt_to_prompt, schedule

SOURCE = "a painting of a brown cat"
WINDOWS = {name: prompt_to_prompt.Window(0.0, 0.5) for name in ("tau_v", "tau_c", "tau_s", "tau_u")}


@pytest.fixture(scope="module")
def clip() -> Any:
    return loading.load_clip()


def trajectory(prompt: str = SOURCE, steps: int = 4) -> data.Trajectory:
    levels = schedule.make_levels(steps, torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))
    return data.Trajectory(
        torch.zeros(steps + 1, 4, 16, 16), levels, prompt, "", [], [], (), "0" * 16)


def embedding(steps: int = 4, prompt: str = SOURCE) -> data.ValueEmbedding:
    table = torch.zeros(steps, 77, 8)
    return data.ValueEmbedding(
        table, table, guidance=7.5, prompt=prompt, fingerprint="0" * 16)


def make(clip: Any, targets: str, mode: str = "auto") -> prompt_to_prompt.Control:
    return controller.make_control(clip, trajectory(), targets, mode, WINDOWS)


def test_every_line_is_an_edit_and_auto_chooses_by_word_count(clip: Any) -> None:
    made = make(clip, "a painting of a brown boat\n  a painting of a big brown cat  \n")
    assert [(t.prompt, t.mode) for t in made.targets] == [
        ("a painting of a brown boat", "replace"), ("a painting of a big brown cat", "refine")]


def test_a_forced_mode_stands_where_auto_would_choose_another(clip: Any) -> None:
    """Forced Refine leaves the one changed word, at position 6, its own map; Replace does not."""
    for mode, kept in (("refine", [6]), ("replace", []), ("auto", [])):
        (target,) = make(clip, "a painting of a brown boat", mode).targets
        assert target.mode == ("refine" if mode == "refine" else "replace")
        assert (target.alignment.aligned == 0).nonzero().flatten().tolist() == kept


def test_no_target_is_an_error_with_a_remedy(clip: Any) -> None:
    with pytest.raises(ValueError, match="targets is empty; write the edited prompt"):
        make(clip, "  \n ")


def test_an_empty_line_between_targets_is_an_error_that_counts_lines(clip: Any) -> None:
    with pytest.raises(ValueError, match="line 2 of targets is empty"):
        make(clip, "a painting of a brown boat\n\na painting of a brown cup")


def test_forced_replace_with_another_word_count_names_both_prompts(clip: Any) -> None:
    with pytest.raises(ValueError, match=f"'{SOURCE}' has 6 words and 'a brown cat' has 3"):
        make(clip, "a brown cat", "replace")


def test_a_target_equal_to_the_source_is_a_warning_that_quotes_it(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stylediffusion"):
        make(clip, f"{BOAT}\n{SOURCE}\n{BIG}")
    (said,) = caplog.messages
    assert said.startswith(f"line 2 of targets, '{SOURCE}', is the source prompt itself")


def test_a_control_of_another_prompt_names_both_and_the_socket(clip: Any) -> None:
    with pytest.raises(ValueError, match="'a painting of a brown cat'.*'a boat'.*connect the same"):
        Edit(None, trajectory("a boat"), None, make(clip, "a brown boat"))


def test_an_embedding_over_other_steps_names_both_counts() -> None:
    with pytest.raises(ValueError, match="learnt over 7 steps, but the trajectory has 4"):
        Edit(None, trajectory(), embedding(7))


def test_an_embedding_of_another_prompt_names_both() -> None:
    with pytest.raises(ValueError, match="'a boat'.*'a painting of a brown cat'"):
        Edit(None, trajectory(), embedding(prompt="a boat"))


def test_a_latent_of_another_size_names_both_sizes() -> None:
    with pytest.raises(ValueError, match="1 x 4 x 24 x 16.*1 x 4 x 16 x 16; connect the latent"):
        guider.require_size(torch.zeros(1, 4, 24, 16), trajectory())


def wished(clip: Any, targets: str, **wishes: str) -> prompt_to_prompt.Control:
    return controller.make_control(
        clip, trajectory(), targets, "auto", WINDOWS, controller.WordOptions(**wishes))


def tokens(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


BOAT, BIG = "a painting of a brown boat", "a painting of a big brown cat"


def test_blend_words_are_looked_for_in_source_and_target(clip: Any) -> None:
    first, second = wished(clip, f"{BOAT}\n{BIG}", blend_words="cat, boat").targets
    assert first.blend is not None and second.blend is not None
    assert (tokens(first.blend.source), tokens(first.blend.target)) == ([6], [6])
    assert (tokens(second.blend.source), tokens(second.blend.target)) == ([6], [7])


def test_a_line_a_target_gives_each_its_own_blend_and_an_empty_one_none(clip: Any) -> None:
    made = wished(clip, f"{BOAT}\n{BIG}", blend_words="boat;", subtract_words="painting")
    assert made.blends
    assert made.targets[0].blend is not None and made.targets[1].blend is None
    assert tokens(made.targets[0].subtract.target) == [2]


def test_emphasis_is_a_factor_at_the_words_tokens_where_it_occurs(clip: Any) -> None:
    first, second = wished(clip, f"{BOAT}\n{BIG}", emphasis="brown: 2, big: 0.5").targets
    assert first.emphasis is not None and second.emphasis is not None
    assert (tokens(first.emphasis != 1), tokens(second.emphasis != 1)) == ([5], [5, 6])
    assert second.emphasis[5] == 0.5 and second.emphasis[6] == 2


def test_emphasis_between_semicolons_is_of_one_target_each(clip: Any) -> None:
    first, second, third = wished(
        clip, f"{BOAT}\n{BIG}\n{BOAT}", emphasis="boat: 3; brown: 2, big: 0.5;").targets
    assert first.emphasis is not None and second.emphasis is not None and third.emphasis is None
    assert first.emphasis.tolist() == [3 if i == 6 else 1 for i in range(77)]
    assert second.emphasis.tolist() == [{5: 0.5, 6: 2}.get(i, 1) for i in range(77)]
    with pytest.raises(ValueError, match="'big', written in emphasis"):
        wished(clip, f"{BOAT}\n{BIG}", emphasis="big: 2; big: 2")
    with pytest.raises(ValueError, match="'boat', written in emphasis"):
        wished(clip, f"{BOAT}\n{BIG}", emphasis="boat: 2; boat: 2")


def test_emphasis_alone_makes_an_edit_of_the_source_prompt(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="stylediffusion"):
        wished(clip, SOURCE, emphasis="brown: 3")
    assert not caplog.text


def test_windows_override_a_tau_and_give_words_their_own(clip: Any) -> None:
    made = wished(clip, BOAT, windows="tau_c: 0.1-0.6, boat: 0-0.2")
    (target,) = made.targets
    assert made.window("tau_c", target) == prompt_to_prompt.Window(0.1, 0.6)
    assert made.window("tau_s", target) == prompt_to_prompt.Window(0.0, 0.5)
    assert target.word_windows == (
        prompt_to_prompt.WordWindow((6,), prompt_to_prompt.Window(0.0, 0.2)),
    )


def test_windows_between_semicolons_are_of_one_target_each(clip: Any) -> None:
    made = wished(clip, f"{BOAT}\n{BIG}", windows="tau_s: 0.3, boat: 0.2; tau_s: 0.9-1, cat: 0-0.4")
    assert [made.window("tau_s", t) for t in made.targets] == [
        prompt_to_prompt.Window(0.0, 0.3), prompt_to_prompt.Window(0.9, 1.0)]
    assert [t.word_windows[0] for t in made.targets] == [
        prompt_to_prompt.WordWindow((6,), prompt_to_prompt.Window(0.0, 0.2)),
        prompt_to_prompt.WordWindow((7,), prompt_to_prompt.Window(0.0, 0.4))]


def test_windows_on_several_lines_are_one_list_for_all_targets(clip: Any) -> None:
    made = wished(clip, f"{BOAT}\n{BIG}", windows="tau_s: 0.3\ntau_c: 0.2")
    assert [made.window("tau_c", t).end for t in made.targets] == [0.2, 0.2]


@pytest.mark.parametrize(("wish", "message"), [
    ({"blend_words": "tiger"}, "'tiger', written in blend_words, is not in 'a painting"),
    ({"subtract_words": "tiger"}, "'tiger', written in subtract_words"),
    ({"emphasis": "tiger: 2"}, "'tiger', written in emphasis"),
    ({"emphasis": "cat: 2"}, f"'cat', written in emphasis, is not in '{BOAT}'"),
    ({"emphasis": "boat: loud"}, "the emphasis 'loud' of 'boat'"),
    ({"windows": "tiger: 0-0.5"}, "'tiger', written in windows"),
    ({"windows": "tau_c: 0.6-0.1"}, "the window '0.6-0.1' of 'tau_c' must run"),
    ({"blend_words": "cat; boat"}, "blend_words has 2 parts .* the number of targets is 1"),
])
def test_a_wish_that_does_not_fit_is_quoted(
    clip: Any, wish: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        wished(clip, BOAT, **wish)


@pytest.mark.parametrize(("source", "target", "mapper"), [
    ("cat", "tiger", {1: [1]}), ("cat", "cat,", {1: [1, 2]}), ("Cat", "(tiger:1.3)", {1: [1]}),
    ("brachiosaurus", "dog", None),
])
def test_a_source_of_one_word_is_replaced_refined_blended_and_emphasised(
    clip: Any, source: str, target: str, mapper: dict[int, list[int]] | None
) -> None:
    word = target.strip("(),:.13")
    (made,) = controller.make_control(
        clip, trajectory(source), target, "auto", WINDOWS,
        controller.WordOptions(f"{word}: 2", f"{word}: 0-0.3", source, "")).targets
    assert made.mode == "replace" and made.alignment.aligned[1] == 1
    if mapper is not None:
        for old, new in mapper.items():
            assert made.alignment.mapper[old, new].tolist() == [1 / len(new)] * len(new)
    else:  # several tokens of one word are heard together by the one token in their place
        own = made.alignment.mapper[:, 1].nonzero().flatten().tolist()
        assert len(own) > 1 and own == list(range(1, 1 + len(own)))
    assert made.emphasis is not None and made.emphasis[1] == 2
    assert made.blend is not None and tokens(made.blend.source)[0] == 1
    (longer,) = controller.make_control(
        clip, trajectory(source), f"a {source}", "auto", WINDOWS).targets
    assert longer.mode == "refine" and longer.alignment.aligned[:3].tolist() == [1, 0, 1]


def test_commas_case_and_weights_find_the_words_a_person_means(clip: Any) -> None:
    (made,) = controller.make_control(
        clip, trajectory("A Painting, of a (Brown:1.2) Cat."), "a painting, of a (brown:0.8) TIGER",
        "auto", WINDOWS, controller.WordOptions(
            "tiger: 1.5, BROWN: 0.5", "(tiger): 0-0.4", "cat, Tiger", "painting")).targets
    assert made.mode == "replace" and made.blend is not None and made.subtract is not None
    assert tokens(made.blend.source) == [7, 8] and tokens(made.blend.target) == [7]
    assert tokens(made.subtract.source) == tokens(made.subtract.target) == [2, 3]
    assert made.emphasis is not None
    assert made.emphasis[6] == 0.5 and made.emphasis[7] == 1.5
    assert made.word_windows == (
        prompt_to_prompt.WordWindow((7,), prompt_to_prompt.Window(0.0, 0.4)),
    )
    assert made.alignment.mapper[7:9, 7].tolist() == [1, 1]


def painted(clip: Any, mask: torch.Tensor, **wishes: str) -> prompt_to_prompt.Control:
    return controller.make_control(
        clip, trajectory(), f"{BOAT}\n{BIG}", "auto", WINDOWS, controller.WordOptions(**wishes),
        mask=mask)


def test_a_painted_mask_stands_in_for_the_blend_words(clip: Any) -> None:
    made = painted(clip, torch.ones(1, 128, 128), blend_words="cat, boat", subtract_words="a")
    assert made.blends and not made.reads_words
    for target in made.targets:
        assert target.mask is not None and target.mask.shape == (16, 16) and target.subtract is None


def test_blend_words_are_still_read_for_mistakes_beside_a_mask(clip: Any) -> None:
    with pytest.raises(ValueError, match="'tiger', written in blend_words"):
        painted(clip, torch.ones(1, 128, 128), blend_words="tiger")


def test_a_mask_in_which_nothing_is_painted_is_no_mask(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Load Image gives zeros for a picture without a mask: the edits show as without it."""
    with caplog.at_level(logging.INFO, logger="stylediffusion"):
        made = painted(clip, torch.zeros(1, 64, 64), blend_words="cat, boat")
    assert made.reads_words and all(target.mask is None for target in made.targets)
    assert not painted(clip, torch.zeros(1, 64, 64)).blends
    assert "nothing is painted in the mask, so it is left out; paint the region" in caplog.text


def test_of_several_masks_only_those_that_are_painted_stand_in_for_words(clip: Any) -> None:
    made = painted(clip, torch.stack([torch.zeros(64, 64), torch.ones(64, 64)]), blend_words="cat")
    first, second = made.targets
    assert first.mask is None and first.blend is not None
    assert second.mask is not None and second.blend is None
    assert made.word_targets == [0]


def test_a_mask_with_one_painted_cell_is_not_called_empty(
    clip: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, 30, 30] = 1
    with caplog.at_level(logging.INFO, logger="stylediffusion"):
        made = painted(clip, mask)
        assert make(clip, BOAT).targets[0].mask is None
    assert made.targets[0].mask is not None and made.targets[1].mask is not None
    assert not caplog.messages
