"""An edit as rows of one attention against edited maps written out."""

from dataclasses import replace

import pytest
import torch
from stylediffusion_pack.stylediffusion.method import edit_plan
from stylediffusion_pack.stylediffusion.method.alignment import Alignment
from stylediffusion_pack.stylediffusion.method.data import PromptEmbedding, ValueEmbedding
from stylediffusion_pack.stylediffusion.method.prompt_to_prompt import (
    Control,
    Target,
    Window,
    WordMasks,
    WordWindow,
)

STEPS, TOKENS, CELLS, WIDTH = 4, 5, 9, 3
CPU = torch.device("cpu")
COND, UNCOND = 0, 1


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def target(mapper: torch.Tensor, aligned: list[float], **more: object) -> Target:
    return Target("", "", [], Alignment(mapper, torch.tensor(aligned)), **more)  # type: ignore


REPLACED = target(drawn(TOKENS, TOKENS, seed=1), [1.0] * TOKENS)
REFINED = target(drawn(TOKENS, TOKENS, seed=2) * torch.tensor([1, 1, 0, 1, 1]),
                 [1.0, 1.0, 0.0, 1.0, 1.0], emphasis=1 + drawn(TOKENS, seed=3))
EARLY = replace(REPLACED, windows={"tau_c": Window(0.0, 0.3), "tau_s": Window(0.0, 0.3)})
WORDED = target(drawn(TOKENS, TOKENS, seed=4), [1.0] * TOKENS,
                word_windows=(WordWindow((2,), Window(0.0, 0.3)),))
HALF = target(drawn(TOKENS, TOKENS, seed=8), [0.5] * TOKENS, emphasis=2 * torch.ones(TOKENS))
SILENT = target(drawn(TOKENS, TOKENS, seed=9), [1.0] * TOKENS, emphasis=torch.zeros(TOKENS))
EDITS = {
    "aligned by halves": (HALF,), "silenced": (SILENT,),
    "replace": (REPLACED,), "refine": (REFINED,), "word window": (WORDED,),
    "all at once, with other windows": (EARLY, REFINED, REPLACED, WORDED),
}


def control(targets: tuple[Target, ...]) -> Control:
    return Control("", targets, Window(0, 0.5), Window(0, 0.8), Window(0, 0.8), Window(0, 0.5))


def edited(
    target: Target, source: torch.Tensor, own: torch.Tensor, step: int
) -> torch.Tensor:
    """The edited map as section 3.4 writes it: int(tau_c (N + 1)), per word where asked."""
    def inside(window: Window) -> bool:
        return step < int(window.end * (STEPS + 1))

    aligned = target.alignment.aligned
    changed = source @ target.alignment.mapper * aligned + own * (1 - aligned)
    if target.emphasis is not None:
        changed = changed * target.emphasis
    held = torch.full((TOKENS,), float(inside(target.windows.get("tau_c", Window(0, 0.8)))))
    for word in target.word_windows:
        held[list(word.positions)] = float(inside(word.window))
    return held * changed + (1 - held) * own


@pytest.mark.parametrize("kinds", [(1, 0), (0, 1), (0,)])
@pytest.mark.parametrize("name", EDITS)
def test_one_attention_with_more_rows_is_the_edited_map_on_the_targets_values(
    name: str, kinds: tuple[int, ...]
) -> None:
    targets = EDITS[name]
    rows = 1 + len(targets)
    plan = edit_plan.make_plan(control(targets), None, STEPS, CPU)
    maps = drawn(rows * len(kinds), CELLS, TOKENS, seed=5).softmax(-1)
    values = drawn(rows * len(kinds), TOKENS, WIDTH, seed=6)
    for step in range(STEPS):
        chunks = list(zip(kinds, maps.split(rows), values.split(rows), strict=True))
        wanted = torch.cat([
            seen @ heard if kind == UNCOND else torch.stack([
                seen[0] @ heard[0],
                *(edited(t, seen[0], seen[i], step) @ heard[i] for i, t in enumerate(targets, 1)),
            ]) for kind, seen, heard in chunks])
        mixed, second = [], []
        for kind, _, heard in chunks:
            first, own = plan.phases[step].mixed(heard) if kind == COND else (heard, heard[:0])
            mixed.append(first)
            second.append(own)
        call = plan.call_rows(step, kinds, heat=False)
        found = call.folded(call.queries(maps) @ torch.cat([*mixed, *second]))
        assert torch.allclose(found, wanted, atol=1e-6), step


def test_rows_look_with_the_sources_query_inside_their_windows() -> None:
    """tau_s of 0.8 holds int(4 * .8) = 3 steps, of 0.3 one; tau_u of 0.5 two."""
    plan = edit_plan.make_plan(control((EARLY, REPLACED)), None, STEPS, CPU)
    found = [[None if rows is None else rows.tolist()
              for rows in (plan.self_rows(step, (UNCOND, COND)), plan.self_rows(step, (COND,)))]
             for step in range(STEPS)]
    assert found == [
        [[0, 0, 0, 3, 3, 3], [0, 0, 0]], [[0, 0, 0, 3, 4, 3], [0, 1, 0]],
        [[0, 1, 2, 3, 4, 3], [0, 1, 0]], [None, None]]


def test_the_source_hears_the_embedding_at_every_step_and_targets_inside_tau_v() -> None:
    scale, shift = drawn(STEPS, 77, WIDTH, seed=7), drawn(STEPS, 77, WIDTH, seed=8)
    longer = Alignment(torch.eye(77), torch.ones(77))
    embedding = ValueEmbedding(scale, shift, guidance=7.5, prompt="", fingerprint="")
    plan = edit_plan.make_plan(
        control((replace(REPLACED, alignment=longer),)), embedding, STEPS, CPU)
    values = drawn(2, 154, WIDTH, seed=9)
    for step in range(STEPS):
        heard = torch.cat([values[:, :77] * scale[step] + shift[step],
                           values[:, 77:] * scale[step] + shift[step]], 1)
        wanted = heard if step < 2 else torch.stack([heard[0], values[1]])
        assert torch.allclose(plan.embedded(step, values), wanted, atol=1e-6), step


@pytest.mark.parametrize("name", EDITS)
def test_watched_rows_sum_the_words_columns_of_both_maps(name: str) -> None:
    words = WordMasks(torch.tensor([0.0, 1, 0, 0, 0]), torch.tensor([0.0, 1, 1, 0, 0]))
    away = WordMasks(torch.tensor([0.0, 0, 0, 1, 0]), torch.tensor([0.0, 0, 0, 0, 1]))
    targets = tuple(replace(t, blend=words, subtract=away) for t in EDITS[name])
    plan = edit_plan.make_plan(control(targets), None, STEPS, CPU)
    assert plan.heat_targets == len(targets)
    maps = drawn(1 + len(targets), CELLS, TOKENS, seed=5).softmax(-1)
    for step in range(STEPS):
        phase = plan.phases[step]
        call = plan.call_rows(step, (COND,), heat=True)
        seen = call.queries(maps)[call.first_heat_row :] @ phase.heat_columns
        found = seen.unflatten(0, (-1, len(targets))).sum(0)
        for i, own in enumerate(targets):
            whole = edited(own, maps[0], maps[i + 1], step)
            wanted = torch.stack([maps[0] @ words.source, maps[0] @ away.source,
                                  whole @ words.target, whole @ away.target], -1)
            assert torch.allclose(found[i], wanted, atol=1e-6), (step, i)


def test_steps_at_which_nothing_holds_change_no_row() -> None:
    never = Window(0, 0)
    plan = edit_plan.make_plan(
        Control("", (REPLACED,), never, never, never, never), None, STEPS, CPU)
    for step in range(STEPS):
        call = plan.call_rows(step, (UNCOND, COND), heat=True)
        assert call.query is None and call.partner is None
        assert plan.self_rows(step, (UNCOND, COND)) is None
        assert not plan.phases[step].injects_self and not plan.phases[step].injects_cross


NEVER, ALWAYS = Window(0, 0), Window(0, 1)
WORDS = WordMasks(torch.tensor([0.0, 1, 0, 0, 0]), torch.tensor([0.0, 1, 1, 0, 0]))


def held(tau: str, *targets: Target, window: Window = ALWAYS) -> Control:
    """A control whose windows are all empty but one."""
    taus = ("tau_v", "tau_c", "tau_s", "tau_u")
    return Control("", targets, *(window if name == tau else NEVER for name in taus))


def prompts(steps: int = STEPS) -> PromptEmbedding:
    return PromptEmbedding(
        drawn(steps, 77, WIDTH), UNCOND, guidance=7.5, prompt="", fingerprint="")


@pytest.mark.parametrize(("chosen", "embedding", "active"), [
    (None, None, False), (None, prompts(), True), (held("tau_v", REPLACED), None, False),
    (held("none", REPLACED), None, False), (held("tau_c", REPLACED), None, True),
    (held("tau_s", REPLACED), None, True), (held("tau_u", REPLACED), None, True),
    (held("none", replace(REPLACED, blend=WORDS)), None, True),
    (held("tau_s", REPLACED, window=Window(0.5, 0.8)), None, True),
])
def test_a_plan_is_active_where_any_step_does_anything(
    chosen: Control | None, embedding: PromptEmbedding | None, active: bool
) -> None:
    assert edit_plan.make_plan(chosen, embedding, STEPS, CPU).is_active is active


@pytest.mark.parametrize("tau", ["tau_s", "tau_u"])
def test_either_branch_alone_injects_self_attention(tau: str) -> None:
    phase = edit_plan.make_plan(held(tau, REPLACED), None, STEPS, CPU).phases[0]
    inside, outside = (COND, UNCOND) if tau == "tau_s" else (UNCOND, COND)
    assert phase.injects_self and phase.self_sources == {inside: (0, 0), outside: (0, 1)}


def test_without_a_control_the_source_runs_alone_as_it_is() -> None:
    plan = edit_plan.make_plan(None, None, STEPS, CPU)
    assert plan.rows == 1 and plan.steps == STEPS and plan.heat_targets == 0
    values = drawn(1, 77, WIDTH)
    for step, phase in enumerate(plan.phases):
        assert phase.embedded.shape == (1, 1, 1) and phase.embedded.all()
        assert phase.self_sources == {COND: (0,), UNCOND: (0,)}
        assert not (phase.injects_self or phase.injects_cross or phase.heat_rows)
        first, second = phase.mixed(values)
        assert torch.equal(first, values) and second.shape == (0, 77, WIDTH)
        for kinds in ((UNCOND, COND), (COND,), (UNCOND,)):
            assert plan.self_rows(step, kinds) is None
            call = plan.call_rows(step, kinds, heat=True)
            assert (call.count, call.query, call.partner) == (len(kinds), None, None)
            assert call.first_heat_row == len(kinds)


def test_heat_rows_are_there_only_in_layers_that_are_watched_and_at_steps_that_watch() -> None:
    watched = held("tau_c", replace(REFINED, blend=WORDS))
    plan = edit_plan.make_plan(watched, None, STEPS, CPU)
    assert plan.phases[0].heat_columns.shape[-1] == edit_plan.HEAT_COLUMNS
    sizes = {heat: len(plan.call_rows(0, (UNCOND, COND), heat).query) for heat in (False, True)}
    assert sizes == {False: 4 + 1, True: 4 + 1 + 2}, "two rows of each branch, one twice, two seen"
    plain = edit_plan.make_plan(held("tau_c", REFINED), None, STEPS, CPU)
    rows = [plain.call_rows(0, (UNCOND, COND), heat) for heat in (False, True)]
    assert rows[0] is rows[1] and len(rows[0].query) == 5


def test_the_usual_calls_of_a_run_are_laid_out_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = held("tau_c", replace(REFINED, blend=WORDS))
    plan = edit_plan.make_plan(watched, None, STEPS, CPU)
    for name in ("_call_rows", "_index"):
        monkeypatch.setattr(edit_plan, name, lambda *_: pytest.fail("made while sampling"))
    for kinds in ((UNCOND, COND), (COND,), (UNCOND,)):
        for step in range(STEPS):
            plan.self_rows(step, kinds)
            for heat in (False, True):
                plan.call_rows(step, kinds, heat)
