"""Packed batches equal the original's: Llama cases in full, Qwen cases by shape and mask on random weights."""

import json

import pytest
import torch
from transformers import LlamaTokenizer, Qwen2Tokenizer

from llava.mm_utils import process_images, tokenizer_image_token
from tests.llava import golden_inputs as inputs
from tests.llava import tiny
from tests.llava.golden_inputs import cases

CASES = cases()
LLAMA = [name for name, case in CASES.items() if case.model in ("v15", "v16")]
QWEN = [name for name, case in CASES.items() if case.model in ("ov", "vid") and name != "ov_two_vid_one_mod"]


@pytest.fixture(scope="module")
def llama_models(goldens_dir, load):
    """The two golden Llama checkpoints; the tower of v1.5 lies apart."""
    apart = {"mm_vision_tower": str(goldens_dir / "ckpt" / "clip-tiny")}
    return {
        "v15": load(goldens_dir / "ckpt" / "llava-v1.5-tiny", overwrite_config=apart),
        "v16": load(goldens_dir / "ckpt" / "llava-v1.6-vicuna-tiny"),
    }


@pytest.fixture(scope="module")
def qwen_models(goldens_dir):
    """A random model on the published config, as LLaVA-OneVision and as LLaVA-Video."""
    tokenizer = Qwen2Tokenizer.from_pretrained(goldens_dir / "qwen2_tok")
    settings = {"ov": {}, "vid": {"mm_newline_position": "grid"}}
    models = {name: tiny.make_model(inputs.published_config(goldens_dir, **keys)) for name, keys in settings.items()}
    return {name: (tokenizer, model, model.get_vision_tower().image_processor, 32768) for name, model in models.items()}


@pytest.fixture
def prepared(llama_models, qwen_models):
    """Set up a case: returns (model, input_ids, attention_mask, images, image_sizes)."""
    kept = []

    def prepare(case):
        tokenizer, model, processor, _ = (llama_models | qwen_models)[case.model]
        kept.append((model, dict(model.config.__dict__)))
        for key, value in case.config.items():
            setattr(model.config, key, value)
        images, sizes = case.visuals(processor, model.config)
        ids = tokenizer_image_token(case.prompt, tokenizer, return_tensors="pt")[None]
        return model, ids, torch.ones_like(ids) if case.with_mask else None, images, sizes

    yield prepare
    for model, before in kept:
        model.config.__dict__.clear()
        model.config.__dict__.update(before)


def pack(case, model, ids, mask, images, sizes):
    labels = ids if "tokenizer_model_max_length" in case.config else None  # only in training prompts are cut
    packed = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, labels, images, case.modalities, sizes)
    return *packed[:5], None


@pytest.mark.parametrize("name", LLAMA)
def test_llama_case(golden, goldens_dir, prepared, name):
    case, expected = CASES[name], golden["cases"][name]
    model, ids, mask, images, sizes = prepared(case)
    with torch.no_grad():
        none, position_ids, packed_mask, cache, embeds, labels = pack(case, model, ids, mask, images, sizes)
        logits = model(inputs_embeds=embeds).logits[0, -1]
    assert (none, position_ids, cache, labels) == (None, None, None, None)
    assert [list(packed_mask.shape), str(packed_mask.dtype), int(packed_mask.sum())] == expected["am"]
    assert list(embeds.shape) == expected["shape"]
    stored = goldens_dir / "emb" / expected["emb_file"]
    if stored.is_file():
        assert (embeds - torch.load(stored, weights_only=True)).abs().max() < 1e-4
    assert logits.max().item() == pytest.approx(expected["logits_last_max"], abs=1e-4)
    assert logits.sum().item() == pytest.approx(expected["logits_last_sum"], abs=2e-2)
    assert logits.topk(5).indices.tolist() == expected["logits_last_top"]
    options = {"images": images, "image_sizes": sizes, "modalities": case.modalities, "attention_mask": mask}
    assert model.generate(ids, max_new_tokens=6, do_sample=False, **options).tolist() == expected["generate"]


def test_two_images_cut_to_the_longest_prompt(golden, llama_models):
    """v16_two, on the slow tokenizer's ids: those of transformers 5 differ after the second image."""
    _, model, processor, _ = llama_models["v16"]
    expected = golden["cases"]["v16_two"]
    ids = torch.tensor([golden["tok"]["llama_slow"][inputs.PROMPTS[7]]])
    pictures = [inputs.images()[name] for name in ("wide", "tall")]
    pixels, sizes = process_images(pictures, processor, model.config), [p.size for p in pictures]
    with torch.no_grad():
        packed = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, ids, pixels, image_sizes=sizes)
        logits = model(inputs_embeds=packed[4], logits_to_keep=1).logits[0, -1]
        with pytest.raises(ValueError, match="fills the 4096 tokens the model reads: it has 4357"):
            model(input_ids=ids, images=pixels, image_sizes=sizes)
    assert logits.max().item() == pytest.approx(expected["logits_last_max"], abs=1e-4)
    assert logits.topk(5).indices.tolist() == expected["logits_last_top"]


def test_all_stored_embeddings_are_compared(golden, goldens_dir):
    used = {golden["cases"][name]["emb_file"] for name in LLAMA}
    assert {file.name for file in (goldens_dir / "emb").iterdir()} <= used


@pytest.mark.parametrize("name", QWEN)
def test_qwen_case(golden, prepared, name):
    case, expected = CASES[name], golden["cases"][name]
    model, ids, mask, images, sizes = prepared(case)
    with torch.no_grad():
        none, position_ids, packed_mask, _, embeds, _ = pack(case, model, ids, mask, images, sizes)
    assert (none, position_ids) == (None, None)
    assert list(embeds.shape) == expected["shape"]
    if expected["am"] is None:
        assert packed_mask is None
    else:
        assert [list(packed_mask.shape), str(packed_mask.dtype), int(packed_mask.sum())] == expected["am"]


def test_a_second_video_without_modality_is_refused(prepared):
    case = CASES["ov_two_vid_one_mod"]
    with pytest.raises(ValueError, match="image_sizes"):
        pack(case, *prepared(case))


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_keep_every_row(golden, qwen_models, side):
    """Two rows, three images; with one modality the original drops the second row, this package keeps it."""
    expected = golden["cases"][f"batch_{side}_2"]
    _, model, _, _ = qwen_models["ov"]
    ids = torch.tensor(expected["ids"])
    mask = ids != 151643
    images = [inputs.pixels(seed=number) for number in range(3)]
    for modalities in (["image"], ["image"] * 3):
        with torch.no_grad():
            _, position_ids, packed_mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
                ids, ids, mask, None, ids, images, modalities, [(384, 384)] * 3, padding_side=side
            )
        assert list(embeds.shape) == expected["shape"]
        assert [list(packed_mask.shape), packed_mask.sum(1).tolist(), str(packed_mask.dtype)] == expected["am"]
        assert not packed_mask[0, 0 if side == "left" else -1]
        assert (labels[~packed_mask] == -100).all()
        assert (embeds[~packed_mask] == 0).all()
        assert (position_ids[~packed_mask] == 0).all()
        assert position_ids[0][packed_mask[0]].tolist() == list(range(754))


@pytest.mark.parametrize("merge", ["spatial", "spatial_unpad_nobase", "spatial_maxpool2x2", "flat"])
@pytest.mark.parametrize("aspect_ratio", ["anyres", "anyres_max_9"])
def test_rare_merge_types(goldens_dir, prepared, merge, aspect_ratio):
    shape = json.loads((goldens_dir / "extra.json").read_text())[f"{merge}:{aspect_ratio}"][0]
    config = {"mm_patch_merge_type": merge, "image_aspect_ratio": aspect_ratio}
    case = inputs.Case("ov", inputs.ONE, CASES["ov_img_wide_anyres9"].visuals, config=config)
    with torch.no_grad():
        assert list(pack(case, *prepared(case))[4].shape) == shape


def test_loss_has_the_shape_of_the_original_and_skips_what_is_not_text(golden, qwen_models):
    tokenizer, model, _, _ = qwen_models["ov"]
    ids = tokenizer_image_token(inputs.ONE, tokenizer, return_tensors="pt")[None]
    labels = ids.clone()
    labels[:, :18] = -100
    with torch.no_grad():
        out = model(input_ids=ids, labels=labels, images=[inputs.frames(2)], modalities=["video"])
    vocabulary = model.config.vocab_size
    assert list(out["logits"].shape) == [*golden["loss"]["logits_shape"][:2], vocabulary]
    answer = ids[0, 18:]
    by_hand = torch.nn.functional.cross_entropy(out["logits"][0, -answer.shape[0] - 1 : -1], answer)
    assert out["loss"].item() == pytest.approx(by_hand.item(), abs=1e-5)


def test_llama_token_ids_of_the_prompt(goldens_dir, golden):
    tokenizer = LlamaTokenizer.from_pretrained(goldens_dir / "ckpt" / "llava-v1.5-tiny")
    assert tokenizer_image_token(inputs.VICUNA_ONE, tokenizer) == golden["tok"]["llama_slow"][inputs.VICUNA_ONE]
