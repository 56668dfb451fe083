"""Entries in host memory: the same answers, less on the device, and only what came in is fetched.

Without a GPU the fetching runs by its torch reference; the arithmetic and the book-keeping are the same.
"""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.methods import DynamicPruning
from tests.cases import folded
from tests.llava import tiny
from tests.support.subjects import PROMPTS, SUBJECTS, greedy, greedy_with_logits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def host_cache(monkeypatch):
    monkeypatch.setattr("dycoke.stages.decode.host_cache_works", lambda model: True)


@folded("prompt", ["one_video", "two_videos", "batch", "text"])
@pytest.mark.parametrize("name", ["llava", "llava_grid", "llava_llama", "hf"])
def test_answers_are_those_of_the_device(name, prompt):
    subject, prompts = SUBJECTS[name](), PROMPTS[prompt]
    answers, read = {}, {}
    for place in ("device", "host"):
        method = dycoke.build("dycoke", l=2, p=0.6, refresh=1.0, dp_cache=place)
        with dycoke.attach(subject.model, method, trace=True) as run:
            answers[place] = greedy_with_logits(subject, prompts, eos_token_id=None)
            read[place] = run.report.keeps
    assert read["host"] == read["device"]
    assert torch.equal(answers["host"][0], answers["device"][0])
    for ours, want in zip(answers["host"][1], answers["device"][1], strict=True):
        torch.testing.assert_close(ours, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["llava", "hf"])
@pytest.mark.parametrize("decode", ["dynamic", "random"])
def test_beams_move_slots_and_the_host_rows_stay(name, decode):
    subject, beams = SUBJECTS[name](), {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": None}
    answers = []
    for place in ("device", "host"):
        method = dycoke.build("dycoke", l=2, p=0.6, refresh=1.0, decode=decode, dp_cache=place)
        with dycoke.attach(subject.model, method):
            answers.append(greedy(subject, PROMPTS["batch"], max_new_tokens=8, **beams))
    assert torch.equal(*answers)


class Chooses:
    """A decode policy that reads what it is told, one set a step."""

    first_layer, dp_cache = 2, "host"

    def __init__(self, sets: list[list[int]]) -> None:
        self.sets = sets

    def budget(self, visual: int) -> int:
        return len(self.sets[0])

    def start(self, visual):
        self.turn = 0
        return type("State", (), {"keep": torch.full((len(visual), len(self.sets[0])), -1, device=visual.device)})()

    def step(self, state, attn):
        state.keep.copy_(torch.tensor(self.sets[self.turn], device=attn.device).expand_as(state.keep))
        self.turn += 1


def test_only_what_came_in_is_fetched():
    """Three columns at first, then none, one, and two; a column that left and comes back is fetched again."""
    sets = [[4, 5, 9], [4, 5, 9], [4, 9, 11], [5, 9, 10], [5, 9, 10]]
    config = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 4}
    model = Qwen2ForCausalLM(Qwen2Config(**config, num_attention_heads=4, num_key_value_heads=2)).eval()
    tiny.fill_randomly(model)
    model.to(DEVICE)
    visual = torch.zeros(1, 14, dtype=torch.bool)
    visual[:, 3:12] = True
    embeds = torch.randn(1, 14, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def generate(policy):
        with dycoke.attach(model, dycoke.Plan(decode=policy), visual=visual, trace=True) as run:
            ids = model.generate(inputs_embeds=embeds, max_new_tokens=6, do_sample=False, eos_token_id=None)
            return ids, run.report

    ids, report = generate(Chooses(sets))
    text = [0, 1, 2, 12, 13]
    assert report.keeps == [[sorted(text + keep) + list(range(14, 15 + t))] for t, keep in enumerate(sets)]
    column = 2 * 2 * 16 * 4  # keys and values, two heads of 16, fp32
    assert report.cache.fetched_bytes == (3 + 0 + 1 + 2 + 0) * 2 * column  # two pruned layers
    assert report.cache.host_bytes == 2 * 14 * column
    # Two layers whole, two with the text and three slots; each with a tail of 64.
    assert report.cache.device_bytes == (2 * 14 + 2 * (5 + 3) + 4 * 64) * column
    on_device = Chooses(sets)
    on_device.dp_cache = "device"
    want, kept = generate(on_device)
    assert torch.equal(ids, want) and kept.cache.host_bytes == kept.cache.fetched_bytes == 0


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_device_memory_after_prefill_is_what_the_report_says():
    config = {"vocab_size": 32, "hidden_size": 512, "intermediate_size": 64, "num_hidden_layers": 12}
    model = Qwen2ForCausalLM(Qwen2Config(**config, num_attention_heads=4, num_key_value_heads=4)).eval().cuda()
    visual = torch.zeros(1, 4000, dtype=torch.bool)
    visual[:, 20:3980] = True
    embeds = torch.randn(1, 4000, 512, device="cuda")
    held = {}
    for place in ("device", "host"):
        plan = dycoke.Plan(decode=DynamicPruning(2, 0.7, dp_cache=place))
        with dycoke.attach(model, plan, visual=visual) as run, torch.no_grad():
            model(inputs_embeds=embeds, logits_to_keep=1)
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            cache = model(inputs_embeds=embeds, logits_to_keep=1).past_key_values
            torch.cuda.synchronize()
            held[place] = torch.cuda.memory_allocated() - before
            counted = run.report.cache.device_bytes
            assert counted <= held[place] < 1.05 * counted  # masks and states of the request come on top
            del cache
    assert held["host"] < 0.45 * held["device"]
