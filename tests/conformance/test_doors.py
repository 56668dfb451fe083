"""What a method refuses of transformers' calls, in words that name the argument; and videos of any size of frame."""

import copy

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import dycoke
from dycoke.engine.prefill import language as language_prefill
from tests.conformance.cases import CACHE, Case, cache_of
from tests.llava import tiny
from tests.support.decode_small import PLAN, VISUAL, embeds, qwen
from tests.support.subjects import HF_IMAGE, HF_VIDEO


def tiny_frames(per_side: int) -> LlavaOnevisionForConditionalGeneration:
    """A model whose frames are per_side^2 tokens."""
    config = tiny.hf_config(HF_IMAGE, HF_VIDEO, vocab_size=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config.vision_config.image_size = 8 * per_side
    config.image_grid_pinpoints = [[8 * per_side, 8 * per_side]]
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    tiny.fill_randomly(model)
    return model


@pytest.mark.parametrize("per_side", [1, 2])
@pytest.mark.parametrize("videos", [1, 2])
@torch.no_grad()
def test_frames_of_few_tokens(per_side, videos):
    """One token a frame is what transformers' own tests have: no length of a run tells how many videos it is."""
    model, frames = tiny_frames(per_side), 4
    ids = torch.tensor([[5, *[HF_VIDEO] * (videos * (frames * per_side**2 + 1)), 7, 8]])
    pixels = torch.randn(videos, frames, 3, 8 * per_side, 8 * per_side, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "pixel_values_videos": pixels}
    want = model(**inputs).logits
    for method in ("full", "dynamic_pruning"):
        with dycoke.attach(model, dycoke.build(method)) as run:
            torch.testing.assert_close(model(**inputs).logits, want, atol=2e-5, rtol=0)
            assert [video.frames for video in run.report.videos] == [frames] * videos
    with dycoke.attach(model, dycoke.build("uniform_frames", keep=0.5)) as run:
        assert model(**inputs).logits.shape[1] == want.shape[1] - videos * 2 * per_side**2
        assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] <= ids.shape[1] + 2


@pytest.mark.parametrize("method", ["full", "dycoke", "dynamic_pruning"])
@pytest.mark.parametrize("engine", ["off", "on"])
@pytest.mark.parametrize("chunk", [7, 12, 24, 1000])
def test_a_prompt_is_read_in_one_piece(method, engine, chunk):
    """Whatever the chunk, given by argument or by a config; a cut behind whole frames would look like a video."""
    case = Case("hf_video")
    with dycoke.attach(case.model, dycoke.build(method), engine=engine):
        with pytest.raises(ValueError, match=f"prefill_chunk_size={chunk}: a method reads a prompt"):
            case.generate(prefill_chunk_size=chunk)
        case.model.generation_config.prefill_chunk_size = chunk
        with pytest.raises(ValueError, match=f"prefill_chunk_size={chunk}: a method reads a prompt"):
            case.generate()


@torch.no_grad()
def test_ids_of_a_video_that_nobody_shows():
    """A few are anybody's ids; as many as a video has are one whose pixels were forgotten."""
    case = Case("hf_video")
    with case.attached({"name": "random_drop", "keep": 0.5}):
        with pytest.raises(ValueError, match=r"19 <video> ids in a row: .* with its pixel_values_videos"):
            case.model(input_ids=case.inputs["input_ids"])
        few = torch.tensor([[5, *[HF_VIDEO] * 9, 7]])
        got = case.model(input_ids=few).logits
    torch.testing.assert_close(got, case.model(input_ids=few).logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_features_that_are_no_whole_video():
    """A caller may encode by himself; a part of a video is not taken for one."""
    case = Case("hf_video")
    features = case.model.model.get_video_features(case.inputs["pixel_values_videos"], return_dict=True)
    if not hasattr(features, "pooler_output"):
        pytest.skip("this release encodes in the model alone")
    features.pooler_output = features.pooler_output[:, :12]
    ids = torch.cat([case.inputs["input_ids"][:, :2], torch.full((1, 12), HF_VIDEO)], dim=1)
    try:
        case.model(input_ids=ids, mm_encoder_outputs={"video": features})
    except TypeError:
        pytest.skip("this release takes no encoded videos")
    said = r"12 <video> ids for 1 videos .*no prefill_chunk_size"
    with case.attached({"name": "random_drop", "keep": 0.5}), pytest.raises(ValueError, match=said):
        case.model(input_ids=ids, mm_encoder_outputs={"video": features})


def test_labels_where_slots_go():
    case = Case("hf_video")
    for method in ({"name": "random_drop", "keep": 0.5}, {"name": "fastv", "k": 1, "r": 0.5}):
        with case.attached(method):
            with pytest.raises(ValueError, match="labels=: not accepted while a method shortens the sequence"):
                case.forward(labels=case.inputs["input_ids"])
            with pytest.raises(ValueError, match="logits_to_keep=: a tensor of slots"):
                case.forward(logits_to_keep=torch.tensor([1]))


@torch.no_grad()
def test_embeddings_that_may_hide_a_video():
    case = Case("hf_video")
    text = case.model.get_input_embeddings()(torch.arange(5, 17)[None])
    soft = torch.cat([text[:, :3] + 1e-3, text[:, 3:]], dim=1)
    for method in ({"name": "random_drop", "keep": 0.5}, {"name": "fastv", "k": 1, "r": 0.5}):
        with case.attached(method):
            torch.testing.assert_close(case.model(inputs_embeds=text).logits.shape[1], 12)
            with pytest.raises(ValueError, match="inputs_embeds=: a method needs input_ids"):
                case.model(inputs_embeds=soft)


@torch.no_grad()
def test_keys_and_values_that_cannot_be_looked_at(monkeypatch):
    monkeypatch.setattr("dycoke.stages.decode.host_cache_works", lambda model: True)
    model = qwen()
    with dycoke.attach(model, dycoke.build("dynamic_pruning", layer=2, p=0.5, dp_cache="host"), visual=VISUAL):
        cache = cache_of(model(inputs_embeds=embeds()))
    assert cache.layers[0].keys.shape == (1, 1, 12, 16)
    with pytest.raises(ValueError, match=r"layer 2 are in host memory .* accepted: dp_cache='device'"):
        _ = cache.layers[2].keys
    with pytest.raises(ValueError, match="cannot be set, only read"):
        cache.layers[0].values = torch.zeros(1)


@torch.no_grad()
def test_a_cache_grows_with_the_answer_and_is_empty_when_reset():
    model, plain = qwen(), qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        cache, want = (cache_of(each(inputs_embeds=embeds())) for each in (model, plain))
        for token in range(70):  # beyond what was reserved
            for each, own in ((model, cache), (plain, want)):
                each(input_ids=torch.tensor([[token % 30]]), **{CACHE: own})
        for layer, other in list(zip(cache.layers, want.layers, strict=True))[:2]:  # from 2 on it is pruned
            torch.testing.assert_close(layer.keys, other.keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(layer.values, other.values, atol=1e-5, rtol=0)
        cache.reset()
        assert cache.layers[0].keys is None and cache.layers[0].values is None


def test_rows_of_a_shortened_cache():
    case = Case("hf_video")
    with case.attached({"name": "random_drop", "keep": 0.5}), torch.no_grad():
        cache = cache_of(case.forward())
        cache.batch_repeat_interleave(2)
        with pytest.raises(ValueError, match="a step of 2 rows on a cache of 1: rows that were repeated"):
            case.model(input_ids=torch.tensor([[3], [4]]), **{CACHE: cache})


@torch.no_grad()
def test_shortened_caches_in_turns_and_in_copies():
    """What a step needs to know of its prompt lies on the cache; each goes on as if it were alone."""
    case = Case("hf_video")
    other = case.inputs | {"input_ids": torch.cat([torch.tensor([[9, 9, 4]]), case.inputs["input_ids"]], dim=1)}
    other["attention_mask"] = torch.ones_like(other["input_ids"])
    with case.attached({"name": "random_drop", "keep": 0.5}) as run:
        want = []
        for inputs in (case.inputs, other):
            cache = cache_of(case.model(**inputs))
            want.append([case.step(cache, token).logits for token in (3, 4, 5)])
        caches = [cache_of(case.model(**inputs)) for inputs in (case.inputs, other)]
        got = [[], []]
        for token in (3, 4, 5):
            for number, cache in enumerate(caches):
                if token == 5:
                    case.generate()
                    cache = copy.deepcopy(cache)
                got[number].append(case.step(cache, token).logits)
        steps = run.report.stages["decode"].tokens
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
    assert steps == 3  # of the latest request, which is that of generate


def test_activations_are_named_in_one_order():
    case = Case("qwen2")
    case.model.model.layers[0].mlp.act_fn = torch.nn.GELU()
    silu = " or ".join(each.__name__ for each in language_prefill._SILU)
    assert language_prefill._SILU[0] is torch.nn.SiLU  # of a set it would be now the first, now the last
    with pytest.raises(ValueError, match=f"a GELU where {silu} is served"), case.attached({"name": "full"}, "on"):
        pass


@pytest.mark.parametrize("family", ["hf_video", "llava", "qwen2"])
def test_a_model_is_not_copied_with_its_hooks(family):
    case = Case(family)
    for method in ("full", "dynamic_pruning"):
        with case.attached({"name": method}), pytest.raises(TypeError, match="remove the method first"):
            copy.deepcopy(case.model)
