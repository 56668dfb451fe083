"""The kernels of the linear layers of a decode step; `skinny_linear_triton` launches them and says how they differ.

Every program takes `block_n` output columns, which are rows of a weight, or a part of their sums.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pick(place, first, second, third, count: tl.constexpr):
    """One of up to three pointers, or of their sizes."""
    picked = first
    if count > 1:
        picked = tl.where(place == 1, second, picked)
    if count > 2:
        picked = tl.where(place == 2, third, picked)
    return picked


@triton.jit
def _find(tile, count: tl.constexpr, n_0: tl.constexpr, n_1: tl.constexpr, n_2: tl.constexpr, block_n: tl.constexpr):
    """Which weight a tile belongs to, its first row there, the weight's rows, and its first column in the output."""
    tiles_0: tl.constexpr = (n_0 + block_n - 1) // block_n
    tiles_1: tl.constexpr = (n_1 + block_n - 1) // block_n
    place = tile * 0
    skipped, column = place, place
    if count > 1:
        past = (tile >= tiles_0).to(tl.int32)
        place, skipped, column = past, past * tiles_0, past * n_0
    if count > 2:
        past = (tile >= tiles_0 + tiles_1).to(tl.int32)
        place, skipped, column = place + past, skipped + past * tiles_1, column + past * n_1
    return place, (tile - skipped) * block_n, _pick(place, n_0, n_1, n_2, count), column


@triton.jit
def _bias(bias, place, row, inside, biased: tl.constexpr):
    """Bias of a tile's rows, 0 where the weight has none: `biased` has a bit for each weight."""
    has = (biased >> place) & 1
    return tl.load(bias + row, mask=inside & (has == 1), other=0.0).to(tl.float32)


@triton.jit
def _activate(gated, up, dtype: tl.constexpr):
    """silu(gated) * up, rounded where a model's own operations round."""
    gated, up = gated.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    return (gated / (1.0 + tl.exp(-gated))).to(dtype).to(tl.float32) * up


@triton.jit
def _write(value, out, residual, at, inside, has_residual: tl.constexpr):
    dtype: tl.constexpr = out.dtype.element_ty
    value = value.to(dtype)
    if has_residual:
        value = (tl.load(residual + at, mask=inside, other=0.0).to(tl.float32) + value.to(tl.float32)).to(dtype)
    tl.store(out + at, value, mask=inside)


@triton.jit
def _last(done, tile, splits: tl.constexpr):
    """Whether all parts of a tile have been stored, of which this program's is the last."""
    tl.debug_barrier()  # all threads have stored before one of them says so
    last = tl.atomic_add(done + tile, 1, sem="acq_rel", scope="gpu") == splits - 1
    if last:
        tl.store(done + tile, 0)  # as the next call wants to find it
    return last


@triton.jit
def _all_parts(part, at, inside, size: tl.constexpr, splits: tl.constexpr):
    """Sum of the parts in their order, whichever program comes last."""
    # Past the first-level cache, which may hold what was there before the other programs stored.
    summed = tl.load(part + at, mask=inside, other=0.0, cache_modifier=".cg")
    for split in range(1, splits):
        summed += tl.load(part + split * size + at, mask=inside, other=0.0, cache_modifier=".cg")
    return summed


@triton.jit
def _rms(x, eps, k: tl.constexpr, block: tl.constexpr):
    """1 / root mean square of a row."""
    squares = tl.zeros([block], tl.float32)
    for start in tl.static_range(0, k, block):
        column = start + tl.arange(0, block)
        value = tl.load(x + column, mask=column < k, other=0.0).to(tl.float32)
        squares += value * value
    return 1.0 / tl.sqrt_rn(tl.sum(squares, axis=0) / k + eps)


@triton.jit
def one_row(
    x, w_0, w_1, w_2, b_0, b_1, b_2, norm, residual, out, part, done, eps,
    k: tl.constexpr, n_0: tl.constexpr, n_1: tl.constexpr, n_2: tl.constexpr,
    count: tl.constexpr, biased: tl.constexpr, gate: tl.constexpr, has_norm: tl.constexpr, has_residual: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr, splits: tl.constexpr, depth: tl.constexpr, norm_block: tl.constexpr,
    chunk: tl.constexpr,
):  # fmt: skip
    """A single row, without tensor cores: weights are streamed past it and multiplied as they come."""
    tile, split = tl.program_id(0), tl.program_id(1)
    place, first, end, column_0 = _find(tile, 1 if gate else count, n_0, n_1, n_2, block_n)
    weight = _pick(place, w_0, w_1, w_2, 1 if gate else count)
    begin = split * chunk
    stop = tl.minimum(begin + chunk, k)
    dtype: tl.constexpr = x.dtype.element_ty
    scale = _rms(x, eps, k, norm_block) if has_norm else 1.0

    row = first + tl.arange(0, block_n)
    row_at = tl.minimum(row, end - 1).to(tl.int64)[:, None] * k
    offset = tl.arange(0, block_k)
    sums = tl.zeros([block_n, block_k], tl.float32)
    up_sums = tl.zeros([block_n, block_k], tl.float32)
    for start in tl.range(begin, begin + chunk, block_k, num_stages=depth):
        column = start + offset
        inside = column < stop
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        if has_norm:
            factor = tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
            value = ((value * scale).to(dtype).to(tl.float32) * factor).to(dtype).to(tl.float32)
        at = row_at + column[None, :]
        given = tl.load(weight + at, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
        sums += given.to(tl.float32) * value[None, :]
        if gate:
            given = tl.load(w_1 + at, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            up_sums += given.to(tl.float32) * value[None, :]

    total, up = tl.sum(sums, axis=1), tl.sum(up_sums, axis=1)
    inside = row < end
    at = column_0 + row
    bias = _bias(_pick(place, b_0, b_1, b_2, 1 if gate else count), place, row, inside, biased)
    up_bias = _bias(b_1, 1, row, inside, biased) if gate else bias
    size: tl.constexpr = n_0 if gate else n_0 + n_1 + n_2
    if splits == 1:
        value = _activate(total + bias, up + up_bias, dtype) if gate else total + bias
        _write(value, out, residual, at, inside, has_residual)
    else:
        tl.store(part + split * size + at, total, mask=inside)
        if gate:
            tl.store(part + (splits + split) * size + at, up, mask=inside)
        if _last(done, tile, splits):
            value = _all_parts(part, at, inside, size, splits) + bias
            if gate:
                value = _activate(value, _all_parts(part + splits * size, at, inside, size, splits) + up_bias, dtype)
            _write(value, out, residual, at, inside, has_residual)


@triton.jit
def _multiply(given, value, sums, swap: tl.constexpr, upcast: tl.constexpr):
    """Add the product of a weight's block [N, K] and the rows' [R, K]: [N, R] if swapped, else [R, N]."""
    if upcast:  # for Triton's interpreter, which would multiply the bit patterns of bf16
        given, value = given.to(tl.float32), value.to(tl.float32)
    if swap:
        sums = tl.dot(given, tl.trans(value), sums, input_precision="ieee")
    else:
        sums = tl.dot(value, tl.trans(given), sums, input_precision="ieee")
    return sums


@triton.jit(do_not_specialize=["rows"])
def some_rows(
    x, w_0, w_1, w_2, b_0, b_1, b_2, residual, out, part, done, rows,
    k: tl.constexpr, n_0: tl.constexpr, n_1: tl.constexpr, n_2: tl.constexpr,
    count: tl.constexpr, biased: tl.constexpr, gate: tl.constexpr, has_residual: tl.constexpr,
    block_r: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, splits: tl.constexpr, depth: tl.constexpr,
    chunk: tl.constexpr, swap: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    """Up to `block_r` rows on the tensor cores, all of them in every program."""
    tile, split = tl.program_id(0), tl.program_id(1)
    place, first, end, column_0 = _find(tile, 1 if gate else count, n_0, n_1, n_2, block_n)
    weight = _pick(place, w_0, w_1, w_2, 1 if gate else count)
    begin = split * chunk
    stop = tl.minimum(begin + chunk, k)

    column_of_tile, member = tl.arange(0, block_n), tl.arange(0, block_r)
    row_at = tl.minimum(first + column_of_tile, end - 1).to(tl.int64)[:, None] * k
    x_at = member[:, None] * k
    own = (member < rows)[:, None]
    offset = tl.arange(0, block_k)
    sums = tl.zeros([block_n, block_r] if swap else [block_r, block_n], tl.float32)
    up_sums = sums
    for start in tl.range(begin, begin + chunk, block_k, num_stages=depth):
        column = start + offset
        inside = (column < stop)[None, :]
        at = row_at + column[None, :]
        value = tl.load(x + x_at + column[None, :], mask=own & inside, other=0.0)
        given = tl.load(weight + at, mask=inside, other=0.0, eviction_policy="evict_first")
        sums = _multiply(given, value, sums, swap, upcast)
        if gate:
            given = tl.load(w_1 + at, mask=inside, other=0.0, eviction_policy="evict_first")
            up_sums = _multiply(given, value, up_sums, swap, upcast)

    size: tl.constexpr = n_0 if gate else n_0 + n_1 + n_2
    row = first + column_of_tile
    bias = _bias(_pick(place, b_0, b_1, b_2, 1 if gate else count), place, row, row < end, biased)
    up_bias = _bias(b_1, 1, row, row < end, biased) if gate else bias
    if swap:
        row, member, bias, up_bias = row[:, None], member[None, :], bias[:, None], up_bias[:, None]
    else:
        row, member, bias, up_bias = row[None, :], member[:, None], bias[None, :], up_bias[None, :]
    inside = (row < end) & (member < rows)
    at = member * size + column_0 + row
    dtype: tl.constexpr = x.dtype.element_ty
    if splits == 1:
        value = _activate(sums + bias, up_sums + up_bias, dtype) if gate else sums + bias
        _write(value, out, residual, at, inside, has_residual)
    else:
        part_at = (column_0 + row) * block_r + member if swap else at
        whole: tl.constexpr = size * block_r
        tl.store(part + split * whole + part_at, sums, mask=inside)
        if gate:
            tl.store(part + (splits + split) * whole + part_at, up_sums, mask=inside)
        if _last(done, tile, splits):
            value = _all_parts(part, part_at, inside, whole, splits) + bias
            if gate:
                up = _all_parts(part + splits * whole, part_at, inside, whole, splits) + up_bias
                value = _activate(value, up, dtype)
            _write(value, out, residual, at, inside, has_residual)
