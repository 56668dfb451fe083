"""dycoke_adaptive: against loops in float64, its exact budget, its windows, and what it owes to clips of every kind."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import dycoke
from dycoke import budget
from dycoke.methods.dycoke_adaptive import adaptive_merge, novelty
from dycoke.types import VisualTokens
from tests.cases import folded

ROW, COLUMN, FLOOR, REACH = 0.7548776662466927, 0.5698402909980532, 0.01, 0.32
HAIR = 2**-24  # a frame in which nothing changes


def unit(v):
    return v / max(math.sqrt(sum(a * a for a in v)), 1e-12)


def apart(a, b):
    return math.sqrt(sum((unit(a) - unit(b)) ** 2) / 2)


def changes(x):
    """[N][T]: how far each token has moved since the frame before; in frame 0, since the place before."""
    frames, places, _ = x.shape
    first = [1.0, *(apart(x[0, n], x[0, n - 1]) for n in range(1, places))]
    return [[first[n], *(apart(x[t, n], x[t - 1, n]) for t in range(1, frames))] for n in range(places)]


def step_length(weights, count):
    """The step for which the weights, each counted as one step at most, add up to `count` steps, by bisection."""
    low, high = 0.0, sum(weights)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(w, middle) for w in weights) >= count * middle:
            low = middle
        else:
            high = middle
    return low


def kept_slots(x, grid, count):
    """(place, frame) of every kept token."""
    change = changes(x)
    step = step_length([c + FLOOR for row in change for c in row], count)
    ranked = []
    for n, row in enumerate(change):
        passed = (0.5 + n // grid[1] * ROW + n % grid[1] * COLUMN) % 1 * step
        for t, c in enumerate(row):
            share = min(c + FLOOR, step)
            ranked.append(((step - passed % step) / share if share < step else 0.0, n, t))
            passed += share
    return sorted((n, t) for _, n, t in sorted(ranked)[:count])


def merged(x, grid, count):
    """{slot: mean of its window}."""
    frames, places, _ = x.shape
    change, kept = changes(x), kept_slots(x, grid, count)
    windows = {key: [] for key in kept}
    for n in range(places):
        for t in range(frames):
            best, nearest = REACH, None
            for key in kept:  # in order of time, so that the earlier of two equally near ones is found first
                path = change[n][min(t, key[1]) + 1 : max(t, key[1]) + 1]
                between = sum(path) + HAIR * len(path) if key[0] == n else math.inf
                if between < best or (nearest is None and between <= best):
                    best, nearest = between, key
            if nearest is not None:
                windows[nearest].append(x[t, n])
    return {t * places + n: sum(tokens) / len(tokens) for (n, t), tokens in windows.items()}


def drifting(frames, places, dim, seed=0, speed=0.1):
    """Every place a random walk of its own pace, with a cut now and then."""
    rng = np.random.RandomState(seed)
    x = np.zeros((frames, places, dim))
    x[0] = rng.standard_normal((places, dim))
    for t in range(1, frames):
        pace = speed * rng.exponential(size=(places, 1))
        x[t] = rng.standard_normal((places, dim)) if rng.rand() < 0.1 else x[t - 1]
        x[t] += pace * rng.standard_normal((places, dim))
    return torch.from_numpy(x.astype(np.float32))


@pytest.mark.parametrize(
    "frames,grid", [(1, (3, 3)), (2, (2, 3)), (7, (3, 2)), (12, (3, 3)), (16, (1, 1)), (9, (2, 5))]
)
@folded("keep", [0.1, 0.3, 0.6, 0.9])
@folded("seed", range(3))
def test_equals_the_loop(frames, grid, keep, seed):
    places = grid[0] * grid[1]
    x = drifting(frames, places, 12, seed)
    count = budget.from_keep(keep, frames * places)
    embeds, index = adaptive_merge(x, grid, count)
    want = merged(x.double().numpy(), grid, count)
    assert index.tolist() == sorted(want)
    torch.testing.assert_close(
        embeds.double(), torch.tensor(np.array([want[i] for i in sorted(want)])), atol=1e-4, rtol=0
    )


@folded("frames", [1, 2, 3, 7, 32, 65])
@folded("grid", [(1, 1), (1, 3), (4, 4), (13, 13)])
@pytest.mark.parametrize("kind", ["random", "drifting", "constant", "zero", "nan"])
def test_count_is_exact(frames, grid, kind):
    places = grid[0] * grid[1]
    x = {"drifting": lambda: drifting(frames, places, 4), "constant": lambda: torch.ones(frames, places, 4)}.get(
        kind, lambda: torch.randn(frames, places, 4, generator=torch.Generator().manual_seed(1))
    )()
    x = x * 0 if kind == "zero" else x
    if kind == "nan":
        x[frames // 2, 0] = math.nan
    for keep in (1e-6, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.999, 1.0):
        method = dycoke.build("dycoke_adaptive", keep=keep)
        left = method.compress(VisualTokens(x, grid))
        assert (
            len(left.index)
            == len(left.embeds)
            == method.count(frames, places)
            == budget.from_keep(keep, len(x) * places)
        )
        assert (left.index.diff() > 0).all() and left.index[0] >= 0 and left.index[-1] < frames * places


def test_places_of_nothing_but_zeros_do_not_change():
    """A black border takes no more of the budget than a place that stands still."""
    x = drifting(16, 8, 8, speed=0.5)
    x[:, :4] = 0.0
    black = adaptive_merge(x, (2, 4), 32)[1]
    x[:, :4] = 1.0
    still = adaptive_merge(x, (2, 4), 32)[1]
    assert torch.equal(black, still) and (black % 8 < 4).sum() < 8


class NoHostRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"), name
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back():
    """No read of a value, one graph without a break, and shapes that follow from shapes alone."""
    x = drifting(10, 12, 8)
    with NoHostRead():
        plain = adaptive_merge(x, (3, 4), 40)
    with NoHostRead(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        x.sum().item()
    traced = torch.compile(adaptive_merge, fullgraph=True, backend="eager")(x, (3, 4), 40)
    assert all(map(torch.equal, plain, traced))
    with FakeTensorMode():
        embeds, index = adaptive_merge(torch.empty(32, 196, 64), (14, 14), 1568)
    assert embeds.shape == (1568, 64) and index.shape == (1568,)


class Launches(TorchDispatchMode):
    """Counts the operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_as_many_kernels_whatever_the_size():
    with Launches() as small:
        adaptive_merge(drifting(4, 6, 8), (2, 3), 6)
    with Launches() as large:
        adaptive_merge(drifting(40, 60, 8), (6, 10), 1200)
    assert small.count == large.count <= 100


def test_untouched_windows_are_the_input_bit_for_bit():
    x = torch.randn(16, 9, 24, generator=torch.Generator().manual_seed(0))  # nothing resembles anything
    embeds, index = adaptive_merge(x, (3, 3), 50)
    assert torch.equal(embeds, x.flatten(0, 1)[index])


def test_a_merged_token_is_the_mean_of_the_tokens_it_stands_for():
    """Three scenes of slightly different frames at one place: three tokens, each the mean of its scene."""
    scenes = torch.eye(8)[[0] * 5 + [1] * 2 + [2] * 9]
    x = (scenes + 0.01 * torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))[:, None]
    embeds, index = adaptive_merge(x, (1, 1), 3)
    assert [int(i >= 5) + int(i >= 7) for i in index] == [0, 1, 2]
    torch.testing.assert_close(embeds, torch.stack([x[:5, 0].mean(0), x[5:7, 0].mean(0), x[7:, 0].mean(0)]))


def test_what_lies_out_of_reach_is_not_averaged_in():
    x = torch.eye(4)[[0, 0, 1, 2, 2]][:, None]
    embeds, index = adaptive_merge(x, (1, 1), 2)
    assert torch.equal(embeds, x[index, 0])


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5])
def test_a_static_clip_is_spread_over_time_and_places(keep):
    x = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0)).repeat(32, 1, 1)
    embeds, index = adaptive_merge(x, (4, 4), count := budget.from_keep(keep, 512))
    torch.testing.assert_close(embeds, x.flatten(0, 1)[index])
    places, frames = torch.bincount(index % 16, minlength=16), torch.bincount(index // 16, minlength=32)
    assert places.min() >= 1 and frames[1:].max() <= 2 * math.ceil(count / 32)


@folded("count", [16, 24, 40, 64, 200])
@folded("frames", [24, 32, 40])
def test_every_scene_of_a_clip_of_cuts_gets_tokens(count, frames):
    scenes = torch.randn(8, 16, 64, generator=torch.Generator().manual_seed(0)).repeat_interleave(frames // 8, 0)
    index = adaptive_merge(scenes, (4, 4), count)[1]
    assert torch.bincount(index // 16 // (frames // 8), minlength=8).min() >= count // 8 // 2


def test_the_budget_goes_where_the_content_changes():
    """Half of the video stands still, half moves: the still half gets its share of the floor and no more."""
    still = drifting(1, 16, 32).repeat(16, 1, 1)
    moving = torch.randn(16, 16, 32, generator=torch.Generator().manual_seed(1))
    index = adaptive_merge(torch.cat([still, moving]), (4, 4), 128)[1]
    assert (index < 256).sum() <= 24


def lost(x, embeds, index):
    """1 - cosine of each token with the best kept one of its place, mean."""
    places = x.shape[1]
    tokens, left = (torch.nn.functional.normalize(v, dim=-1) for v in (x, embeds))
    cosine = torch.einsum("tnd,md->tnm", tokens, left)
    same = torch.arange(places)[:, None] == index % places
    return (1 - torch.where(same, cosine, 0.0).amax(-1)).mean().item()


@pytest.mark.parametrize("speed", [0.02, 0.1])
def test_degrades_gracefully(speed):
    """Loss grows smoothly as the budget shrinks, and stays under that of random tokens and of whole frames."""
    x = drifting(32, 16, 48, seed=3, speed=speed)
    video = VisualTokens(x, (4, 4))

    def loss(name, keep):
        left = dycoke.build(name, keep=keep).compress(video)
        return lost(x, left.embeds, left.index)

    keeps = (1.0, 0.75, 0.5, 0.25, 0.15, 0.1)
    ours = [loss("dycoke_adaptive", keep) for keep in keeps]
    assert ours == sorted(ours) and ours[0] == pytest.approx(0.0, abs=1e-6)
    for keep, loss_here in list(zip(keeps, ours, strict=True))[1:]:
        assert loss_here < 0.8 * min(loss("random_drop", keep), loss("uniform_frames", keep))


def test_novelty_bounds_the_distance_of_any_two_tokens():
    x = drifting(12, 4, 16)
    travelled = novelty(x)[1:].cumsum(0)
    direct = torch.tensor([[apart(x[t, n].numpy(), x[0, n].numpy()) for n in range(4)] for t in range(1, 12)])
    assert (direct <= travelled + 1e-5).all()


def test_gradients_flow():
    x = drifting(6, 4, 8).requires_grad_()
    adaptive_merge(x, (2, 2), 6)[0].sum().backward()
    assert x.grad.abs().sum() > 0 and not x.grad.isnan().any()


@pytest.mark.parametrize("count", [0, 37])
def test_count_out_of_range(count):
    with pytest.raises(ValueError, match=f"count={count}: expected 1 to 36"):
        adaptive_merge(torch.ones(4, 9, 2), (3, 3), count)


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"keep": 1.5}, {"positions": "kept"}])
def test_wrong_options(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        dycoke.build("dycoke_adaptive", **options)
