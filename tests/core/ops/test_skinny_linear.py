"""Linear layers of a decode step: the reference against a model's own modules, the kernels against the reference."""

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from dycoke.ops.attend.sparse_decode import Scratch
from dycoke.ops.layer import skinny_linear_triton as kernels
from dycoke.ops.layer.skinny_linear import one_product, skinny_linear, skinny_linear_torch
from dycoke.ops.layer.skinny_linear_triton import (
    Tiling,
    chosen_tiling,
    kernel_tiling,
    skinny_linear_triton,
    tiling_launch,
)
from tests.cases import every_pair, folded, mostly_thorough
from tests.support.decode_stores import DEVICE, needs_gpu, on_gpu, poisoned

EPS = 1e-6
# Triton's interpreter rounds half precision towards zero; norm, products, activation and sum are each rounded.
APART = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def case(rows, k, sizes, *, gate=False, bias=True, norm=True, residual=True, dtype=torch.float32, seed=0):
    """Arguments of `skinny_linear` by name; the second of several weights has no bias."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random).to(DEVICE, dtype)

    biases = [None if place == 1 and len(sizes) > 1 else normal(size) for place, size in enumerate(sizes)]
    return {
        "x": normal(rows, k),
        "weights": [normal(size, k) * k**-0.5 for size in sizes],
        "biases": biases if bias else None,
        "norm": (1 + normal(k) / 4, EPS) if norm else None,
        "gate": gate,
        "residual": normal(rows, sizes[0] if gate else sum(sizes)) if residual else None,
    }


def exact(given):
    """The reference in float64."""

    def double(each):
        if isinstance(each, torch.Tensor):
            return each.double()
        return type(each)(map(double, each)) if isinstance(each, (list, tuple)) else each

    return skinny_linear_torch(**{name: double(each) for name, each in given.items()})


def assert_near(out, given):
    want = exact(given)
    assert out.dtype == given["x"].dtype and out.shape == want.shape
    assert (out.double() - want).norm() <= APART[out.dtype] * want.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5])
def test_reference_is_what_the_modules_compute(rows, dtype):
    given = case(rows, 24, (8, 6, 4), dtype=dtype)
    norm = Qwen2RMSNorm(24, EPS).to(DEVICE, dtype)
    norm.weight.data = given["norm"][0]
    linears = []
    for weight, bias in zip(given["weights"], given["biases"], strict=True):
        linears.append(nn.Linear(*weight.T.shape, bias=bias is not None, device=DEVICE, dtype=dtype))
        linears[-1].load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    with torch.no_grad():
        normed = norm(given["x"])
        want = given["residual"] + torch.cat([linear(normed) for linear in linears], dim=1)
        atol = 1e-5 if dtype == torch.float64 else 0  # the module's norm knows no more than fp32
        torch.testing.assert_close(skinny_linear_torch(**given), want, atol=atol, rtol=0)
        given = case(rows, 24, (8, 8), gate=True, bias=False, norm=False, residual=False, dtype=dtype)
        gate, up = (nn.functional.linear(given["x"], weight) for weight in given["weights"])
        assert torch.equal(skinny_linear_torch(**given), nn.SiLU()(gate) * up)


def test_the_result_is_written_where_it_is_wanted():
    given = case(2, 24, (8,))
    want = skinny_linear_torch(**given)
    assert skinny_linear(**given, out=given["residual"]) is given["residual"]
    torch.testing.assert_close(given["residual"], want)
    given["residual"] = None
    out = torch.full_like(want, torch.nan)
    assert skinny_linear(**given, out=out) is out and torch.equal(out, skinny_linear(**given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"residual": False}, {"bias": False, "residual": False}])
def test_one_product_is_the_reference_rounded_once(options, dtype):
    given = case(40, 96, (33,), dtype=dtype, **options)
    x, weight, norm, residual = given["x"], given["weights"][0], given["norm"], given["residual"]
    bias = given["biases"] and given["biases"][0]
    want = one_product(x, weight, bias, norm, residual, None)
    assert_near(want, given)
    out = torch.full_like(want, torch.nan)
    assert one_product(x, weight, bias, norm, residual, out) is out and torch.equal(out, want)
    if residual is not None:
        assert one_product(x, weight, bias, norm, residual, residual) is residual and torch.equal(residual, want)


def test_a_product_and_a_residual_are_rounded_once():
    given = case(40, 96, (33,), bias=False, norm=False, dtype=torch.bfloat16)
    out = one_product(given["x"], given["weights"][0], None, None, given["residual"], None)
    once, twice = exact(given).to(out.dtype), skinny_linear_torch(**given)
    assert (out != once).float().mean() < 0.02 < (twice != once).float().mean()


@folded(
    ("wrong", "message"),
    [
        ({"x": (24,)}, r"x: expected \[R, K\]"),
        ({"weights": [(8, 23), (8, 24)]}, r"weights: expected \[N, 24\], got shape \(8, 23\)"),
        ({"weights": []}, "expected 1 to 3, got 0"),
        ({"weights": [(8, 24)] * 4}, "expected 1 to 3, got 4"),
        ({"weights": [(8, 24)], "biases": [(8,)], "gate": True}, "gate: expected two weights of one shape"),
        ({"weights": [(8, 24), (7, 24)], "biases": None, "gate": True}, "gate: expected two weights of one shape"),
        ({"biases": [(8,)]}, "biases"),
        ({"biases": [(7,), (8,)]}, "biases"),
        ({"norm": (23,)}, r"norm: expected a weight of shape \[24\]"),
        ({"residual": (2, 8)}, r"residual: expected shape \(2, 16\)"),
        ({"residual": (2, 16), "gate": True}, r"residual: expected shape \(2, 8\)"),
        ({"out": (3, 16)}, r"out: expected shape \(2, 16\)"),
    ],
)
def test_shapes_that_do_not_fit(wrong, message):
    def made(name, shape):
        if isinstance(shape, list):
            return [made("", each) for each in shape]
        if not isinstance(shape, tuple):
            return shape
        tensor = torch.zeros(shape, device=DEVICE)
        return (tensor, EPS) if name == "norm" else tensor

    given = case(2, 24, (8, 8), residual=False) | {name: made(name, shape) for name, shape in wrong.items()}
    for function in (skinny_linear, skinny_linear_torch, skinny_linear_triton):
        with pytest.raises(ValueError, match=message):
            function(**given)


TILINGS = [Tiling(8, 32, splits, depth=depth, tensor=False) for splits, depth in ((1, 1), (3, 2))]
TILINGS += [Tiling(16, 16, splits, depth=2, swap=swap) for splits in (1, 3) for swap in (True, False)]
CASES = [
    ((24, 8, 8), {}),
    ((24, 8, 8), {"bias": False, "norm": False, "residual": False}),
    ((33,), {"norm": False}),
    ((33, 33), {"gate": True, "residual": False}),
    ((33, 33), {"gate": True, "bias": False}),
    ((7, 21), {"bias": False}),
]


@pytest.mark.parametrize(
    "tiling", on_gpu(TILINGS, mostly_thorough(TILINGS, [TILINGS[1], TILINGS[2], TILINGS[5]])), ids=str
)
@folded("dtype,place,number", every_pair([torch.float32, torch.bfloat16, torch.float16], range(len(CASES)), [0, 1]))
def test_kernels_equal_the_reference(tiling, dtype, place, number):
    rows, k = (((3, 64), (17, 75)) if tiling.tensor else ((1, 64), (1, 70)))[number]
    sizes, options = CASES[place]
    given = case(rows, k, sizes, **options, dtype=dtype, seed=place)
    with poisoned():
        out = skinny_linear_triton(**given, tiling=tiling)
    assert_near(out, given)


@pytest.mark.parametrize("rows", [1, 2, 16, 40])
def test_the_tiling_chosen_by_shape(rows):
    for sizes, gate in (((40, 8, 8), False), ((70, 70), True), ((270,), False)):
        given = case(rows, 528, sizes, gate=gate, dtype=torch.bfloat16)
        with poisoned():
            out = skinny_linear_triton(**given)
        assert_near(out, given)


@pytest.mark.parametrize("tiling", [TILINGS[1], TILINGS[4]], ids=str)
def test_the_residual_may_be_where_the_result_goes(tiling):
    given = case(1, 70, (33,))
    want = skinny_linear_triton(**given, tiling=tiling)
    assert skinny_linear_triton(**given, out=given["residual"], tiling=tiling) is given["residual"]
    assert torch.equal(given["residual"], want)


@pytest.mark.parametrize("tiling", [TILINGS[1], TILINGS[4]], ids=str)
def test_calls_that_share_a_scratch_repeat(tiling):
    """Counters are left as they were found, and parts of another call do no harm."""
    scratch, first, other = Scratch(), case(1, 70, (33, 33), gate=True), case(1, 70, (33, 33), gate=True, seed=1)
    wants = [skinny_linear_triton(**given, tiling=tiling) for given in (first, other)]
    for _ in range(2):
        for given, want in zip((first, other), wants, strict=True):
            assert torch.equal(skinny_linear_triton(**given, tiling=tiling, scratch=scratch), want)
    assert not any(buffer.any() for (name, _), buffer in scratch._buffers.items() if name == "skinny_done")


def test_a_tiling_without_tensor_cores_takes_one_row():
    with pytest.raises(ValueError, match="2 rows: expected 1"):
        skinny_linear_triton(**case(2, 64, (8,)), tiling=TILINGS[0])


def test_splits_that_would_have_nothing_to_add_are_left_out():
    launch = tiling_launch(Tiling(16, 32, splits=7), False, torch.float32, 2, 96, (16,), False, 0, False, False)
    assert launch.splits == 3 and launch.grid == (1, 3)


@folded(
    "hidden,keys,intermediate,vocabulary",
    [(896, 128, 4864, 151936), (3584, 512, 18944, 152064), (8192, 1024, 29568, 152064)],
)
@folded("rows", [1, 2, 16, 17, 64])
def test_every_multiprocessor_of_an_h200_has_work(hidden, keys, intermediate, vocabulary, rows, monkeypatch):
    monkeypatch.setattr(kernels, "processors", lambda device: 132)
    monkeypatch.setattr(kernels, "shared_memory", lambda device: 227 * 1024)
    chosen_tiling.cache_clear()
    for k, sizes, gate in (
        (hidden, (hidden, keys, keys), False),
        (hidden, (hidden,), False),
        (intermediate, (hidden,), False),
        (hidden, (intermediate, intermediate), True),
        (hidden, (vocabulary,), False),
    ):
        asked = torch.device("cuda"), torch.bfloat16, rows, k, sizes, gate
        tiling = kernel_tiling(*asked)
        assert chosen_tiling(*asked) == (None if rows > 16 and len(sizes) == 1 else tiling)
        launch = tiling_launch(tiling, True, torch.bfloat16, rows, k, sizes, gate, 0, False, False)
        assert launch.grid[0] * launch.grid[1] >= 0.7 * 132
    chosen_tiling.cache_clear()


@pytest.mark.parametrize("hidden, keys, intermediate", [(896, 128, 4864), (3584, 512, 18944), (8192, 1024, 29568)])
@folded("rows", [1, 2, 16, 17, 32, 33, 64])
@folded("count", [58, 84, 132])
def test_a_pipeline_fits_the_shared_memory(hidden, keys, intermediate, rows, count, monkeypatch):
    """All but one of a pipeline's turns lie in shared memory, 99 KiB of which a consumer's GPU has."""
    monkeypatch.setattr(kernels, "processors", lambda device: count)
    for k, sizes, gate in (
        (hidden, (hidden, keys, keys), False),
        (intermediate, (hidden,), False),
        (hidden, (intermediate, intermediate), True),
        (hidden, (151936,), False),
    ):
        asked = torch.device("cuda"), torch.bfloat16, rows, k, sizes, gate
        depths = []
        for room in (99 * 1024, 227 * 1024):
            monkeypatch.setattr(kernels, "shared_memory", lambda device, room=room: room)
            tiling = kernel_tiling(*asked)
            block_r = max(16, 2 ** (rows - 1).bit_length()) if tiling.tensor else 1
            read = (tiling.block_n * (1 + gate) + block_r) * tiling.block_k * 2
            assert tiling.depth >= 1 and (tiling.depth - 1) * read <= room
            depths.append(tiling.depth)
        assert depths[0] <= depths[1] == kernels._fastest(*asked).depth


@needs_gpu
@pytest.mark.parametrize("rows", [1, 3, 16, 64])
def test_a_graph_of_linears_equals_the_reference(rows):
    """Each on what the one before wrote."""
    layers = [case(rows, 512, (512,), dtype=torch.bfloat16, seed=seed) for seed in range(6)]
    hidden, scratch = layers[0]["x"].clone(), Scratch()
    begin = hidden.clone()

    def step():
        for given in layers:
            x = given | {"x": hidden, "residual": hidden}
            skinny_linear(**x, out=hidden, scratch=scratch)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    want = begin.double()
    for given in layers:
        want = exact(given | {"x": want, "residual": want})
    outputs = []
    for _ in range(3):
        hidden.copy_(begin)
        graph.replay()
        outputs.append(hidden.clone())
    assert (outputs[0].double() - want).norm() <= 3e-2 * want.norm()
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


@needs_gpu
@pytest.mark.parametrize("rows,dtype,runs", on_gpu([(16, torch.bfloat16, 1), (17, torch.bfloat16, 0)], []))
def test_cuda_tensors_run_the_kernels_where_there_are(rows, dtype, runs, monkeypatch):
    calls = []
    real = kernels.tiling_launch
    monkeypatch.setattr(kernels, "tiling_launch", lambda *args: calls.append(1) or real(*args))
    given = case(rows, 64, (32,), dtype=dtype)
    assert_near(skinny_linear(**given), given)
    assert len(calls) == runs
