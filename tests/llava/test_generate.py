"""Generation and the forward pass: batches, text only, stopping, logits kept, strictness, wrong input."""

import json

import pytest
import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer, TextIteratorStreamer

from llava.context import readable
from llava.mm_utils import KeywordsStoppingCriteria
from tests.llava import tiny

OPTIONS = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 256}
ONE = [[11, 12, -200, 13, 14, 15]]


def answer(model, rows, videos, **kwargs) -> list[list[int]]:
    """Return the greedy ids for prompts with videos; without videos, for plain text."""
    images = {"images": videos, "modalities": ["video"] * len(videos)} if videos else {}
    return model.generate(torch.tensor(rows), **images, **OPTIONS | kwargs).tolist()


def pad(row: list[int], length: int, value: int, side: str) -> list[int]:
    padding = [value] * (length - len(row))
    return padding + row if side == "left" else row + padding


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_answer_as_on_their_own(onevision, side):
    """Whatever side the prompts or the config pad on; four rows of different lengths, one with two videos."""
    onevision.config.tokenizer_padding_side = side
    rows = [ONE[0], [21, -200, 22, -200, 23], [31, 32, 33], [-200, 41]]
    videos = [[tiny.frames(3)], [tiny.frames(1, seed=1), tiny.frames(2, seed=2)], [], [tiny.frames(4, seed=3)]]
    alone = [answer(onevision, [row], own) for row, own in zip(rows, videos, strict=True)]
    length = max(map(len, rows))
    padded = [pad(row, length, 0, side) for row in rows]
    mask = [pad([1] * len(row), length, 0, side) for row in rows]
    unseen = tiny.frames(1, seed=9)  # a row without a placeholder uses up an entry
    images = [*videos[0], *videos[1], unseen, *videos[3]]
    together = answer(onevision, padded, images, attention_mask=torch.tensor(mask), strict=False)
    assert [[row] for row in together] == alone
    del images[3]  # and where it must not, it needs none
    assert answer(onevision, padded, images, attention_mask=torch.tensor(mask)) == together


def test_text_batches_are_padded_left(onevision):
    rows = [[11, 12, 13, 14], [21, 22, 0, 0]]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    together = onevision.generate(torch.tensor(rows), attention_mask=mask, **OPTIONS).tolist()
    alone = [onevision.generate(torch.tensor([row]), **OPTIONS).tolist()[0] for row in ([11, 12, 13, 14], [21, 22])]
    assert together == alone


def test_text_alone_equals_the_plain_language_model(onevision):
    ids = torch.tensor([[11, 12, 13]])
    embeds = onevision.model.embed_tokens(ids)
    plain = Qwen2ForCausalLM.generate(onevision, inputs_embeds=embeds, **OPTIONS)
    assert onevision.generate(ids, **OPTIONS).tolist() == plain.tolist()


def test_a_prompt_of_one_token(onevision):
    """Nothing but the video, as one row and as a row of a batch."""
    alone = answer(onevision, [[-200]], [tiny.frames(2)])
    assert alone != answer(onevision, [[-200]], [tiny.frames(2, seed=5)])
    rows, mask = [[-200, 0], [11, -200]], torch.tensor([[1, 0], [1, 1]])
    assert answer(onevision, rows, [tiny.frames(2), tiny.frames(1)], attention_mask=mask)[:1] == alone


def test_only_new_ids_are_returned(onevision):
    assert len(answer(onevision, ONE, [tiny.frames(2)])[0]) == 8


def test_answers_depend_on_the_video(onevision):
    assert answer(onevision, ONE, [tiny.frames(2)]) != answer(onevision, ONE, [tiny.frames(2, seed=5)])


def test_ids_may_be_named_input_ids(onevision):
    named = onevision.generate(input_ids=torch.tensor(ONE), images=[tiny.frames(2)], modalities=["video"], **OPTIONS)
    assert named.tolist() == answer(onevision, ONE, [tiny.frames(2)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_pixels_of_any_type(onevision, dtype):
    same = tiny.frames(2).to(torch.float16)
    assert answer(onevision, ONE, [same.to(dtype)]) == answer(onevision, ONE, [same.float()])


def test_prefill_computes_the_last_logits_only(onevision):
    shapes = []
    hook = onevision.lm_head.register_forward_hook(lambda module, args, out: shapes.append(out.shape[1]))
    answer(onevision, ONE, [tiny.frames(3)], max_new_tokens=3, min_new_tokens=3)
    hook.remove()
    assert shapes == [1, 1, 1]


def test_logits_to_keep(onevision):
    inputs = {"input_ids": torch.tensor(ONE), "images": [tiny.frames(1)], "modalities": ["video"]}
    with torch.no_grad():
        whole, last = onevision(**inputs).logits, onevision(**inputs, logits_to_keep=2).logits
    assert whole.shape[1] == 5 + 17
    assert torch.allclose(whole[:, -2:], last, atol=1e-6)


def test_streaming(tmp_path, onevision):
    tiny.write_tokenizer(tmp_path)
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    ids = answer(onevision, ONE, [tiny.frames(2)], streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(ids[0])


def test_keywords_stop(goldens_dir):
    """As the original does, on its own cases: the keyword's id at the end stops, elsewhere it does not."""
    extra = json.loads((goldens_dir / "extra.json").read_text())
    tokenizer = Qwen2Tokenizer.from_pretrained(goldens_dir / "qwen2_tok")
    ids = tokenizer("###").input_ids
    assert ids == extra["kw_multi_ids"]
    stop = KeywordsStoppingCriteria(["###"], tokenizer, torch.zeros(1, 5))
    assert stop(torch.tensor([[9707, *ids]]), None).tolist() == [extra["kw_multi"]]
    end = tokenizer("<|im_end|>").input_ids
    stop = KeywordsStoppingCriteria(["<|im_end|>"], tokenizer, torch.zeros(1, 5))
    rows = torch.tensor([[9707, *end], [9707, 9707]])
    assert stop(rows, None).tolist() == extra["kw"]
    nothing = KeywordsStoppingCriteria([""], tokenizer, torch.zeros(1, 5))
    assert nothing(rows, None).tolist() == [False, False]


def test_keywords_of_several_tokens_stop(goldens_dir):
    """The original raises here."""
    tokenizer = Qwen2Tokenizer.from_pretrained(goldens_dir / "qwen2_tok")
    keyword = "the end of it"
    ids = tokenizer(keyword).input_ids
    assert len(ids) == 4
    stop = KeywordsStoppingCriteria([keyword], tokenizer, None)
    assert stop(torch.tensor([[*ids[:3]], [9707, 9707, 9707]]), None).tolist() == [False, False]
    (hash_id,) = tokenizer("#").input_ids
    split = KeywordsStoppingCriteria(["###"], tokenizer, None)
    assert split(torch.tensor([[9707, hash_id, hash_id], [hash_id] * 3]), None).tolist() == [False, True]
    assert stop(torch.tensor([[9707, *ids]]), None).tolist() == [True]


def test_a_keyword_ends_generation(tmp_path, onevision):
    tiny.write_tokenizer(tmp_path)
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    ids = answer(onevision, ONE, [tiny.frames(2)])[0]
    byte = next(token for token in ids if token < 128)
    stop = KeywordsStoppingCriteria([tokenizer.decode([byte])], tokenizer, None)
    cut = answer(onevision, ONE, [tiny.frames(2)], stopping_criteria=[stop], min_new_tokens=0)[0]
    assert cut == ids[: ids.index(byte) + 1]


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [
        ([[11, 12]], 1, "prompt has 0 <image> tokens for 1 image or video; write <image> once"),
        ([[11, -200, -200]], 1, "prompt has 2 <image> tokens for 1 image or video"),
        ([[11, -200]], 2, "prompt has 1 <image> tokens for 2 images or videos"),
        ([[11, -200]], 0, "prompt has 1 <image> tokens for 0 images or videos"),
    ],
)
def test_strict(onevision, rows, count, message):
    images = [tiny.frames(1)] * count or None
    with pytest.raises(ValueError, match=message):
        onevision.generate(torch.tensor(rows), images=images, modalities=["video"] * 2, strict=True, **OPTIONS)


@pytest.mark.parametrize("rows", [[[11, 12]], [[11, -200], [11, 12]]])
def test_a_video_without_a_placeholder(onevision, rows):
    """An error unless LLaVA-NeXT's looseness is asked for; lmms-eval's models write more or fewer of them."""
    with pytest.raises(ValueError, match=r"prompt has [01] <image> tokens for .*, or pass strict=False"):
        answer(onevision, rows, [tiny.frames(1)] * len(rows))
    twice = answer(onevision, [[11, -200, -200]], [tiny.frames(1)])
    assert twice == answer(onevision, [[11, -200, -200]], [tiny.frames(1)] * 2)


def test_not_strict_follows_the_original(onevision):
    text = onevision.generate(torch.tensor([[11, 12]]), **OPTIONS).tolist()
    assert answer(onevision, [[11, 12]], [tiny.frames(1)], strict=False) == text
    twice = answer(onevision, [[11, -200, -200]], [tiny.frames(1)], strict=False)
    assert twice == answer(onevision, [[11, -200, -200]], [tiny.frames(1)] * 2)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"images": None}, ValueError, "images is None"),
        ({"images": []}, ValueError, "there are no images"),
        ({"images": "frames"}, TypeError, r"images is a str"),
        ({"images": [[0.0]]}, TypeError, r"images\[0\] is a list"),
        ({"images": [torch.zeros(1, 3, 112, 112).byte()]}, TypeError, r"images\[0\] is torch.uint8; expected floats"),
        ({"images": [torch.zeros(1, 3, 56, 56)]}, ValueError, r"\(1, 3, 56, 56\): expected \[N, 3, 112, 112\]"),
        ({"images": [torch.zeros(0, 3, 112, 112)]}, ValueError, r"images\[0\] has shape \(0, 3, 112, 112\)"),
        ({"images": torch.zeros(3, 112, 112)}, ValueError, "expected 4 or 5 dimensions"),
        ({"inputs_embeds": torch.zeros(1, 2, 64)}, NotImplementedError, "inputs_embeds"),
        ({"attention_mask": torch.ones(1, 3), "images": [tiny.frames(1)]}, ValueError, "attention_mask of shape"),
        ({"images": [tiny.frames(1)], "nonsense": 1}, ValueError, "nonsense"),
    ],
)
def test_wrong_input(onevision, kwargs, error, message):
    with pytest.raises(error, match=message):
        onevision.generate(torch.tensor(ONE), **OPTIONS, **kwargs)


def test_ids_without_a_batch(onevision):
    with pytest.raises(ValueError, match=r"input_ids of shape \(2,\): expected \[batch, length\]"):
        onevision.generate(torch.tensor([11, -200]), images=[tiny.frames(1)], **OPTIONS)


def test_no_ids(onevision):
    with pytest.raises(ValueError, match="needs inputs"):
        onevision.generate(images=[tiny.frames(1)], **OPTIONS)


def test_forward_without_images_for_a_placeholder(onevision):
    with pytest.raises(ValueError, match="images is None"):
        onevision(input_ids=torch.tensor(ONE))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mm_newline_position", "rows", "mm_newline_position 'rows'"),
        ("mm_spatial_pool_mode", "median", "mm_spatial_pool_mode 'median'"),
        ("mm_patch_merge_type", "other", "mm_patch_merge_type 'other'"),
    ],
)
def test_config_values_are_read_at_every_call(onevision, key, value, message):
    answer(onevision, ONE, [tiny.frames(1)])
    setattr(onevision.config, key, value)
    with pytest.raises(ValueError, match=message):
        answer(onevision, ONE, [tiny.frames(1)])


def test_a_prompt_longer_than_the_model_reads(onevision):
    """Nothing is cut, and what is generated may go on behind the context."""
    fitting = answer(onevision, ONE, [tiny.frames(2)])
    onevision.config.tokenizer_model_max_length = 2 * 16 + 1 + 5
    assert answer(onevision, ONE, [tiny.frames(2)]) == fitting
    for key in ("tokenizer_model_max_length", "max_position_embeddings"):
        setattr(onevision.config, key, 2 * 16 + 5)
        for call in (lambda: answer(onevision, ONE, [tiny.frames(2)]), lambda: onevision(**inputs())):
            with pytest.raises(ValueError, match="fills the 37 tokens the model reads: it has 38"):
                call()
        with pytest.raises(ValueError, match="fills the 37 tokens the model reads: it has 40"):
            answer(onevision, [[7] * 40], [])


def inputs() -> dict:
    return {"input_ids": torch.tensor(ONE), "images": [tiny.frames(2)], "modalities": ["video"]}


def test_training_cuts_as_the_original_does(onevision):
    onevision.config.tokenizer_model_max_length = 35
    assert onevision(**inputs(), labels=torch.tensor(ONE)).logits.shape[1] == 35


@pytest.mark.parametrize(
    ("rope", "reads"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 60),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 20}, 80),
        ({"rope_type": "default"}, 30),
    ],
)
def test_stretched_positions_reach_further(onevision, rope, reads):
    onevision.config.max_position_embeddings = 30
    onevision.config.rope_parameters = {"rope_theta": 1e6, **rope}
    assert readable(onevision.config) == reads
