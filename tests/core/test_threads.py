"""Threads on one attached model: requests queue, loops of forward passes alternate, nobody waits for ever."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

import dycoke
from dycoke.registry import available
from tests.engine.asking import method
from tests.support.decode_small import PLAN, VISUAL, embeds, generate, qwen
from tests.support.subjects import PROMPTS, SUBJECTS, Clip, greedy

ROUNDS = int(os.environ.get("DYCOKE_THREAD_ROUNDS", "0"))  # 50, say, of every method; without it a round of some
ONE_OF_A_KIND = ("visionzip", "fastv", "dynamic_pruning", "dycoke", "flashvid")
CLIPS = [[[5, 6, Clip(8, seed), 7, *[9] * seed]] for seed in range(3)]
ASKED = [*CLIPS, PROMPTS["two_videos"]]
WAIT = 60  # seconds in which everything here is long done


@pytest.fixture
def often():
    """Let threads change places much more often than they do."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def at_once(*calls):
    """What the calls return, each made in a thread of its own, all begun together."""
    start = threading.Barrier(len(calls))

    def call(number):
        start.wait()
        return calls[number]()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result(WAIT) for each in [pool.submit(call, number) for number in range(len(calls))]]


@pytest.mark.parametrize("engine", ["off", "on"])
@pytest.mark.parametrize("name", available() if ROUNDS else ONE_OF_A_KIND)
@pytest.mark.parametrize("family", ["llava", "hf"])
@pytest.mark.usefixtures("often")
def test_threads_get_the_answers_they_would_get_in_turn(family, name, engine):
    subject, options = SUBJECTS[family](), {"max_new_tokens": 4, "eos_token_id": None}
    with dycoke.attach(subject.model, method(name), engine=engine) as run:

        def ask(prompt):
            # The engine answers plain calls alone, so ids without logits.
            out = subject.model.generate(**subject.inputs(prompt), **options, do_sample=False)
            return out.tolist(), run.report.frames

        alone = [ask(prompt) for prompt in ASKED]
        for _ in range(ROUNDS or 1):
            for count in (2, 4):
                assert at_once(*(lambda p=prompt: ask(p) for prompt in ASKED[:count])) == alone[:count]
        assert run.report.loop.startswith("engine" if engine == "on" else "stock")


def loop(model, seeds):
    """A prefill and its steps as users write them; yields behind each, and at the end has the logits of all."""
    found, past = [], None
    for seed in seeds:
        given = {"inputs_embeds": embeds(seed)} if past is None else {"input_ids": torch.tensor([[seed % 32]])}
        with torch.no_grad():  # closed before the yield: two loops that alternate would end them in another order
            out = model(**given, past_key_values=past)
        past = out.past_key_values
        found.append(out.logits[:, -1])
        yield torch.cat(found)


def test_loops_of_forward_passes_may_alternate():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL) as run:
        alone = [list(loop(model, range(start, start + 5)))[-1] for start in (0, 10)]
        first, second = (loop(model, range(start, start + 5)) for start in (0, 10))
        for _ in range(5):
            found = [next(first), next(second)]
        assert run.report.stages["decode"].tokens == 4  # of the second, which began last
    for mine, want in zip(found, alone, strict=True):
        torch.testing.assert_close(mine, want)


@pytest.mark.parametrize("name", ["llava", "hf"])
@pytest.mark.parametrize("plan", ["visionzip", "dycoke", "flashvid", "full"])
@pytest.mark.usefixtures("often")
def test_loops_in_threads(name, plan):
    subject = SUBJECTS[name]()

    def ask(prompt):
        inputs, found = subject.inputs(prompt), []
        mask = inputs["attention_mask"]
        with torch.no_grad():
            out = subject.model(**inputs)
            for _ in range(4):
                found.append(out.logits[:, -1].argmax(-1, keepdim=True))
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                own = {"attention_mask": mask} if name == "hf" else {}
                out = subject.model(input_ids=found[-1], past_key_values=out.past_key_values, **own)
        return torch.cat(found).tolist()

    with dycoke.attach(subject.model, method(plan)):
        alone = [ask(prompt) for prompt in CLIPS]
        for _ in range(ROUNDS or 2):
            assert at_once(*(lambda p=prompt: ask(p) for prompt in CLIPS)) == alone


@pytest.mark.usefixtures("often")
def test_embeddings_prepared_by_hand_are_the_threads_own():
    subject = SUBJECTS["llava"]()

    def ask(prompt):
        given = subject.inputs(prompt)
        with torch.no_grad():
            packed = subject.model.prepare_inputs_labels_for_multimodal(
                given["input_ids"], None, given["attention_mask"], None, None, given["images"], given["modalities"]
            )
            together.wait()
            return subject.model(inputs_embeds=packed[4], attention_mask=packed[2]).logits[0, -1]

    with dycoke.attach(subject.model, method("fastv")):
        together = threading.Barrier(1)
        alone = [ask(prompt) for prompt in CLIPS]
        together = threading.Barrier(len(CLIPS))
        for mine, want in zip(at_once(*(lambda p=prompt: ask(p) for prompt in CLIPS)), alone, strict=True):
            torch.testing.assert_close(mine, want)


class Held(BaseStreamer):
    """Keeps a request under way until it is let go."""

    def __init__(self) -> None:
        self.under_way, self.go = threading.Event(), threading.Event()

    def put(self, value) -> None:
        self.under_way.set()
        assert self.go.wait(WAIT)

    def end(self) -> None:
        pass


@pytest.fixture
def held():
    """A model in the middle of a request of another thread, and what lets that go on; with the request's answer."""
    model, streamer = qwen(), Held()
    with dycoke.attach(model, PLAN, visual=VISUAL) as run, ThreadPoolExecutor(2) as pool:
        answer = pool.submit(generate, model, streamer=streamer)
        assert streamer.under_way.wait(WAIT)
        try:
            yield model, run, streamer, answer, pool
        finally:
            streamer.go.set()


def test_other_models_do_not_wait(held):
    model, *_ = held
    other = qwen(model.config)  # of the same config
    before = model.config._attn_implementation
    with dycoke.attach(other, PLAN, visual=VISUAL):
        generate(other)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("call", [generate, lambda model: model(inputs_embeds=embeds()).logits], ids=["all", "forward"])
def test_requests_of_a_model_wait(held, call):
    model, _, streamer, answer, pool = held
    later = pool.submit(call, model)
    with pytest.raises(TimeoutError):
        later.result(0.2)
    streamer.go.set()
    assert answer.result(WAIT).shape == (1, 4)
    assert later.result(WAIT) is not None


def test_removing_waits_for_the_request_under_way(held):
    model, run, streamer, answer, pool = held
    removed = pool.submit(run.remove)
    with pytest.raises(TimeoutError):
        removed.result(0.2)
    streamer.go.set()
    assert answer.result(WAIT).shape == (1, 4)
    removed.result(WAIT)
    assert not {"generate", "forward"} & set(vars(model))


def test_a_prefill_without_steps_keeps_nobody_waiting():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL):
        want = generate(model)
        caches = at_once(lambda: model(inputs_embeds=embeds(1)).past_key_values)
        assert torch.equal(*at_once(lambda: generate(model), lambda: want))
        assert caches[0].get_seq_length() == VISUAL.shape[1]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", [generate, lambda model: model(inputs_embeds=embeds())], ids=["generate", "forward"])
def test_a_request_that_fails_lets_the_next_begin(call, error):
    model = qwen()

    def fail(*_):
        raise error

    with dycoke.attach(model, PLAN, visual=VISUAL):
        want = generate(model)
        hook = model.model.layers[2].register_forward_pre_hook(fail)
        with pytest.raises(error):
            call(model)
        hook.remove()
        assert torch.equal(*at_once(lambda: generate(model), lambda: want))


class Asks(StoppingCriteria):
    """Calls something at every step, and stops nothing."""

    def __init__(self, call) -> None:
        self.call, self.found = call, []

    def __call__(self, ids, scores, **kwargs):
        self.found.append(self.call())
        return torch.zeros(len(ids), dtype=torch.bool)


@pytest.mark.parametrize("engine", ["off", "on"])
@pytest.mark.parametrize("call", [generate, lambda m: m(inputs_embeds=embeds()).logits], ids=["generate", "forward"])
def test_a_request_may_ask_the_model_itself(call, engine):
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine=engine) as run:
        want, inner = generate(model), call(model)
        asks = Asks(lambda: call(model))
        assert torch.equal(generate(model, stopping_criteria=StoppingCriteriaList([asks])), want)
        assert len(asks.found) == 4
        for each in asks.found:  # the engine's own forward passes round in another way
            torch.testing.assert_close(each, inner, atol=1e-5, rtol=1e-5)
        if call is generate:  # the report is the outer one's
            assert run.report.loop.startswith("engine" if engine == "on" else "stock: engine='off'")


def test_a_method_is_not_removed_inside_a_request():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL) as run:
        want = generate(model)
        with pytest.raises(RuntimeError, match="cannot be removed inside a request"):
            generate(model, stopping_criteria=StoppingCriteriaList([Asks(run.remove)]))
        assert torch.equal(generate(model), want)


def test_every_thread_has_its_own_report():
    subject = SUBJECTS["hf"]()
    with dycoke.attach(subject.model, method("dycoke")) as run:
        two, one = threading.Event(), threading.Event()

        def ask(prompt, before, behind):
            assert before is None or before.wait(WAIT)
            greedy(subject, PROMPTS[prompt])
            behind.set()
            assert one.wait(WAIT)
            return run.report.frames

        assert at_once(lambda: ask("two_videos", None, two), lambda: ask("one_video", two, one)) == [16, 8]
        assert run.report.frames == 8  # this thread has asked nothing
        greedy(subject, PROMPTS["two_videos"])
        assert run.report.frames == 16


def test_tokens_are_streamed_from_a_thread():
    class Tokenizer:
        def decode(self, ids, **kwargs):
            return "".join(f"{token} " for token in ids)

    model, streamer = qwen(), TextIteratorStreamer(Tokenizer(), timeout=WAIT)
    with dycoke.attach(model, PLAN, visual=VISUAL):
        want = generate(model)
        worker = threading.Thread(target=generate, args=(model,), kwargs={"streamer": streamer})
        worker.start()
        assert "".join(streamer).split() == [str(token) for token in want[0].tolist()]
        worker.join(WAIT)


def test_a_generate_of_the_users_own_queues_and_comes_back():
    model = qwen()
    stock = type(model).generate
    model.generate = own = lambda *args, **kwargs: stock(model, *args, **kwargs)
    with dycoke.attach(model, PLAN, visual=VISUAL) as run:
        assert model.generate is not own
        want = generate(model)
        assert all(torch.equal(each, want) for each in at_once(*[lambda: generate(model)] * 3))
        assert run.report.loop == "stock: the model has a generate of its own"
    assert model.generate is own
