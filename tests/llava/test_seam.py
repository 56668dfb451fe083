"""What an attached compressor sees, and what becomes of its answers."""

import pytest
import torch
from transformers import Qwen2ForCausalLM

from tests.llava import tiny

TOKENS = 16  # a frame of the tiny model after pooling
PROMPT = [11, 12, -200, 13, 14, 15]


class FakeSeam:
    """Keeps the slots that `choose(total)` names, and answers `positions` if told to."""

    def __init__(self, choose=torch.arange, original_positions: bool = False):
        self.choose = choose
        self.original_positions = original_positions
        self.videos = []
        self.rows = []
        self.batches = []
        self.released = 0

    def video(self, frames, grid, newline, text, rows):
        index = self.choose(frames.shape[0] * frames.shape[1])
        self.videos.append((frames, grid, newline, text))
        self.rows.append(rows)
        return frames.flatten(0, 1)[index], index

    def release(self):
        self.released += 1

    def packed(self, packed):
        self.batches.append((packed.visual, packed.positions, packed.mask))
        self.places = packed.video, packed.slots
        return packed.positions if self.original_positions else None


def every_third(total: int) -> torch.Tensor:
    return torch.arange(0, total, 3)


def prepare(model, rows: list[list[int]], images, modalities, mask=None, **kwargs):
    with torch.no_grad():
        out = model.prepare_inputs_labels_for_multimodal(
            torch.tensor(rows), None, mask, None, None, images, modalities, **kwargs
        )
    return out[4], out[1]


def test_what_a_video_seam_sees(onevision):
    onevision.video_seam = seam = FakeSeam()
    prepare(onevision, [PROMPT], [tiny.frames(5)], ["video"])
    ((frames, grid, newline, text),) = seam.videos
    assert frames.shape == (5, TOKENS, 64)
    assert (grid, newline) == ((4, 4), "one_token")
    with torch.no_grad():
        assert torch.equal(frames, onevision.get_2dPool(onevision.encode_images(tiny.frames(5))))
        assert torch.equal(text, onevision.model.embed_tokens(torch.tensor([11, 12, 13, 14, 15])))


@pytest.mark.parametrize(
    ("overrides", "newline"),
    [
        ({"mm_newline_position": "grid"}, "grid"),
        ({"mm_newline_position": "frame"}, "frame"),
        ({"mm_newline_position": "no_token"}, "no_token"),
        ({"mm_patch_merge_type": "flat", "mm_newline_position": "grid"}, "no_token"),
        ({"mm_patch_merge_type": "spatial"}, "no_token"),
        ({"mm_patch_merge_type": "spatial", "mm_newline_position": "grid"}, "no_token"),
    ],
)
def test_the_newline_layout_it_is_told(overrides, newline):
    model = tiny.make_model(tiny.onevision_config(**overrides))
    model.video_seam = seam = FakeSeam()
    prepare(model, [PROMPT], [tiny.frames(1)], ["video"])
    assert seam.videos[0][2] == newline


@pytest.mark.parametrize("position", ["one_token", "grid", "frame", "no_token"])
def test_keeping_everything_changes_nothing(position):
    model = tiny.make_model(tiny.onevision_config(mm_newline_position=position))
    rows, images = [[*PROMPT, -200]], [tiny.frames(2), tiny.frames(3, seed=1)]
    before, _ = prepare(model, rows, images, ["video"] * 2)
    model.video_seam = FakeSeam()
    after, position_ids = prepare(model, rows, images, ["video"] * 2)
    assert torch.equal(before, after)
    assert position_ids is None


def test_each_video_once_with_the_text_of_its_own_row(onevision):
    onevision.video_seam = seam = FakeSeam()
    rows = [[11, -200, 12, -200], [21, 22, -200, 23]]
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    images = [tiny.frames(1), tiny.frames(2), tiny.frames(3)]
    prepare(onevision, rows, images, ["video"] * 3, mask)
    assert [call[0].shape[0] for call in seam.videos] == [1, 2, 3]
    texts = [[11, 12], [11, 12], [22, 23]]
    with torch.no_grad():
        for (_, _, _, text), ids in zip(seam.videos, texts, strict=True):
            assert torch.equal(text, onevision.model.embed_tokens(torch.tensor(ids)))
    assert len(seam.batches) == 1


def test_the_rows_of_a_video_in_the_tower_call(onevision):
    """Entries no prompt uses are not encoded, and images lie between the videos."""
    onevision.video_seam = seam = FakeSeam()
    calls = []
    hook = onevision.get_vision_tower().register_forward_hook(lambda module, args, out: calls.append(out))
    rows, mask = [[11, -200, 12, -200, 13], [21, 22, 23, 24, 25], [31, -200, 32, 33, 34]], torch.ones(3, 5)
    images = [tiny.frames(1)[0], tiny.frames(2, seed=1), tiny.frames(4, seed=2), tiny.frames(3, seed=3)]
    prepare(onevision, rows, images, ["image", "video", "video", "video"], mask)
    hook.remove()
    assert seam.rows == [slice(1, 3), slice(3, 6)]
    (encoded,) = calls
    with torch.no_grad():
        for (frames, *_), where in zip(seam.videos, seam.rows, strict=True):
            assert torch.equal(frames, onevision.get_2dPool(onevision.model.mm_projector(encoded[where])))


def test_the_tower_call_is_released_once_also_when_something_fails(onevision):
    onevision.video_seam = seam = FakeSeam()
    prepare(onevision, [[11, -200, -200]], [tiny.frames(2), tiny.frames(1)], ["video"] * 2)
    assert seam.released == 1
    prepare(onevision, [[11, 12, 13]], [tiny.frames(2)], ["video"])
    assert seam.released == 1  # nothing was encoded
    with pytest.raises(ValueError, match="image_sizes"):  # tiles without the size of their image
        prepare(onevision, [[11, -200, -200]], [tiny.frames(2), tiny.frames(3)], ["video", "image"])
    with pytest.raises(ValueError, match=r"expected \[N, 3"):
        prepare(onevision, [[11, -200, 12]], [tiny.frames(2, size=98)], ["video"])
    assert seam.released == 3


def test_images_do_not_pass_but_count_as_visual(onevision):
    onevision.video_seam = seam = FakeSeam()
    image = tiny.frames(1)[0]
    tiled = tiny.frames(3, seed=2)  # a whole image and two tiles side by side
    sizes = [(112, 112), (224, 112)]
    prepare(onevision, [[11, -200, 12, -200, 13]], [image, tiled], ["image"] * 2, image_sizes=sizes)
    assert seam.videos == []
    ((visual, positions, mask),) = seam.batches
    single = [True] * 64 + [False]
    tiles = [True] * 64 + ([True] * 16 + [False]) * 8
    assert visual.tolist() == [[False, *single, False, *tiles, False]]
    assert positions.tolist() == [list(range(visual.shape[1]))]
    assert mask.all()


def test_positions_count_in_the_uncompressed_sequence(onevision):
    onevision.video_seam = seam = FakeSeam(every_third)
    rows = [[11, 12, -200, 13, 14], [0, 0, 21, -200, 22]]
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    embeds, position_ids = prepare(
        onevision, rows, [tiny.frames(2), tiny.frames(1)], ["video"] * 2, mask, padding_side="left"
    )
    assert position_ids is None
    ((visual, positions, real),) = seam.batches
    first = [0, 1, *range(2, 2 + 32, 3), 34, 35, 36]  # two of text, 11 tokens, newline, two of text
    second = [0, *range(1, 1 + 16, 3), 17, 18]
    padding = [0] * (len(first) - len(second))
    assert positions.tolist() == [first, padding + second]
    assert real.tolist() == [[True] * len(first), [False] * len(padding) + [True] * len(second)]
    assert visual.sum(1).tolist() == [11, 6]
    assert embeds.shape[1] == len(first)


def test_a_row_keeps_its_newline_only_with_a_token():
    model = tiny.make_model(tiny.onevision_config(mm_newline_position="grid"))
    model.video_seam = seam = FakeSeam(lambda total: torch.tensor([1, 2, 17]))
    prepare(model, [PROMPT], [tiny.frames(2)], ["video"])
    ((visual, positions, _),) = seam.batches
    # Rows have 4 tokens and a newline: row 0 of frame 0 stands at 2..6, row 0 of frame 1 at 22..26.
    assert positions.tolist() == [[0, 1, 3, 4, 6, 23, 26, 42, 43, 44]]
    assert visual.tolist() == [[False, False, True, True, False, True, False, False, False, False]]


def expected_places(position: str, total: int, index: list[int]) -> list[int]:
    """Slots of the packed tokens of a video of 4 x 4 tokens a frame, -1 at newlines, for tokens in raster order."""
    size = {"grid": 4, "frame": 16}.get(position)
    if size is None:
        return index + [-1] * (position == "one_token")
    slots = []
    for start in range(0, total, size):
        group = [slot for slot in index if start <= slot < start + size]
        slots += group + [-1] * bool(group)
    return slots


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("position", ["one_token", "grid", "frame", "no_token"])
def test_which_slot_of_which_video_a_token_is(position, side):
    """Videos are counted in their row; text, newlines, images and padding are of none."""
    model = tiny.make_model(tiny.onevision_config(mm_newline_position=position))
    model.video_seam = seam = FakeSeam(lambda total: torch.tensor([1, 2, 3, 9, total - 1]))
    rows, mask = [[11, -200, 12, -200, -200], [21, -200, 22, 0, 0]], torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    images = [tiny.frames(2), tiny.frames(1, seed=1)[0], tiny.frames(3, seed=2), tiny.frames(2, seed=3)]
    kinds = ["video", "image", "video", "video"]
    prepare(model, rows, images, kinds, mask, padding_side=side, image_sizes=[(112, 112)] * 4)
    video, slots = seam.places
    first, second = (expected_places(position, 16 * frames, [1, 2, 3, 9, 16 * frames - 1]) for frames in (2, 3))
    image = [-1] * 65  # with its newline
    where = [[-1, *first, -1, *image, *second], [-1, *first, -1]]
    number = [[*(min(slot, 0) for slot in where[0][: -len(second)]), *(1 if slot >= 0 else -1 for slot in second)]]
    number += [[min(slot, 0) for slot in where[1]]]
    for found, (long, short) in ((slots, where), (video, number)):
        padding = [-1] * (len(long) - len(short))
        assert found.tolist() == [long, padding + short if side == "left" else short + padding]
        assert found.dtype == torch.int64


def test_a_video_of_which_nothing_is_left_counts(onevision):
    onevision.video_seam = seam = FakeSeam(lambda total: torch.arange(total if total > 16 else 0))
    prepare(onevision, [[-200, -200, 12]], [tiny.frames(1), tiny.frames(2)], ["video"] * 2)
    assert [part.tolist() for part in seam.places] == [[[-1, *[1] * 32, -1, -1]], [[-1, *range(32), -1, -1]]]


def test_the_compressed_sequence_is_what_must_fit(onevision):
    onevision.video_seam = FakeSeam(every_third)
    onevision.config.tokenizer_model_max_length = 17
    length = prepare(onevision, [PROMPT], [tiny.frames(2)], ["video"])[0].shape[1]
    assert length == 17
    onevision.config.tokenizer_model_max_length = 16
    ids = torch.tensor([PROMPT])
    for labels in (None, ids):  # the seam has told what it kept, so that nothing is cut, not even in training
        with pytest.raises(ValueError, match="fills the 16 tokens the model reads: it has 17"):
            onevision.prepare_inputs_labels_for_multimodal(ids, None, None, None, labels, [tiny.frames(2)], ["video"])


def test_chosen_positions_are_returned_even_without_any_given(onevision):
    onevision.video_seam = FakeSeam(every_third, original_positions=True)
    _, position_ids = prepare(onevision, [PROMPT], [tiny.frames(1)], ["video"])
    assert position_ids.tolist() == [[0, 1, 2, 5, 8, 11, 14, 17, 18, 19, 20, 21]]


def test_without_a_seam_nothing_is_called_and_detaching_restores(onevision):
    embeds, _ = prepare(onevision, [PROMPT], [tiny.frames(2)], ["video"])
    onevision.video_seam = FakeSeam(every_third)
    assert prepare(onevision, [PROMPT], [tiny.frames(2)], ["video"])[0].shape[1] < embeds.shape[1]
    del onevision.video_seam
    assert onevision.video_seam is None
    assert torch.equal(prepare(onevision, [PROMPT], [tiny.frames(2)], ["video"])[0], embeds)


def masked_oracle(model, rows, images, mask, **options):
    """Generate on the whole sequence with the dropped slots masked, every token at its own position."""
    with torch.no_grad():
        _, _, real, _, embeds, _ = model.prepare_inputs_labels_for_multimodal(
            torch.tensor(rows), None, mask, None, None, images, ["video"] * len(images), padding_side="left"
        )
    position_ids = (real.cumsum(-1) - 1).clamp(min=0)
    real = real.clone()
    for row, (ids, video) in enumerate(zip(rows, images, strict=True)):
        total = video.shape[0] * TOKENS
        start = int((real[row] == 0).sum()) + [token for token in ids if token != 0].index(-200)
        dropped = torch.ones(total, dtype=torch.bool)
        dropped[every_third(total)] = False
        real[row, start : start + total][dropped] = 0
    return Qwen2ForCausalLM.generate(
        model, inputs_embeds=embeds, attention_mask=real, position_ids=position_ids, **options
    )


ROWS = [[11, 12, -200, 13, 14, 15], [0, 0, 0, 21, -200, 22]]
MASK = torch.tensor([[1] * 6, [0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3, "top_k": 5},
        {"use_cache": False},
    ],
    ids=["greedy", "beams", "beams-returned", "sampled", "no-cache"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_decoding_goes_on_behind_the_last_position(onevision, options, batch):
    images = [tiny.frames(3), tiny.frames(2, seed=1)][:batch]
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 256, **options}
    torch.manual_seed(0)
    expected = masked_oracle(onevision, ROWS[:batch], images, MASK[:batch], **settings)
    onevision.video_seam = FakeSeam(every_third, original_positions=True)
    torch.manual_seed(0)
    ids = onevision.generate(
        torch.tensor(ROWS[:batch]),
        attention_mask=MASK[:batch],
        images=images,
        modalities=["video"] * batch,
        **settings,
    )
    assert ids.tolist() == expected.tolist()
    assert len(set(ids.flatten().tolist())) > 3  # a model stuck on one token would prove nothing


def test_a_forward_pass_at_original_positions_without_a_mask(onevision):
    """Its last logits are those of the whole sequence with the dropped slots masked."""
    inputs = {"images": [tiny.frames(3)], "modalities": ["video"], "use_cache": False}
    settings = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True, "do_sample": False}
    expected = masked_oracle(onevision, ROWS[:1], inputs["images"], MASK[:1], **settings).logits[0]
    onevision.video_seam = FakeSeam(every_third, original_positions=True)
    with torch.no_grad():
        logits = onevision(input_ids=torch.tensor(ROWS[:1]), **inputs).logits[:, -1]
    assert torch.allclose(logits, expected, atol=1e-5)


def test_positions_reach_the_decoder(onevision):
    """The positions a layer is called with: the seam's in prefill, then one after the largest of each row."""
    onevision.video_seam = FakeSeam(every_third, original_positions=True)
    seen = []
    layer = onevision.model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"].clone()), with_kwargs=True
    )
    images = [tiny.frames(3), tiny.frames(2, seed=1)]
    options = {"modalities": ["video"] * 2, "max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    onevision.generate(torch.tensor(ROWS), attention_mask=MASK, images=images, pad_token_id=256, **options)
    hook.remove()
    last = [2 + 48 + 1 + 2, 1 + 32 + 1]
    assert seen[0][:, -1].tolist() == last
    assert [step.flatten().tolist() for step in seen[1:]] == [[p + 1 for p in last], [p + 2 for p in last]]
