"""What a step of the engine would pass by takes the stock loop, which is said; and the model is given back."""

import gc
import weakref

import pytest
import torch
from transformers import GenerationConfig

import dycoke
from tests.engine.asking import Heard, answers, ask, generate, method
from tests.support.decode_small import PLAN, VISUAL, embeds, qwen
from tests.support.subjects import PROMPTS, SUBJECTS


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
    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        generate(model)
        assert run.report.loop == "stock: num_beams=2"


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
        monkeypatch.setattr("dycoke.engine.buckets._ON_CPU", 1000)
        heard = Heard()
        assert torch.equal(generate(model, streamer=heard), want)
        assert run.report.loop == "stock: no memory for 8 new tokens"
        assert heard.ended


def test_a_request_inside_another_takes_the_stock_loop():
    model, found, loops = qwen(), [], set()

    class Nested(Heard):
        def put(self, value):
            super().put(value)
            found.append(generate(model, streamer=Loop()).tolist())

    class Loop(Heard):
        def put(self, value):
            loops.add(run._recorder.loop)

    with dycoke.attach(model, PLAN, visual=VISUAL, engine="on") as run:
        want = generate(model)
        assert torch.equal(generate(model, streamer=Nested()), want)
        assert (run.report.loop, run.report.stages["decode"].tokens) == ("engine", 7)
    assert found == [want.tolist()] * 9
    assert loops == {"stock: asked inside another request"}


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
