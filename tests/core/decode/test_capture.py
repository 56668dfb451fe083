"""A decode step of every policy is one graph: traced whole on a CPU, captured in a CUDA graph on a GPU."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import dycoke
from dycoke.kv_cache.request import DecodeRequest
from dycoke.methods import DynamicPruning
from dycoke.stages.attention import REQUEST
from tests.cases import mostly_thorough
from tests.llava import tiny

POLICIES = {
    "paper": DynamicPruning(2, 0.6),
    "every step": DynamicPruning(2, 0.6, refresh=1.0),
    "official": DynamicPruning(2, 0.6, "official"),
    "one_shot": DynamicPruning(2, 0.6, decode="one_shot"),
    "random": DynamicPruning(2, 0.6, decode="random"),
}
BATCH, PROMPT, STEPS = 2, 30, 4
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PLACES = ["device", "host"]


def language_model(device: str) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config).eval()
    tiny.fill_randomly(model)
    return model.to(device)


def prompt(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings, a mask with left padding, and visual slots, more of them in one row than in the other."""
    embeds = torch.randn(BATCH, PROMPT, 64, generator=torch.Generator().manual_seed(0))
    real, visual = torch.ones(BATCH, PROMPT, dtype=torch.bool), torch.zeros(BATCH, PROMPT, dtype=torch.bool)
    real[1, :4] = False
    visual[:, 6:22] = True
    visual[1, 10:14] = False
    return embeds.to(device), real.to(device), visual.to(device)


def on_host(monkeypatch, place: str, policy: DynamicPruning) -> DynamicPruning:
    """The policy with entries in host memory, also where that memory is all there is."""
    if place == "device":
        return policy
    if policy.variant == "official":
        pytest.skip("the released code has no cache on the host")
    monkeypatch.setattr("dycoke.stages.decode.host_cache_works", lambda model: True)
    return DynamicPruning(policy.layer, policy.p, policy.variant, policy.decode, policy.refresh, dp_cache="host")


def prefill(model, plan) -> DecodeRequest:
    """A request behind its prefill. Its cache, which holds it, is kept alive beside it."""
    embeds, real, visual = prompt(str(model.device))
    with dycoke.attach(model, plan, visual=visual):
        cache = model(inputs_embeds=embeds, attention_mask=real.long()).past_key_values
    return cache, cache.layers[0].request


def step(model, cache, request: DecodeRequest, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The device's part of a step: everything `generate` does between one token and the next one's logits."""
    request.tick()
    hidden = model.model(
        input_ids=ids, past_key_values=cache, position_ids=positions, use_cache=True, **{REQUEST: request}
    )
    request.end_step()
    return model.lm_head(hidden.last_hidden_state[:, -1])


def eager_logits(model, plan, ids: torch.Tensor) -> torch.Tensor:
    """Logits [steps, B, V] of reading the ids [steps, B] one by one, as an attached model does."""
    embeds, real, visual = prompt(str(model.device))
    with dycoke.attach(model, plan, visual=visual) as run:
        cache = model(inputs_embeds=embeds, attention_mask=real.long()).past_key_values
        logits = [
            model(input_ids=ids[t][:, None], past_key_values=cache, position_ids=positions(real, t)).logits[:, -1]
            for t in range(len(ids))
        ]
        assert run.report.cache.read_from < run.report.cache.read_below
    return torch.stack(logits)


def positions(real: torch.Tensor, t: int) -> torch.Tensor:
    return real.sum(1, keepdim=True) + t


def tokens(device: str) -> torch.Tensor:
    return torch.randint(64, (STEPS, BATCH), generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("place", mostly_thorough(PLACES, ["device"]))
@pytest.mark.parametrize("name", mostly_thorough(POLICIES, ["paper"]))
def test_a_step_traces_whole(monkeypatch, name, place):
    check_traced(dycoke.Plan(decode=on_host(monkeypatch, place, POLICIES[name])))


@pytest.mark.parametrize(
    "layer", [1, pytest.param(3, marks=pytest.mark.thorough)], ids=["before the observer", "behind it"]
)
def test_a_step_behind_tokens_that_left_traces_whole(layer):
    check_traced(dycoke.Plan(inside=dycoke.build("fastv", k=layer, r=0.25), decode=DynamicPruning(2, 0.5)))


@torch.no_grad()
def check_traced(plan):
    model, ids = language_model("cpu"), tokens("cpu")
    want = eager_logits(model, plan, ids)
    cache, request = prefill(model, plan)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    traced = torch.compile(step, fullgraph=True, backend="eager")
    model.config._attn_implementation = "dycoke_sdpa"
    real = prompt("cpu")[1]
    for t in range(STEPS):
        request.stepping = True  # what `advance` does beside `tick` is the host's
        torch.testing.assert_close(traced(model, cache, request, ids[t][:, None], positions(real, t)), want[t])
        request.steps += 1
    # The second length makes lengths symbolic; from then on one graph serves.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@CUDA
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", POLICIES)
def test_a_step_is_captured_and_replayed(monkeypatch, name, place):
    check_replayed(dycoke.Plan(decode=on_host(monkeypatch, place, POLICIES[name])))


@CUDA
@pytest.mark.parametrize("layer", [1, 3], ids=["before the observer", "behind it"])
def test_a_step_behind_tokens_that_left_is_replayed(layer):
    check_replayed(dycoke.Plan(inside=dycoke.build("fastv", k=layer, r=0.25), decode=DynamicPruning(2, 0.5)))


@torch.no_grad()
def check_replayed(plan):
    model, ids = language_model("cuda"), tokens("cuda")
    want = eager_logits(model, plan, ids)
    cache, request = prefill(model, plan)
    request.reserve(STEPS + 8)
    model.config._attn_implementation = "dycoke_sdpa"
    token, place_now = ids[0][:, None].clone(), positions(prompt("cuda")[1], 0).clone()
    state = snapshot(request)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())  # behind the snapshot, or it would show what the warm-up leaves
    with torch.cuda.stream(side):  # Triton compiles, and the allocator warms up, ahead of the capture
        for _ in range(2):
            request.stepping = True
            step(model, cache, request, token, place_now)
    torch.cuda.current_stream().wait_stream(side)
    restore(request, state)
    graph = torch.cuda.CUDAGraph()
    request.stepping = True
    with torch.cuda.graph(graph):
        logits = step(model, cache, request, token, place_now)
    for t in range(STEPS):
        token.copy_(ids[t][:, None])
        place_now.copy_(positions(prompt("cuda")[1], t))
        logits.fill_(torch.nan)
        graph.replay()
        torch.testing.assert_close(logits, want[t], atol=1e-4, rtol=1e-4)
    assert request.use.report().steps == STEPS


def snapshot(request: DecodeRequest) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every tensor a step changes in place beside the stores, with what it holds."""
    use, slots = request.use, request.slots
    changed = [use.steps, use.read_below, use.read_from, use.fetched]
    changed += [part for columns in request.shared.values() for part in (columns.filled, columns.position)]
    changed += [t for t in request.choice.state.tensors().values()]
    changed += [slots.held] if slots is not None else []
    return [(tensor, tensor.clone()) for tensor in changed]


def restore(request: DecodeRequest, state: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for tensor, value in state:
        tensor.copy_(value)
