"""`generate` of a model that carries a method: what the engine takes, what it leaves to the stock loop, and says so."""

import gc
import weakref

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import dycoke
from dycoke.engine import padded
from dycoke.methods import DynamicPruning
from tests.core.decode_small import PLAN, VISUAL, embeds, qwen
from tests.core.subjects import PROMPTS, SUBJECTS, Clip
from tests.engine.asking import answers, ask, method


def generate(model, **options):
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    return model.generate(inputs_embeds=embeds(), **options)


def both(model, **options):
    """Ids of the stock loop and of the engine, and who answered the second time."""
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        stock = generate(model, **options)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        return stock, generate(model, **options), run.report.loop


class Ended(StoppingCriteria):
    """Ends a row at its n-th new token."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self.lengths, self.prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids.shape[1] - self.prompt >= self.lengths).to(input_ids.device)


class Heard(BaseStreamer):
    def __init__(self) -> None:
        self.put_ids, self.ended = [], False

    def put(self, value):
        self.put_ids.append(value.tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "eos_token_id": list(range(1, 32))},
        {"bad_words_ids": [[3], [5]]},
        {"max_new_tokens": 1},
        {"max_new_tokens": 70},
    ],
    ids=str,
)
def test_greedy_settings(options):
    stock, ours, loop = both(qwen(), **options)
    assert torch.equal(ours, stock)
    assert loop == "engine"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.4, "top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}], ids=str)
def test_sampling_draws_as_the_stock_loop_does(options):
    model, drawn = qwen(), []
    for engine in ("off", "on"):
        with dycoke.attach(model, PLAN, visual=VISUAL, engine=engine):
            torch.manual_seed(5)
            drawn.append(generate(model, do_sample=True, **options))
    assert torch.equal(*drawn)
    torch.manual_seed(6)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        assert not torch.equal(generate(model, do_sample=True, temperature=3.0), drawn[0])


def test_rows_end_apart():
    """Of a batch, each row at its own end-of-sequence; what follows is padding, and the longest decides."""
    subject = SUBJECTS["llava"]()
    free, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", eos_token_id=None)
    ends = sorted({int(free[0, 1]), int(free[1, 4])})
    options = {"eos_token_id": ends, "pad_token_id": 0}
    stock, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", **options)
    ours, report = answers(subject, PROMPTS["batch"], method("dycoke"), "on", **options)
    assert torch.equal(ours, stock)
    assert report.loop == "engine"
    assert (ours == 0).any()


@pytest.mark.parametrize("lengths", [[2, 5, 3, 4], [1, 1, 1, 1], [8, 8, 2, 8]], ids=str)
@pytest.mark.parametrize("eos", [None, [63]], ids=str)
def test_criteria_of_the_user(lengths, eos):
    subject = SUBJECTS["llava"]()
    criteria = StoppingCriteriaList([Ended(lengths, prompt=0)])
    options = {"stopping_criteria": criteria, "eos_token_id": eos, "pad_token_id": 0}
    stock, _ = answers(subject, PROMPTS["batch"], method("dycoke"), "off", **options)
    ours, report = answers(subject, PROMPTS["batch"], method("dycoke"), "on", **options)
    assert torch.equal(ours, stock)
    assert report.stages["decode"].tokens == 4 * (max(lengths) - 1)


def test_a_streamer_by_position():
    subject, heard = SUBJECTS["hf"](), Heard()
    with dycoke.attach(subject.model, method("full"), engine="on"):
        inputs, config = subject.inputs(PROMPTS["text"]), GenerationConfig(max_new_tokens=3, do_sample=False)
        subject.model.generate(inputs.pop("input_ids"), config, None, None, None, None, None, heard, **inputs)
    assert len(heard.put_ids) == 4
    assert heard.ended


def test_tokens_are_streamed():
    model, heard = qwen(), Heard()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        ids = generate(model, streamer=heard)
    assert heard.put_ids == [[[]], *([token] for token in ids[0].tolist())]
    assert heard.ended


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"use_cache": False}, "use_cache=False"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate=True"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:use_cache=False")
def test_another_loop_is_said(options, why):
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        generate(model, **options)
        assert run.report.loop == f"stock: {why}"
        generate(model)
        assert run.report.loop == "engine"


def test_settings_of_the_model_count():
    model = qwen()
    model.generation_config.num_beams = 2
    assert both(model)[2] == "stock: num_beams=2"


def test_the_report_counts_as_in_the_stock_loop():
    model, reports = qwen(), []
    for engine in ("off", "on"):
        with dycoke.attach(model, PLAN, visual=VISUAL, engine=engine) as run:
            generate(model)
            reports.append(run.report)
    stock, ours = reports
    assert {name: each.tokens for name, each in ours.stages.items()} == {
        name: each.tokens for name, each in stock.stages.items()
    }
    for name in ("steps", "read_below", "read_from", "selections"):
        assert getattr(ours.cache, name) == getattr(stock.cache, name), name
    assert ours.cache.device_bytes > stock.cache.device_bytes  # a bucket's columns


def test_rows_that_stand_for_nothing_are_not_counted():
    """Three rows run in a bucket of four."""
    subject, prompts, read = SUBJECTS["llava"](), PROMPTS["batch"][:3], []
    for engine in ("off", "on"):
        cache = answers(subject, prompts, method("dycoke"), engine)[1].cache
        read.append((cache.read_below, cache.read_from))
    assert read[0] == read[1]


def test_generate_is_given_back():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        assert "generate" in vars(model)
    assert "generate" not in vars(model)
    with pytest.raises(RuntimeError, match="stop"), dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        raise RuntimeError("stop")
    assert "generate" not in vars(model)


def test_a_generate_of_the_users_own_is_left_alone():
    model, calls = qwen(), []
    stock = type(model).generate

    def mine(**kwargs):
        calls.append(kwargs)
        return stock(model, **kwargs)

    model.generate = mine
    with pytest.raises(ValueError, match="engine='on': the model has a generate of its own"):
        dycoke.apply(model, PLAN, visual=VISUAL, engine="on")
    with dycoke.attach(model, PLAN, visual=VISUAL):
        generate(model)
    del model.generate
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        ours = model.generate
        model.generate = mine
    assert model.generate is mine
    assert len(calls) == 1
    assert torch.equal(
        ours(inputs_embeds=embeds(), max_new_tokens=2), stock(model, inputs_embeds=embeds(), max_new_tokens=2)
    )


def test_the_model_can_be_dropped():
    model = qwen()
    dycoke.apply(model, PLAN, visual=VISUAL, engine="on")
    generate(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_failed_request_leaves_no_trace():
    class Stop(Heard):
        def put(self, value):
            super().put(value)
            if len(self.put_ids) == 3:
                raise RuntimeError("enough")

    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        want = generate(model)
        with pytest.raises(RuntimeError, match="enough"):
            generate(model, streamer=Stop())
        assert torch.equal(generate(model), want)


def test_weights_that_move_are_found():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        generate(model)
        model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(-model.model.layers[0].mlp.up_proj.weight)
        for weight in model.parameters():
            weight.data = 1.5 * weight.data
        ours = generate(model)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        assert torch.equal(ours, generate(model))


@pytest.mark.parametrize("name", ["lm_head", "model.layers.1.mlp", "model.layers.1", "model", "", "model.norm"])
@pytest.mark.parametrize("before", [False, True])
def test_hooks_are_not_passed_by(name, before):
    model, seen = qwen(), []

    def hook():
        return model.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))

    handle = hook() if before else None
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        handle = handle or hook()
        generate(model)
        assert run.report.loop == f"stock: a {type(model.get_submodule(name)).__name__} carries hooks"
        assert len(seen) == 8
        handle.remove()
        generate(model)
        assert run.report.loop == "engine"


def test_a_layer_with_a_forward_of_its_own():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        model.model.layers[1].forward = model.model.layers[1].forward
        generate(model)
        assert run.report.loop == "stock: a Qwen2DecoderLayer has a forward of its own"


def test_on_is_refused_where_it_cannot_be_had():
    model = qwen()
    with pytest.raises(ValueError, match=r"engine='on': trace=True; accepted: engine='auto' or 'off'"):
        dycoke.apply(model, PLAN, visual=VISUAL, engine="on", trace=True)
    with pytest.raises(ValueError, match=r"engine='fast': expected one of auto, on, off"):
        dycoke.apply(model, PLAN, visual=VISUAL, engine="fast")
    with pytest.raises(ValueError, match="training mode"):
        dycoke.apply(model.train(), PLAN, visual=VISUAL, engine="on")


def test_auto_leaves_a_model_on_the_cpu_alone():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL) as run:
        generate(model)
        assert run.report.loop == "stock: the model is on the CPU"


def test_buckets():
    assert [padded.row_bucket(n) for n in (1, 3, 64, 65, 130)] == [1, 4, 64, 128, 192]
    assert [padded.column_bucket(n) for n in (1, 256, 257, 2990, 6302, 9000)] == [256, 256, 512, 3072, 6656, 9216]
    assert [padded.tail_bucket(n) for n in (1, 64, 65)] == [64, 64, 128]


def test_stores_are_shared_by_prompts_of_about_one_length():
    subject = SUBJECTS["llava"]()
    with dycoke.attach(subject.model, method("dycoke"), engine="on"):
        engine = subject.model.generate._engine
        for kind in ("one_video", "text", "one_video"):
            ask(subject, PROMPTS[kind])
        assert len(engine._buckets) == 2  # with something to prune, and without


@pytest.mark.parametrize("name", ["dycoke", "fastv", "official"])
def test_a_graph_finds_its_tensors_where_they_were(name):
    """Taking a request moves nothing that a step reads or writes: a graph would go on at the old address."""
    subject = SUBJECTS["llava"]()
    plan = method("dycoke", variant="official") if name == "official" else method(name)
    with dycoke.attach(subject.model, plan, engine="on"):
        ask(subject, PROMPTS["one_video"])
        (bucket,) = subject.model.generate._engine._buckets.values()
        before = {where: each.data_ptr() for where, each in tensors(bucket)}
        ask(subject, PROMPTS["one_video"])
        after = {where: each.data_ptr() for where, each in tensors(bucket)}
    assert len(before) > 30
    assert after == before


def tensors(value, where: str = "", seen: set | None = None):
    """Every tensor that can be reached from a bucket by attributes, but for what a step makes anew."""
    seen = set() if seen is None else seen
    if id(value) in seen or where.endswith(("_listed", "pruned", ".rotated", "_weights")):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from tensors(each, f"{where}[{key}]", seen)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from tensors(each, f"{where}[{number}]", seen)
    elif type(value).__module__.startswith("dycoke"):
        names = [*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", {})]
        for name in names:
            yield from tensors(getattr(value, name), f"{where}.{name}", seen)


def test_a_layer_that_is_replaced_is_found():
    """As adapters of weights do, which hold the old linear and hand out its weight."""

    class Adapted(torch.nn.Linear):
        pass

    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        generate(model)
        old = model.model.layers[0].mlp.up_proj
        model.model.layers[0].mlp.up_proj = Adapted(old.in_features, old.out_features, bias=False)
        model.model.layers[0].mlp.up_proj.weight = old.weight
        generate(model)
        assert run.report.loop == "stock: a Adapted where Linear is served"


def test_autocast_takes_the_stock_loop():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run, torch.autocast("cpu", torch.bfloat16):
        generate(model)
        assert run.report.loop == "stock: autocast is on"


def test_settings_by_position():
    subject = SUBJECTS["hf"]()
    config = GenerationConfig(max_new_tokens=4, num_beams=2, do_sample=False)
    inputs = subject.inputs(PROMPTS["text"])
    with dycoke.attach(subject.model, method("full"), engine="on") as run:
        subject.model.generate(inputs.pop("input_ids"), config, **inputs)
        assert run.report.loop == "stock: num_beams=2"


@pytest.mark.parametrize("part", ["head bias", "rotary", "epsilon"])
def test_what_a_graph_takes_over_is_watched(part):
    model = qwen()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(32))
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        generate(model)
        if part == "head bias":
            model.lm_head.bias = torch.nn.Parameter(torch.linspace(-9, 9, 32))
        elif part == "rotary":
            model.model.rotary_emb.inv_freq = 7 * model.model.rotary_emb.inv_freq
        else:
            model.model.norm.variance_epsilon = 1e4
            model.model.layers[0].input_layernorm.variance_epsilon = 1e4
        ours = generate(model)
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="off"):
        assert torch.equal(ours, generate(model))


def test_adapters_in_the_tower_are_found():
    class Adapted(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        weight, bias = (property(lambda self, name=name: getattr(self.base, name)) for name in ("weight", "bias"))

        def forward(self, x):
            return -3 * self.base(x)

    for kind in ("hf", "llava"):
        subject, found = SUBJECTS[kind](), []
        tower = next(m for m in subject.model.modules() if type(m).__name__ == "SiglipAttention")
        for engine in ("on", "off"):
            with dycoke.attach(subject.model, method("full"), engine=engine):
                before = ask(subject, PROMPTS["one_video"])
                plain, tower.q_proj = tower.q_proj, Adapted(tower.q_proj)
                found.append(ask(subject, PROMPTS["one_video"]))
                tower.q_proj = plain
        assert torch.equal(*found)
        assert before.tolist() != found[0].tolist()


def test_padding_on_the_right():
    subject = SUBJECTS["hf"]()
    inputs = subject.inputs(PROMPTS["text"] + [[5, 6, 9, 4, 7, 8]])
    inputs["input_ids"], inputs["attention_mask"] = (
        each.flip(1) for each in (inputs["input_ids"], inputs["attention_mask"])
    )
    found = []
    for engine in ("off", "on"):
        with dycoke.attach(subject.model, method("full"), engine=engine) as run:
            found.append(subject.model.generate(**inputs, max_new_tokens=4, do_sample=False))
    assert torch.equal(*found)
    assert run.report.loop == "stock: padding on the right"


def test_room_that_cannot_be_reserved(monkeypatch):
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        want = generate(model)
        monkeypatch.setattr("dycoke.engine.engine._ON_CPU", 1000)
        heard = Heard()
        assert torch.equal(generate(model, streamer=heard), want)
        assert run.report.loop == "stock: no memory for 8 new tokens"
        assert heard.ended


def test_one_request_at_a_time():
    model = qwen()

    class Nested(Heard):
        def put(self, value):
            generate(model)

    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on"):
        with pytest.raises(RuntimeError, match="one request at a time"):
            generate(model, streamer=Nested())
        generate(model)


def test_who_decoded_is_said_of_each_request():
    model = qwen()
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        generate(model)
        assert run.report.loop == "engine"
        model(inputs_embeds=embeds())
        assert run.report.loop == "stock: the model was called without generate"
        generate(model, max_new_tokens=1)
        assert (run.report.loop, run.report.stages["decode"].ms) == ("engine", None)


def test_parts_that_were_not_sped_up_are_said():
    subject = SUBJECTS["llava"]()
    assert answers(subject, PROMPTS["one_video"], method("dycoke"), "on")[1].forwards == {}
    report = answers(subject, PROMPTS["one_video"], method("fastv"), "on")[1]
    assert report.forwards == {"language model": "a Qwen2DecoderLayer carries hooks"}
    assert "language model: stock, a Qwen2DecoderLayer carries hooks" in str(report)


def test_a_policy_with_numbers_in_its_state():
    """Requests that differ in them do not share a graph, which would take the first one's over."""

    class Counted(DynamicPruning):
        def start(self, visual):
            state = super().start(visual)
            state.most = int(visual.sum())
            return state

        def step(self, state, attn):
            state.budget.fill_(state.most // 4)
            super().step(state, attn)

    subject = SUBJECTS["llava"]()
    found = []
    for engine in ("on", "off"):
        with dycoke.attach(subject.model, dycoke.Plan(decode=Counted(2, 0.5)), engine=engine):
            found.append([ask(subject, [[5, Clip(frames), 7]]) for frames in (8, 3, 8)])
    assert all(torch.equal(ours, stock) for ours, stock in zip(*found, strict=True))
