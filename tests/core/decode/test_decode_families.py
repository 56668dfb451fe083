"""Which tokens each family calls visual while decoding, and that its attention backends all serve."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.generation.streamers import BaseStreamer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import dycoke
from dycoke.methods import DynamicPruning
from tests.cases import folded
from tests.support.oracle import whole
from tests.support.subjects import PROMPTS, STILLS, SUBJECTS, HFSubject, greedy, greedy_with_logits


def visual_slots(subject, prompts) -> list[list[int]]:
    """Slots of the video tokens of each row, without their newlines."""
    batch = whole(subject, prompts)
    slots = [[] for _ in prompts]
    for row, found, _ in batch.videos:
        slots[row] += found.tolist()
    return slots


@folded("prompt", ["one_video", "two_videos", "batch"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_text_and_newlines_are_always_read(name, prompt):
    """Read are all text columns, newlines with them, and int(V * (1 - P)) of each row's visual ones."""
    subject, prompts = SUBJECTS[name](), PROMPTS[prompt]
    batch = whole(subject, prompts)
    real, visual = batch.mask, visual_slots(subject, prompts)
    if not isinstance(subject, HFSubject):  # `generate` pads on the left, packing alone on the right
        length = real.sum(1)
        visual = [[s + real.shape[1] - int(n) for s in row] for row, n in zip(visual, length, strict=True)]
        real = real.flip(1)
    with dycoke.attach(subject.model, dycoke.build("dynamic_pruning", layer=2, p=0.6), trace=True) as run:
        greedy(subject, prompts, eos_token_id=None)
        keeps, report = run.report.keeps, run.report.cache
    assert len(keeps) == 5 and report.steps == 5
    for t, step in enumerate(keeps):
        for row, read in enumerate(step):
            own = set(visual[row])
            text = set(real[row].nonzero().flatten().tolist()) - own
            answer = set(range(real.shape[1], real.shape[1] + t + 1))
            assert read == sorted(read) and set(read) - own == text | answer
            assert len(set(read) & own) == int(len(own) * (1 - 0.6))


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_image_tokens_are_visual_and_their_newlines_text(name):
    """transformers' family gives an image's newlines the ids of its tokens."""
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, dycoke.build("dynamic_pruning", layer=2, p=0.6), trace=True) as run:
        greedy(subject, STILLS["image"], eos_token_id=None)
        read, tokens = len(run.report.keeps[0][0]), run.report.stages["prefill"].tokens
    # hf: a whole picture of 36 tokens and a tile of 6 rows, 36 tokens and 6 newlines.
    # llava: 64 for the picture; its tile, doubled by the smallest pinpoint, is read from the model itself.
    visual = 72 if name == "hf" else subject_visual(subject)
    assert read == tokens - visual + int(visual * (1 - 0.6)) + 1


def subject_visual(subject) -> int:
    """Visual tokens of the still picture, as the seam is told."""
    seen = []

    class Seam:
        def video(self, frames, grid, newline, text, rows):
            raise AssertionError("a still picture is no video")

        def release(self):
            """Nothing was kept."""

        def packed(self, packed):
            seen.append(int(packed.visual.sum()))

    subject.model.video_seam = Seam()
    greedy(subject, STILLS["image"], max_new_tokens=1)
    del subject.model.video_seam
    return seen[0]


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_a_prompt_without_visual_tokens_is_read_whole(name):
    subject = SUBJECTS[name]()
    want = greedy(subject, PROMPTS["text"], eos_token_id=None)
    with dycoke.attach(subject.model, dycoke.build("dycoke", l=1, p=0.9), trace=True) as run:
        greedy(subject, PROMPTS["one_video"])  # nothing of it may stay behind
        assert torch.equal(greedy(subject, PROMPTS["text"], eos_token_id=None), want)
        report = run.report
    assert report.cache.read_below == report.cache.read_from == 4 + 3
    assert report.keeps == [[list(range(4 + t + 1))] for t in range(5)]


@pytest.mark.parametrize("name", ["llava", "llava_llama", "hf"])
def test_every_attention_backend_gives_the_same_answer(name, monkeypatch):
    """eager, sdpa and flash_attention_2, for which a function of its signature stands in: it is not installed here."""
    calls = []

    def flash(module, query, key, value, attention_mask, dropout=0.0, scaling=None, sliding_window=None, **kwargs):
        assert attention_mask is None or attention_mask.ndim == 2  # what its mask function makes
        calls.append(query.shape[2])
        if attention_mask is None:
            return sdpa_attention_forward(module, query, key, value, None, dropout, scaling)
        length = query.shape[2]
        causal = torch.ones(length, length, dtype=torch.bool).tril() & attention_mask[:, None, None, :].bool()
        causal |= torch.eye(length, dtype=torch.bool)  # padding sees itself, or it would see nothing
        return sdpa_attention_forward(module, query, key, value, causal, dropout, scaling)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    subject = SUBJECTS[name]()
    config = subject.language_model().config
    method, prompts = dycoke.build("dycoke", l=2, p=0.6), PROMPTS["batch"]
    answers = {}
    for backend in ("sdpa", "eager", "flash_attention_2"):
        config._attn_implementation = backend
        with dycoke.attach(subject.model, method):
            attention = subject.language_model().layers[0].self_attn
            assert attention.config._attn_implementation == f"dycoke_{backend}"
            assert config._attn_implementation == backend  # what others read, and save
            answers[backend] = greedy_with_logits(subject, prompts, eos_token_id=None)
        assert attention.config is config
    assert calls and min(calls) > 1  # prefill alone; steps read the index
    for backend in ("eager", "flash_attention_2"):
        assert torch.equal(answers[backend][0], answers["sdpa"][0])
        for ours, want in zip(answers[backend][1], answers["sdpa"][1], strict=True):
            torch.testing.assert_close(ours, want, atol=1e-5, rtol=0)


def test_every_registered_name_is_known_to_transformers():
    for backend in ("sdpa", "eager", "flash_attention_2"):
        assert f"dycoke_{backend}" in AttentionInterface._global_mapping


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_the_vision_tower_keeps_its_attention(name):
    subject = SUBJECTS[name]()
    towers = [m for m in subject.model.modules() if "Vision" in type(m).__name__ and hasattr(m, "config")]
    before = [tower.config._attn_implementation for tower in towers]
    with dycoke.attach(subject.model, dycoke.build("dynamic_pruning", layer=1)):
        assert [tower.config._attn_implementation for tower in towers] == before
        attention = subject.language_model().layers[0].self_attn
        assert attention.config._attn_implementation == "dycoke_sdpa"


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_sampling_and_several_answers(name):
    """With P = 0 a seeded sample is the untouched model's, also where one prompt gives several answers."""
    subject, options = SUBJECTS[name](), {"do_sample": True, "num_return_sequences": 3, "eos_token_id": None}

    def sample():
        torch.manual_seed(0)
        return greedy(subject, PROMPTS["batch"], **options)

    want = sample()
    with dycoke.attach(subject.model, dycoke.Plan(decode=DynamicPruning(2, 0.0))):
        assert torch.equal(sample(), want)


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_streaming_hands_out_the_tokens_of_the_answer(name):
    class Collected(BaseStreamer):
        def __init__(self):
            self.ids, self.ended = [], False

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            self.ended = True

    subject, streamer = SUBJECTS[name](), Collected()
    with dycoke.attach(subject.model, dycoke.build("dycoke", l=2, p=0.6)) as run:
        want = greedy(subject, PROMPTS["one_video"], eos_token_id=None)
        got = greedy(subject, PROMPTS["one_video"], eos_token_id=None, streamer=streamer)
        assert run.report.cache.read_from < run.report.cache.read_below
    assert torch.equal(got, want) and streamer.ended
    assert streamer.ids[-want.shape[1] :] == want[0].tolist()  # the prompt's ids come first


@pytest.mark.parametrize("name", ["llava", "hf"])
def test_the_report_counts_what_is_held_and_read(name):
    subject = SUBJECTS[name]()
    config = subject.language_model().config
    with dycoke.attach(subject.model, dycoke.build("dycoke", l=2, p=0.6)) as run:
        greedy(subject, PROMPTS["one_video"], eos_token_id=None)
        report, again = run.report.cache, run.report.cache
    prompt, visual = run.report.stages["prefill"].tokens, run.report.stages["compress"].tokens
    assert (report.layers, report.first_layer, report.steps) == (4, 2, 5)
    assert report.read_below == prompt + 3  # one to five tokens of the answer
    assert report.read_from == prompt + 3 - visual + int(visual * 0.4)
    assert 1 <= report.selections <= 5 and report == again
    head = config.hidden_size // config.num_attention_heads
    column = 2 * config.num_key_value_heads * head * 4
    assert report.device_bytes == 4 * column * (prompt + 64) and report.host_bytes == report.fetched_bytes == 0
