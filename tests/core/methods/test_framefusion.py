"""FrameFusion against the oracle: what merges and what is pruned at each layer, and every logit behind it."""

import itertools

import pytest
import torch

import dycoke
from dycoke.methods.framefusion import drop_ratio
from dycoke.types import Prompt
from tests.support.decode_small import VISUAL, embeds, qwen
from tests.support.inside_oracle import Rule, answer
from tests.support.naive import cosine
from tests.support.subjects import STILLS, Clip, HFSubject, LlavaSubject, greedy_with_logits

COUNT = 3
ROWS = {
    "one": [[5, 6, Clip(4), 7]],
    "two videos": [[5, Clip(3, 1), 6, Clip(4, 2), 7]],
    "batch": [[5, 6, Clip(4, 1), 7], [5, Clip(4, 2), 7, 8, 9], [4, 5, 6]],
}


class Fusion:
    """One request's state as the method is described. place: column -> (video, patch, frame)."""

    def __init__(self, place, cost, similarity, least, layers) -> None:
        self.place, self.cost, self.similarity, self.least, self.layers = place, cost, similarity, least, layers
        self.spent, self.phase, self.log = [], "merging" if place else "done", []

    def allowed(self) -> float:
        left, used = 1.0, 0.0
        for share in self.spent:
            left *= 1 - share
            used += left
        return min(1.0, max(0.0, 1 - (self.layers * self.cost - used) / ((self.layers - len(self.spent)) * left)))

    def affords(self, share: float) -> bool:
        """Whether something of the cost is left for the next layer once `share` of the tokens is gone."""
        left, used = 1.0, 0.0
        for each in [*self.spent, share]:
            left *= 1 - each
            used += left
        return used < self.layers * self.cost or len(self.spent) + 1 == self.layers


class Enter(Rule):
    def __init__(self, fusion: Fusion) -> None:
        self.fusion, self.joins = fusion, {}

    def keep(self, view):
        fusion, self.joins = self.fusion, {}
        if fusion.phase == "merging":
            return self._merging(fusion, view)
        if fusion.phase == "pruning":
            fusion.phase = "done"
            count = round(len(view.visual) * (1 - fusion.allowed()))
            order = sorted(view.visual, key=lambda c: (-float(view.previous[c].mean()), c))
            return sorted(order[:count])
        return view.visual

    def _merging(self, fusion, view):
        chains: dict = {}
        for column in view.visual:
            video, patch, frame = fusion.place[column]
            chains.setdefault((video, patch), []).append((frame, column))
        pairs = []
        for key in sorted(chains):
            chain = [column for _, column in sorted(chains[key])]
            pairs += [(cosine(view.hidden[b], view.hidden[a]), a, b) for a, b in itertools.pairwise(chain)]
        above = [pair for pair in pairs if pair[0] >= fusion.similarity]
        total, allowed = len(view.visual), fusion.allowed()
        if len(above) / total < allowed and fusion.affords(len(above) / total):
            fusion.spent.append(len(above) / total)
            fusion.phase = "pruning" if len(above) / total < fusion.least else "merging"
        elif int(allowed * total) <= len(pairs):
            fusion.phase = "done"
            above = sorted(pairs, key=lambda pair: -pair[0])[: int(allowed * total)]
        else:
            fusion.phase, above = "pruning", pairs
            fusion.spent.append(len(pairs) / total)
        self.joins = {b: a for _, a, b in above}
        fusion.log.append(len(above))
        return [column for column in view.visual if column not in self.joins]

    def merge(self, view, kept):
        runs: dict = {}
        for column in view.hidden:
            head = column
            while head in self.joins:
                head = self.joins[head]
            runs.setdefault(head, []).append(view.hidden[column])
        return {column: torch.stack(runs[column]).mean(0) if column in runs else h for column, h in view.hidden.items()}


def seen_by_the_language_model(subject, prompts):
    """Embeddings and mask the language model gets, and which columns are visual, of each row without padding."""
    calls = []
    hook = subject.language_model().register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    greedy_with_logits(subject, prompts, max_new_tokens=1)
    hook.remove()
    embeds, mask = calls[0]["inputs_embeds"], calls[0]["attention_mask"]
    return embeds, torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    "options",
    [
        {"cost": 0.5, "similarity": 0.6, "least": 0.3},
        {"cost": 0.3, "similarity": 0.9, "least": 0.05},
        {"cost": 0.6, "similarity": 0.2, "least": 0.1},
        {"cost": 0.4, "similarity": 0.99, "least": 0.5},
    ],
    ids=["merge, then prune", "little alike", "all of it by merging", "prune at once"],
)
def test_layers_and_logits_are_the_oracles(options, rows):
    subject, prompts = LlavaSubject(), ROWS[rows]
    embeds, real = seen_by_the_language_model(subject, prompts)
    layers = subject.model.config.num_hidden_layers
    with dycoke.attach(subject.model, dycoke.build("framefusion", **options), trace=True) as run:
        ids, steps = greedy_with_logits(subject, prompts, max_new_tokens=COUNT, eos_token_id=None)
        entered = {each.layer: each for each in run.report.inside}
    for number, row in enumerate(prompts):
        padding, visual, place, column = int((~real[number]).sum()), [], {}, 0
        for part in row:
            if isinstance(part, Clip):
                for slot in range(part.frames * 16):
                    place[column] = (row.index(part), slot % 16, slot // 16)
                    visual.append(column)
                    column += 1
            column += 1  # a text token, or the newline behind the video
        fusion = Fusion(place, **options, layers=layers)
        rules = {layer: Enter(fusion) for layer in range(layers)}
        told = ids[number].tolist()
        prefill, decoded = answer(subject.model, embeds[number, padding:], visual, rules, COUNT, ids=told)
        columns = list(range(len(embeds[number]) - padding))
        for layer in range(layers):
            if layer in entered:
                columns = [c - padding for c in entered[layer].columns[number]]
            assert columns == prefill.entered[layer]
        got = torch.stack([step[number] for step in steps]).double()
        # Means are taken in fp32 of hidden states that differ in the last bits.
        torch.testing.assert_close(got, decoded.logits, atol=2e-5, rtol=0)


def test_the_whole_cost_is_the_untouched_model():
    subject, prompts = LlavaSubject(), ROWS["batch"]
    want, logits = greedy_with_logits(subject, prompts, max_new_tokens=COUNT)
    with dycoke.attach(subject.model, dycoke.build("framefusion", cost=1.0)):
        got, steps = greedy_with_logits(subject, prompts, max_new_tokens=COUNT)
    assert torch.equal(got, want)
    torch.testing.assert_close(torch.stack(steps), torch.stack(logits), atol=1e-5, rtol=0)


def test_share_to_drop_makes_up_for_what_was_spent():
    assert drop_ratio([], 0.3, 28) == pytest.approx(0.7)
    # One layer at 80 %: 28 * .3 - .8 is left for 27 layers of .8 each.
    assert drop_ratio([0.2], 0.3, 28) == pytest.approx(1 - 7.6 / (27 * 0.8))
    assert drop_ratio([0.9], 0.9, 28) == 0.0
    assert drop_ratio([0.0, 0.0, 0.0], 0.05, 28) == 1.0
    assert drop_ratio([0.5] * 4, 0.5, 4) == 0.0


def test_a_bare_language_model_knows_no_frames():
    model = qwen()
    with (
        dycoke.attach(model, dycoke.build("framefusion"), visual=VISUAL),
        pytest.raises(ValueError, match="FrameFusion compares frames, and a bare language model knows none"),
    ):
        model(inputs_embeds=embeds())


def request(*rows: list[int], per_frame: int, layers: int, still: int = 0, **options):
    """Pruners and input of layer 0 of rows of videos, all of as many tokens: the changes at each place, by hand.

    rows: for each frame but the first, how many of its places change. A token that does not change is the one before it
    to the bit, one that does has nothing in common with it. Two equal text tokens and `still` equal ones of a picture
    come first.
    """
    frames, lead = len(rows[0]) + 1, 2 + still
    total = lead + frames * per_frame
    hidden = torch.zeros(len(rows), total, total + 1)
    hidden[:, :lead, total] = 1.0
    for row, changes in enumerate(rows):
        number = list(range(per_frame))
        for frame in range(frames):
            for place in range(per_frame):
                slot = frame * per_frame + place
                if frame and place < changes[frame - 1]:
                    number[place] = slot
                hidden[row, lead + slot, number[place]] = 1.0
    visual = (torch.arange(total) >= 2).repeat(len(rows), 1)
    slots = torch.arange(-lead, total - lead).clamp(min=-1).repeat(len(rows), 1)
    prompt = Prompt(visual, layers, slots.clamp(max=0), slots, per_frame)
    return dycoke.build("framefusion", **options).start(prompt), hidden, visual


def enter(pruner, hidden, visual):
    """Input of the layer behind a pruner, and what of it is no padding; scores favour later slots."""
    chosen = pruner.prune(hidden, visual, torch.arange(visual.shape[1]).float().expand(visual.shape))
    if chosen is None:
        return hidden, visual, torch.ones_like(visual)
    index, mask = chosen
    return pruner.merge(hidden, visual, index, mask), visual.gather(1, index) & mask, mask


def test_a_cosine_at_the_threshold_joins():
    pruners, hidden, visual = request([0, 0, 0], per_frame=2, layers=8, cost=0.5, similarity=1.0)
    assert enter(pruners[0], hidden, visual)[1].sum() == 4  # six could join, and half is what the cost asks for


def test_the_least_share_goes_on_merging():
    """Two of eight tokens merge: .25 is not under the least share."""
    pruners, hidden, visual = request([2, 2, 0], per_frame=2, layers=8, cost=0.5, similarity=0.5, least=0.25)
    assert enter(pruners[0], hidden, visual)[1].sum() == 6
    assert pruners[1].observes == "nothing"
    pruners, hidden, visual = request([2, 2, 0], per_frame=2, layers=8, cost=0.5, similarity=0.5, least=0.26)
    enter(pruners[0], hidden, visual)
    assert pruners[1].observes == "previous"


def test_merging_that_cannot_be_afforded_takes_every_pair_and_pruning_the_rest():
    """Twenty of forty tokens are alike; .92 of them have to leave, and thirty have one to join."""
    pruners, hidden, visual = request([5, 5, 5], [0, 10, 5], per_frame=10, layers=4, still=3, cost=0.08, similarity=0.5)
    means = hidden[:, 5:].view(2, 4, 10, -1).mean(1)
    hidden, visual, mask = enter(pruners[0], hidden, visual)
    assert hidden.shape[1] == 2 + 3 + 10 and mask.all()
    torch.testing.assert_close(hidden[:, 5:], means)
    # 4 * .08 - .25 is left for three layers of .25: a share of .093, one of ten. The picture's three stay.
    last = hidden[:, -1:]
    hidden, visual, mask = enter(pruners[1], hidden, visual)
    assert hidden.shape[1] == 2 + 3 + 1 and mask.all() and torch.equal(hidden[:, -1:], last)
    assert pruners[2].prune(hidden, visual, torch.zeros(visual.shape)) is None


def test_what_fills_a_row_up_does_not_merge_again():
    """One row loses eight of sixteen tokens and the other four; four that are masked are nobody's later."""
    pruners, hidden, visual = request([0, 0, 4], [4, 0, 4], per_frame=4, layers=28, cost=0.3, similarity=0.5, least=0.2)
    hidden, visual, mask = enter(pruners[0], hidden, visual)
    assert visual.sum(1).tolist() == [8, 12] and mask.sum(1).tolist() == [10, 14]
    want = hidden.clone()
    hidden, visual, mask = enter(pruners[1], hidden, visual)
    assert visual.sum(1).tolist() == [8, 12] and torch.equal(hidden[mask], want[:, -hidden.shape[1] :][mask])


@pytest.mark.parametrize("subject", [LlavaSubject, HFSubject])
def test_a_picture_alone_is_nothing_to_merge(subject):
    subject = subject()
    want, _ = greedy_with_logits(subject, STILLS["image"])
    with dycoke.attach(subject.model, dycoke.build("framefusion")) as run:
        got, _ = greedy_with_logits(subject, STILLS["image"])
        assert run.report.inside == ()
    assert torch.equal(got, want)
