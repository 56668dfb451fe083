"""Newlines that compete with visual tokens inside the language model, as HoliTom's release has it."""

import pytest
import torch
from torch import nn

import dycoke
from dycoke.families import adapter_for
from dycoke.methods import DynamicPruning
from dycoke.methods.holitom import HoliTomInner
from dycoke.types import Plan
from tests.core.stages.test_inside import HoliTom, model_of, prompt
from tests.support.decode_oracle import Paper
from tests.support.inside_oracle import answer
from tests.support.subjects import SUBJECTS, Clip, greedy_with_logits

LAYER, COUNT, R = 2, 4, 0.4
ROWS = {
    "videos": [[5, 6, Clip(2), 7, 8, 9], [4, 5, 6], [4, Clip(2, 1), Clip(2, 2), 8]],
    "image": [[5, 6, Clip(None), 7, 8]],
    "beside": [[5, Clip(None), 6, Clip(2, 1), 7, 8], [4, 6, 7]],
}
CASES = [(name, rows, None) for name in ("llava", "llava_grid", "llava_frame", "hf") for rows in ("videos", "image")]
CASES += [("llava_grid", "beside", None), ("llava_grid", "videos", 3), ("hf", "videos", 3)]


class Causal(nn.Module):
    """The language model of a subject and its head."""

    def __init__(self, subject) -> None:
        super().__init__()
        self.model, self.lm_head = subject.language_model(), subject.model.lm_head
        self.config = self.model.config


class Published(HoliTom):
    def __init__(self, r: float, newlines: list[int]) -> None:
        super().__init__(r)
        self.newlines = tuple(newlines)


def run(subject, plan: Plan, prompts):
    """Ids and logits of an answer, the stages inside, and the embeddings [S, D] that each row's prefill was."""
    seen = []

    def note(module, args, kwargs):
        if not seen:
            embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
            real = torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
            seen.extend((embeds[row][real[row]], int(real[row].int().argmax())) for row in range(len(embeds)))

    with dycoke.attach(subject.model, plan, trace=True) as attached:
        hook = subject.language_model().register_forward_pre_hook(note, with_kwargs=True)
        ids, logits = greedy_with_logits(subject, prompts, max_new_tokens=COUNT, min_new_tokens=COUNT)
        hook.remove()
        return ids, torch.stack(logits, 1), attached.report.inside, seen


def columns_of(subject, embeds) -> tuple[list[int], list[int]]:
    """Columns of a row's visual tokens and of its newlines, told from the text by their embeddings."""
    inner = subject.model.model
    newline = getattr(inner, "image_newline", None)
    table = subject.language_model().embed_tokens.weight
    text = (embeds[:, None] == table).all(2).any(1)
    line = torch.zeros_like(text) if newline is None else (embeds == newline).all(1)
    return (~text & ~line).nonzero().flatten().tolist(), line.nonzero().flatten().tolist()


@pytest.mark.parametrize("name,rows,observed", CASES)
@torch.no_grad()
def test_prompt_and_answer_are_the_oracles(name, rows, observed):
    """observed: first layer that reads less while decoding, too."""
    subject, prompts = SUBJECTS[name](), ROWS[rows]
    plan = Plan(inside=HoliTomInner(LAYER, R, "published"), decode=observed and DynamicPruning(observed, 0.5))
    ids, logits, (stage,), seen = run(subject, plan, prompts)
    tokens = 0
    for number, (embeds, padding) in enumerate(seen):
        visual, newlines = columns_of(subject, embeds)
        rules = {LAYER: Published(R, newlines)}
        policy = {"layer": observed, "policy": Paper(0.5)} if observed else {}
        prefill, decoded = answer(Causal(subject), embeds, visual, rules, COUNT, ids=ids[number].tolist(), **policy)
        kept = [padding + column for column in prefill.entered[LAYER]]
        assert [c for c in stage.columns[number] if padding <= c < padding + len(embeds)] == kept
        assert len(embeds) - len(kept) == len(visual + newlines) - round((1 - R) * len(visual + newlines))
        tokens += len(set(prefill.entered[LAYER]) & set(visual))
        torch.testing.assert_close(logits[number].double(), decoded.logits, atol=1e-4, rtol=0)
    assert stage.tokens == tokens  # a report counts visual tokens, and newlines are none


@pytest.mark.parametrize(
    "name,rows", [("llava_grid", 8), ("llava_frame", 2), ("llava", 1), ("hf", 1), ("llava_llama", 0)]
)
def test_newlines_take_places(name, rows):
    """Two frames, in layouts of one newline a row, a frame, a video, or none: text is what stays whatever competes."""
    subject, prompts = SUBJECTS[name](), [[5, 6, Clip(2), 7, 8, 9]]
    left = []
    for newlines in ("kept", "published"):
        _, _, (stage,), ((embeds, _),) = run(subject, Plan(inside=HoliTomInner(LAYER, 0.5, newlines)), prompts)
        left.append(len(stage.columns[0]))
    visual = 2 * subject.grid[0] * subject.grid[1]
    assert len(embeds) == 5 + visual + rows and len(columns_of(subject, embeds)[1]) == rows
    assert left == [5 + rows + round(visual / 2), 5 + round((visual + rows) / 2)]


def test_a_count_that_depends_on_newlines_is_not_announced_but_bound():
    kept, published = HoliTomInner(18, 0.5), HoliTomInner(18, 0.7, "published")
    assert kept.count(100) == 50 and kept.bound(100, 28) == 18 * 100 + 10 * 50
    assert published.count(100) is None and published.bound(100, 28) == 18 * 100 + 10 * 60
    assert HoliTomInner(18, 0.3, "published").bound(100, 28) == 28 * 100


def test_a_bare_language_model_knows_no_newlines():
    model, given = model_of("qwen2"), prompt("tvvvvvvt")
    plan = Plan(inside=dycoke.build("holitom", layer=2, newlines="published").plan().inside)
    told = r"newlines='published': Qwen2ForCausalLM does not tell newlines from text"
    with pytest.raises(ValueError, match=told), dycoke.attach(model, plan, visual=given.visual):
        pass
    assert adapter_for(model).knows_newlines is False
