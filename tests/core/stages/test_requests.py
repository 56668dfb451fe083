"""Requests on an attached model: one after another, in batches, with every cache, continued, refused."""

import copy

import pytest
import torch
from transformers import CompileConfig

import dycoke
from tests.cases import mostly_thorough
from tests.support.subjects import PROMPTS, SUBJECTS, greedy

NAMES = ["llava", "hf"]


@pytest.mark.parametrize("name", NAMES)
def test_state_does_not_leak_between_requests(name):
    """Requests of other lengths in between change nothing."""
    subject = SUBJECTS[name]()
    order = ["one_video", "two_videos", "text", "batch", "one_video", "text", "batch", "two_videos"]
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions="original")):
        together = [greedy(subject, PROMPTS[key]) for key in order]
    for key, ids in zip(order, together, strict=True):
        with dycoke.attach(subject.model, dycoke.build("dycoke", positions="original")):
            assert torch.equal(greedy(subject, PROMPTS[key]), ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["packed", "original"])
def test_a_batch_answers_as_its_rows_alone(name, positions):
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions=positions)):
        together = greedy(subject, PROMPTS["batch"], eos_token_id=None)
        alone = torch.cat([greedy(subject, [row], eos_token_id=None) for row in PROMPTS["batch"]])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["packed", "original"])
@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_every_cache_gives_the_same_answer(name, positions, options):
    subject = SUBJECTS[name]()
    decode = "off" if options.get("use_cache") is False else "dynamic"  # nothing to prune without a cache
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions=positions, decode=decode)):
        want = greedy(subject, PROMPTS["batch"])
        assert torch.equal(greedy(subject, PROMPTS["batch"], **options), want)


def test_without_a_cache_there_is_nothing_to_prune_and_it_says_so():
    subject = SUBJECTS["hf"]()
    with dycoke.attach(subject.model, dycoke.build("dycoke")) as run:
        with pytest.warns(UserWarning, match="use_cache=False: there is no cache to prune"):
            greedy(subject, PROMPTS["one_video"], use_cache=False)
        assert run.report.cache is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_code_does_not_pass_the_method_by(name):
    """generate compiles for a static cache, and torch.compile reuses code without looking at hooks."""
    subject = SUBJECTS[name]()
    compiling = CompileConfig(backend="eager", fullgraph=False)
    compiling._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": compiling}
    prompts = PROMPTS["one_video"]
    untouched = greedy(subject, prompts, **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # or nothing was compiled
    with dycoke.attach(subject.model, dycoke.build("dycoke")) as run:
        want = greedy(subject, prompts, eos_token_id=None)
        assert torch.equal(greedy(subject, prompts, eos_token_id=None, **options), want)
        assert run.report.stages["decode"].tokens == 5
    assert torch.equal(greedy(subject, prompts, **options), untouched)
    assert not subject.model.generation_config.disable_compile


@pytest.mark.slow  # for tracing a whole model three times
@pytest.mark.parametrize("name", mostly_thorough(NAMES, ["llava"]))
@torch.no_grad()
def test_a_forward_compiled_by_the_user_does_not_pass_the_method_by(name):
    subject = SUBJECTS[name]()
    inputs = subject.inputs(PROMPTS["one_video"])
    method = dycoke.build("dycoke")
    with dycoke.attach(subject.model, method):
        want = subject.model(**inputs).logits
    subject.model.forward = torch.compile(subject.model.forward, backend="eager")
    untouched = subject.model(**inputs).logits
    with dycoke.attach(subject.model, method):
        torch.testing.assert_close(subject.model(**inputs).logits, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(subject.model(**inputs).logits, untouched, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["packed", "original"])
def test_beams_of_one_row_are_those_of_the_batch(name, positions):
    subject, beams = SUBJECTS[name](), {"num_beams": 3, "num_return_sequences": 2}
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions=positions)):
        together = greedy(subject, PROMPTS["batch"], **beams)
        alone = torch.cat([greedy(subject, [row], **beams) for row in PROMPTS["batch"]])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_original_positions_need_no_mask_and_no_cache(name):
    """Without a mask and a cache transformers would take a gap in the positions for the border of a packed sample."""
    subject = SUBJECTS[name]()
    inputs = subject.inputs(PROMPTS["one_video"])
    with dycoke.attach(subject.model, dycoke.build("dycoke", positions="original", decode="off")):
        want = subject.model(**inputs, use_cache=False).logits
        del inputs["attention_mask"]
        got = subject.model(**inputs, use_cache=False).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_hf_keeps_padding_and_holes_of_the_mask(side):
    """Padding common to all rows, on either side, and a masked token in the middle: full changes nothing."""
    subject = SUBJECTS["hf"]()
    inputs = subject.inputs(PROMPTS["batch"])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if side == "right":
        rows = [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    pad = (2, 0) if side == "left" else (0, 2)
    ids, mask = torch.nn.functional.pad(ids, pad), torch.nn.functional.pad(mask, pad)
    mask[0, -2 if side == "left" else 0] = 0
    inputs |= {"input_ids": ids, "attention_mask": mask}
    want = subject.model(**inputs).logits
    with dycoke.attach(subject.model, dycoke.build("full")):
        got = subject.model(**inputs).logits
    assert got.shape == want.shape
    torch.testing.assert_close(got[mask.bool()], want[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", ["one_video", "batch"])
def test_hf_continues_a_cache_in_order_or_not_at_all(prompt):
    subject = SUBJECTS["hf"]()
    inputs = subject.inputs(PROMPTS[prompt])
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [60, 61], "eos_token_id": None}
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        out = subject.model.generate(**inputs, **options, return_dict_in_generate=True)
        longer = torch.cat([out.sequences, torch.full_like(out.sequences[:, :2], 7)], dim=1)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 6), value=1)
        with pytest.raises(ValueError, match="cannot be continued to slot"):
            subject.model.generate(
                input_ids=longer, attention_mask=mask, past_key_values=out.past_key_values, **options
            )


@pytest.mark.parametrize("name", NAMES)
def test_prompt_lookup_takes_tokens_back(name):
    """Assisted decoding reads several tokens at once and crops the cache; full must answer as the untouched model."""
    subject = SUBJECTS[name]()
    prompts = [[5, 6, 7, 8, PROMPTS["one_video"][0][2], 5, 6, 7, 8, 5, 6]]
    options = {"max_new_tokens": 12, "prompt_lookup_num_tokens": 3}
    want = greedy(subject, prompts, **options)
    with dycoke.attach(subject.model, dycoke.build("full")):
        assert torch.equal(greedy(subject, prompts, **options), want)


def test_hf_refuses_what_it_cannot_honour():
    subject = SUBJECTS["hf"]()
    inputs = subject.inputs(PROMPTS["one_video"])
    ids = inputs["input_ids"]
    with dycoke.attach(subject.model, dycoke.build("dycoke")):
        with pytest.raises(ValueError, match="labels="):
            subject.model(**inputs, labels=ids)
        with pytest.raises(ValueError, match="logits_to_keep="):
            subject.model(**inputs, logits_to_keep=torch.tensor([3]))
        with pytest.raises(ValueError, match="needs input_ids"):
            subject.model(inputs_embeds=torch.zeros(1, 4, 32))
        with torch.no_grad():  # what has gradients cannot be copied
            cache = subject.model(**inputs).past_key_values
        with pytest.raises(ValueError, match="a step of 2 tokens"):
            subject.model(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)
        with pytest.raises(ValueError, match="of another request"):
            subject.model(input_ids=torch.tensor([[5, 6]]), past_key_values=copy.deepcopy(cache))
        with pytest.raises(ValueError, match=r"18 <video> ids in a row: expected T \* 9 \+ 1"):
            subject.model(input_ids=torch.cat([ids[:, :20], ids[:, -3:]], dim=1))
