"""A prompt longer than the model reads, behind compression, is refused with both lengths, whoever asks."""

import pytest
import torch

import dycoke
from dycoke.offline.generate import generate_many
from tests.engine.asking import method
from tests.support.decode_small import PLAN, VISUAL, embeds, generate, qwen
from tests.support.subjects import PROMPTS, SUBJECTS, greedy

NAMES = ["llava", "hf"]


def limit(subject, tokens: int) -> None:
    subject.model.config.get_text_config().max_position_embeddings = tokens


@pytest.mark.parametrize("engine", ["off", "on"])
@pytest.mark.parametrize("name", NAMES)
def test_what_must_fit_is_what_compression_leaves(name, engine):
    subject = SUBJECTS[name]()
    with dycoke.attach(subject.model, method("dycoke")) as run:
        want = greedy(subject, PROMPTS["one_video"])
        length = run.report.stages["prefill"].tokens
    limit(subject, length)
    with dycoke.attach(subject.model, method("dycoke"), engine=engine) as run:
        assert torch.equal(greedy(subject, PROMPTS["one_video"]), want)
    made = 8 * subject.grid[0] * subject.grid[1] + 6
    with dycoke.attach(subject.model, method("full"), engine=engine) as run:
        for call in (greedy, lambda *given: subject.model(**subject.inputs(given[1]))):
            with pytest.raises(ValueError, match=f"fills the {length} tokens the model reads: it has {made}"):
                call(subject, PROMPTS["one_video"])
        with pytest.raises(RuntimeError, match="no report yet"):  # which would tell of tokens nobody read
            _ = run.report


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_count(name):
    subject = SUBJECTS[name]()
    prompts = [PROMPTS["one_video"][0], [*PROMPTS["one_video"][0], 7, 8]]
    limit(subject, 8 * subject.grid[0] * subject.grid[1] + 8)
    with dycoke.attach(subject.model, method("full")):
        want = greedy(subject, prompts)
        inputs = subject.inputs(prompts)
        for key in ("input_ids", "attention_mask"):
            inputs[key] = torch.nn.functional.pad(inputs[key], (9, 0))
        out = subject.model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=[60, 61])
        assert torch.equal(out[:, -want.shape[1] :], want)


def test_a_bare_language_model():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        want = generate(model)
        model.config.max_position_embeddings = VISUAL.shape[1]
    with dycoke.attach(model, PLAN, visual=VISUAL):
        assert torch.equal(generate(model), want)  # steps may go on behind the context
        model.config.max_position_embeddings = VISUAL.shape[1] - 1
    said = "fills the 11 tokens the model reads: it has 12"
    with dycoke.attach(model, PLAN, visual=VISUAL), pytest.raises(ValueError, match=said):
        model(inputs_embeds=embeds())


@pytest.mark.parametrize("name", NAMES)
def test_many_requests_of_which_one_is_found_too_long_while_they_run(name):
    """What an adaptive method leaves of a video is known behind it only; the request is named all the same."""
    subject = SUBJECTS[name]()
    rows = [PROMPTS["text"][0], PROMPTS["one_video"][0]]
    requests = [{k: v for k, v in subject.inputs([row]).items() if k != "image_sizes"} for row in rows]
    limit(subject, 12)
    said = r"requests\[1\]: the prompt fills the 12 tokens the model reads: it has"
    with dycoke.attach(subject.model, method("holitom")), pytest.raises(ValueError, match=said):
        generate_many(subject.model, requests, max_new_tokens=2, do_sample=False)
