"""Token ids, resolution tables and pixels equal the original's."""

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaTokenizer, Qwen2Tokenizer, SiglipVisionConfig

from llava.anyres import get_anyres_image_grid_shape, parse_grid_pinpoints, process_anyres_image
from llava.mm_utils import (
    check_image_tokens,
    expand2square,
    get_model_name_from_path,
    process_images,
    select_best_resolution,
    tokenizer_image_token,
)
from llava.model.multimodal_encoder.processors import build_image_processor
from llava.model.tiles import unpad_map
from tests.llava import golden_inputs as inputs

TOWERS = {"ov": ("siglip", SiglipVisionConfig(image_size=384)), "v16": ("clip", CLIPVisionConfig(image_size=336))}
TILES = {"ov": 384, "v16": 336}


@pytest.fixture(scope="session")
def tokenizers(goldens_dir):
    return {
        "qwen": Qwen2Tokenizer.from_pretrained(goldens_dir / "qwen2_tok"),
        "llama_fast": LlamaTokenizer.from_pretrained(goldens_dir / "ckpt" / "llava-v1.6-vicuna-tiny"),
    }


def processor(tower: str, folder=None):
    return build_image_processor(*TOWERS[tower], folder)


@pytest.mark.parametrize("kind", ["qwen", "llama_fast"])
def test_token_ids(golden, tokenizers, kind):
    for prompt, ids in golden["tok"][kind].items():
        assert tokenizer_image_token(prompt, tokenizers[kind]) == ids
        tensor = tokenizer_image_token(prompt, tokenizers[kind], return_tensors="pt")
        assert tensor.dtype == torch.long
        assert tensor.tolist() == ids


def test_single_image_ids_equal_the_slow_tokenizer_too(golden, tokenizers):
    prompts = [prompt for prompt in golden["tok"]["llama_slow"] if prompt.count("<image>") < 2]
    assert len(prompts) == 7
    for prompt in prompts:
        assert tokenizer_image_token(prompt, tokenizers["llama_fast"]) == golden["tok"]["llama_slow"][prompt]


def test_other_tensors_are_refused(tokenizers):
    with pytest.raises(ValueError, match="'np'"):
        tokenizer_image_token("Hi", tokenizers["qwen"], return_tensors="np")


def test_tokenizer_attributes(golden, tokenizers):
    for kind, tokenizer in tokenizers.items():
        expected = golden["tok_attrs"][kind]
        assert tokenizer.bos_token_id == expected["bos"]
        assert tokenizer.eos_token_id == expected["eos"]
        assert len(tokenizer) == expected["len"]


@pytest.mark.parametrize("grid", ["ov", "v16"])
def test_resolutions(golden, grid):
    for name in golden["best"]:
        size = tuple(int(part) for part in name.split("x"))
        assert list(select_best_resolution(size, inputs.GRIDS[grid])) == golden["best"][name][grid], name
        shape = get_anyres_image_grid_shape(size, inputs.GRIDS[grid], TILES[grid])
        assert list(shape) == golden["gridshape"][name][grid], name


def test_the_smaller_of_equally_good_resolutions_and_the_first_of_equals():
    assert select_best_resolution((100, 200), [(672, 672), (336, 672), (672, 336)]) == (336, 672)
    assert select_best_resolution((100, 100), [(672, 336), (336, 672)]) == (672, 336)


def test_grid_given_as_span_or_literal(golden):
    for name, shapes in golden["gridshape"].items():
        size = tuple(int(part) for part in name.split("x"))
        assert list(get_anyres_image_grid_shape(size, "(1x1),...,(6x6)", 384)) == shapes["ovstr"]
    assert parse_grid_pinpoints("[[336, 672], [672, 336]]", 336) == [(336, 672), (672, 336)]
    assert parse_grid_pinpoints("(1x1),...,(2x3)", 384) == [
        (384 * cols, 384 * rows) for cols in (1, 2) for rows in (1, 2, 3)
    ]


@pytest.mark.parametrize(("pinpoints", "tile"), [("(1x1),...,(6x6)", 100), ("nonsense", 384), ("3", 384)])
def test_bad_grids_are_refused(pinpoints, tile):
    with pytest.raises(ValueError, match="image_grid_pinpoints"):
        parse_grid_pinpoints(pinpoints, tile)


def test_unpadding(golden):
    for name, (height, width, rows, cols) in golden["unpad"].items():
        size = tuple(int(part) for part in name.split("x"))
        assert unpad_map(torch.zeros(2, height, width), size).shape == (2, rows, cols), name


def test_unpadding_keeps_the_middle():
    rows = torch.arange(6.0)[None, :, None].expand(1, 6, 6)
    assert unpad_map(rows, (60, 20))[0, :, 0].tolist() == [2, 3]
    assert unpad_map(rows.transpose(1, 2), (20, 60))[0, 0].tolist() == [2, 3]


def test_model_names(golden):
    for path, name in golden["model_name"].items():
        assert get_model_name_from_path(path) == name


@pytest.mark.parametrize("with_folder", [False, True])
@pytest.mark.parametrize("tower", ["ov", "v16"])
def test_pixels(golden, goldens_dir, tower, with_folder):
    folder = goldens_dir / "ckpt" / f"{TOWERS[tower][0]}-tiny" if with_folder else None
    prepare = processor(tower, folder).preprocess
    for name, image in inputs.images().items():
        values, expected = prepare(image, return_tensors="pt")["pixel_values"], golden["pix"][f"{tower}:{name}"]
        assert list(values.shape) == expected["shape"]
        assert values.dtype == torch.float32
        assert values.double().sum().item() == pytest.approx(expected["sum"], abs=1e-6)
        samples = values[0, 0, 0, 0], values[0, 1, 100, 200], values[0, 2, 300, 17]
        assert [float(sample) for sample in samples] == expected["s"], name
    frames, expected = prepare(inputs.video(3), return_tensors="pt")["pixel_values"], golden["pix"][f"{tower}:video3"]
    assert list(frames.shape) == expected["shape"]
    assert frames.double().sum().item() == pytest.approx(expected["sum"], abs=1e-6)


class ModelConfig:
    def __init__(self, aspect_ratio, grid):
        self.image_aspect_ratio = aspect_ratio
        self.image_grid_pinpoints = inputs.GRIDS[grid]


def test_process_images(golden):
    pictures = inputs.images()
    sets = {
        "one": [pictures["wide"]],
        "two_same": [pictures["wide"]] * 2,
        "two_diff": [pictures["wide"], pictures["tall"]],
    }
    for name, expected in golden["process_images"].items():
        model, aspect_ratio, kind = name.split(":")
        if model == "v15":  # the same tower and grid as v16
            model = "v16"
        ready = process_images(sets[kind], processor(model), ModelConfig(aspect_ratio, model))
        if expected["type"] == "Tensor":
            assert list(ready.shape) == expected["shape"], name
        else:
            assert [list(entry.shape) for entry in ready] == expected["shape"], name


def test_no_aspect_ratio_means_plain():
    plain = process_images([inputs.images()["wide"]], processor("ov"), ModelConfig(None, "ov"))
    assert plain.shape == (1, 3, 384, 384)


def test_anyres_starts_with_the_whole_image():
    image = inputs.images()["wide"]
    ready = process_anyres_image(image, processor("ov"), inputs.GRIDS["ov"])
    whole = processor("ov").preprocess(image.resize((384, 384)), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ready[0], whole)
    assert (ready[1][:, 0] == -1).all()  # black above an image that is wider than the 2 x 2 tiles


def test_expand2square():
    wide, square = Image.new("RGB", (4, 2), "white"), Image.new("RGB", (3, 3))
    padded = expand2square(wide, (1, 2, 3))
    assert padded.size == (4, 4)
    assert [padded.getpixel((0, row)) for row in (0, 1, 3)] == [(1, 2, 3), (255, 255, 255), (1, 2, 3)]
    assert expand2square(square, (1, 2, 3)) is square


def test_placeholders_are_counted():
    ids = torch.tensor([[1, -200, 2], [-200, -200, 3]])
    check_image_tokens(ids, 3)
    with pytest.raises(ValueError, match="prompt has 3 <image> tokens for 1 image or video; write <image> once"):
        check_image_tokens(ids, 1)
