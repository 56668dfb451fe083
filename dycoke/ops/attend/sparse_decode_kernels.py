"""The kernels of sparse decode attention; `sparse_decode_triton` launches them and says how they work together.

Logarithms are to the base 2. `part` and `lse` hold each part's output, normalised, and its log-sum-exp; `total` is the
log-sum-exp of everything a query head reads.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _product(left, right, upcast: tl.constexpr):
    """Matrix product in fp32. `upcast` for Triton's interpreter, which would multiply the bit patterns of bf16."""
    if upcast:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _absorb(logit, value, inside, top, weight_sum, attended, upcast: tl.constexpr):
    """Add a block of columns to the softmax so far: its greatest logit, sum of weights and unnormalised output."""
    logit = tl.where(inside[None, :], logit, float("-inf"))
    new_top = tl.maximum(top, tl.max(logit, axis=1))
    decay = tl.exp2(top - new_top)
    weight = tl.exp2(logit - new_top[:, None])
    weight_sum = weight_sum * decay + tl.sum(weight, axis=1)
    attended = attended * decay[:, None] + _product(weight.to(value.dtype), value, upcast)
    return new_top, weight_sum, attended


@triton.jit
def _columns_of_block(index_row, start, listed, shift, indexed: tl.constexpr, block_n: tl.constexpr):
    """Columns of the block at `start`: from the index as far as it reaches, else in a row."""
    place = start + tl.arange(0, block_n)
    if not indexed:
        return place + shift
    column = tl.load(index_row + place, mask=place < listed, other=0)
    return tl.where(place < listed, column, place)


@triton.jit(do_not_specialize=["size", "width", "prompt_parts"])
def attend_part(
    query, prompt_keys, prompt_values, tail_keys, tail_values, rows, filled, count, index, part, lse, logits,
    pk_row, pk_head, pk_column, pv_row, pv_head, pv_column, tk_row, tk_head, tk_column, tv_row, tv_head, tv_column,
    size, width, prompt_parts, chunk, factor,
    indexed: tl.constexpr, dim: tl.constexpr, group: tl.constexpr, block_g: tl.constexpr, block_n: tl.constexpr,
    observed: tl.constexpr, upcast: tl.constexpr,
):  # fmt: skip
    head, place_of_part, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    parts = tl.num_programs(1)
    in_prompt = place_of_part < prompt_parts
    listed = tl.load(count + row)
    stored = tl.load(rows + row).to(tl.int64)
    end = tl.where(in_prompt, listed, tl.load(filled + row))
    first = tl.where(in_prompt, place_of_part, place_of_part - prompt_parts) * chunk
    last = tl.minimum(first + chunk, end)
    listed = tl.where(in_prompt, listed, 0)  # nothing of the index or the logits belongs to the tail

    # One loop serves prompt and tail: which of them it reads is a choice of base pointers and strides.
    keys = tl.where(
        in_prompt, prompt_keys + stored * pk_row + head * pk_head, tail_keys + row * tk_row + head * tk_head
    )
    values = tl.where(
        in_prompt, prompt_values + stored * pv_row + head * pv_head, tail_values + row * tv_row + head * tv_head
    )
    key_step = tl.where(in_prompt, pk_column, tk_column)
    value_step = tl.where(in_prompt, pv_column, tv_column)
    shift = tl.where(in_prompt, size - listed, 0)
    index_row = index + row * width

    member = tl.arange(0, block_g)
    offset = tl.arange(0, dim)
    query_head = row * tl.num_programs(0) * group + head * group + member  # of all rows
    own = member < group
    asked = tl.load(query + query_head[:, None] * dim + offset[None, :], mask=own[:, None], other=0.0)
    top = tl.full([block_g], float("-inf"), tl.float32)
    weight_sum = tl.zeros([block_g], tl.float32)
    attended = tl.zeros([block_g, dim], tl.float32)
    column = _columns_of_block(index_row, first, listed, shift, indexed, block_n)
    for start in range(first, last, block_n):
        place = start + tl.arange(0, block_n)
        inside = place < last
        key = tl.load(keys + column[:, None] * key_step + offset[None, :], mask=inside[:, None], other=0.0)
        value = tl.load(values + column[:, None] * value_step + offset[None, :], mask=inside[:, None], other=0.0)
        logit = _product(asked, tl.trans(key), upcast) * factor
        if observed:
            slot = place if indexed else column
            at = logits + query_head[:, None] * width + slot[None, :]
            tl.store(at, logit, mask=own[:, None] & (place < tl.minimum(last, listed))[None, :])
        top, weight_sum, attended = _absorb(logit, value, inside, top, weight_sum, attended, upcast)
        column = _columns_of_block(index_row, start + block_n, listed, shift, indexed, block_n)

    weight_sum = tl.where(weight_sum > 0, weight_sum, 1.0)
    at = query_head * parts + place_of_part
    tl.store(lse + at, top + tl.log2(weight_sum), mask=own)
    written = member < tl.where(first < last, group, 0)
    tl.store(part + at[:, None] * dim + offset[None, :], attended / weight_sum[:, None], mask=written[:, None])


@triton.jit
def _listed_columns(index_row, start, listed, block_n: tl.constexpr):
    place = start + tl.arange(0, block_n)
    return tl.load(index_row + place, mask=place < listed, other=0)


@triton.jit(do_not_specialize=["size", "width"])
def attend_joint(
    query, prompt_keys, prompt_values, tail_keys, tail_values, rows, filled, count, index,
    part, lse, logits, out, total, done,
    pk_row, pk_head, pk_column, pv_row, pv_head, pv_column, tk_row, tk_head, tk_column, tv_row, tv_head, tv_column,
    size, width, factor,
    indexed: tl.constexpr, dim: tl.constexpr, group: tl.constexpr, block_g: tl.constexpr, block_n: tl.constexpr,
    observed: tl.constexpr, upcast: tl.constexpr, whole: tl.constexpr, group_p2: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    head, place_of_part, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    heads, parts = tl.num_programs(0), tl.num_programs(1)
    listed = tl.load(count + row)
    stored = tl.load(rows + row).to(tl.int64)
    end = listed + tl.load(filled + row)
    share = tl.cdiv(tl.cdiv(end, block_n), parts) * block_n
    first = place_of_part * share
    last = tl.minimum(first + share, end)

    prompt_key, tail_key = prompt_keys + stored * pk_row + head * pk_head, tail_keys + row * tk_row + head * tk_head
    prompt_value = prompt_values + stored * pv_row + head * pv_head
    tail_value = tail_values + row * tv_row + head * tv_head
    index_row = index + row * width

    member = tl.arange(0, block_g)
    offset = tl.arange(0, dim)
    first_head = (row * heads + head) * group  # of all rows' query heads
    query_head = first_head + member
    own = member < group
    asked = tl.load(query + query_head[:, None] * dim + offset[None, :], mask=own[:, None], other=0.0)
    top = tl.full([block_g], float("-inf"), tl.float32)
    weight_sum = tl.zeros([block_g], tl.float32)
    attended = tl.zeros([block_g, dim], tl.float32)
    if indexed:
        column = _listed_columns(index_row, first, listed, block_n)
        later = _listed_columns(index_row, first + block_n, listed, block_n)
    for start in range(first, last, block_n):
        place = start + tl.arange(0, block_n)
        inside = place < last
        of_prompt = place < listed
        if not indexed:
            column = place + size - listed
        # Chosen in two dimensions: of pointers chosen in one, Triton 3.9 forgets that each starts an aligned row.
        prompt_row, late = of_prompt[:, None], place - listed
        key_at = tl.where(
            prompt_row,
            prompt_key + column[:, None] * pk_column + offset[None, :],
            tail_key + late[:, None] * tk_column + offset[None, :],
        )
        value_at = tl.where(
            prompt_row,
            prompt_value + column[:, None] * pv_column + offset[None, :],
            tail_value + late[:, None] * tv_column + offset[None, :],
        )
        key = tl.load(key_at, mask=inside[:, None], other=0.0)
        value = tl.load(value_at, mask=inside[:, None], other=0.0)
        logit = _product(asked, tl.trans(key), upcast) * factor
        if observed:
            slot = place if indexed else column
            at = logits + query_head[:, None] * width + slot[None, :]
            tl.store(at, logit, mask=own[:, None] & (inside & of_prompt)[None, :])
        top, weight_sum, attended = _absorb(logit, value, inside, top, weight_sum, attended, upcast)
        if indexed:
            # The minimum changes nothing but must stay: a loop argument that is passed on unchanged keeps Triton 3.6's
            # pipeliner from overlapping the loads of keys and values with the products.
            column = tl.minimum(later, size - 1)
            later = _listed_columns(index_row, start + 2 * block_n, listed, block_n)

    weight_sum = tl.where(weight_sum > 0, weight_sum, 1.0)
    attended = attended / weight_sum[:, None]
    level = top + tl.log2(weight_sum)
    if whole:
        at = out + query_head[:, None] * dim + offset[None, :]
        tl.store(at, attended.to(out.dtype.element_ty), mask=own[:, None])
        tl.store(total + query_head, level, mask=own)
    else:
        at = query_head * parts + place_of_part
        tl.store(lse + at, level, mask=own)
        tl.store(part + at[:, None] * dim + offset[None, :], attended, mask=own[:, None])
        tl.debug_barrier()  # all threads have stored before one of them says so
        before = tl.atomic_add(done + row * heads + head, 1, sem="acq_rel", scope="gpu")
        if before == parts - 1:
            tl.store(done + row * heads + head, 0)  # as the next call wants to find it
            _combine_joint(part, lse, out, total, first_head, parts, dim, group, group_p2, block_p)


@triton.jit
def _combine_joint(
    part, lse, out, total, first_head, parts,
    dim: tl.constexpr, group: tl.constexpr, group_p2: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """Weigh the parts, at most block_p, of a group of query heads: in their order, whichever program comes last."""
    member, place, offset = tl.arange(0, group_p2), tl.arange(0, block_p), tl.arange(0, dim)
    own = member < group
    query_head = first_head + member
    at = query_head[:, None] * parts + place[None, :]
    real = own[:, None] & (place < parts)[None, :]
    # Past the first-level cache, which may hold what was there before the other programs stored.
    each = tl.load(lse + at, mask=real, other=float("-inf"), cache_modifier=".cg")
    output_at = part + at[:, :, None] * dim + offset[None, None, :]
    output = tl.load(output_at, mask=real[:, :, None], other=0.0, cache_modifier=".cg")
    top = tl.where(own, tl.max(each, axis=1), 0.0)
    weight = tl.exp2(each - top[:, None])
    weight_sum = tl.where(own, tl.sum(weight, axis=1), 1.0)
    mixed = tl.sum(weight[:, :, None] * output, axis=1) / weight_sum[:, None]
    tl.store(out + query_head[:, None] * dim + offset[None, :], mixed.to(out.dtype.element_ty), mask=own[:, None])
    tl.store(total + query_head, top + tl.log2(weight_sum), mask=own)


@triton.jit(do_not_specialize=["parts"])
def combine(part, lse, out, total, parts, dim: tl.constexpr, block_p: tl.constexpr):
    query_head = tl.program_id(0).to(tl.int64)
    offset = tl.arange(0, dim)
    top = -float("inf")
    weight_sum = 0.0
    mixed = tl.zeros([dim], tl.float32)
    for start in range(0, parts, block_p):
        place = start + tl.arange(0, block_p)
        at = query_head * parts + place
        real = place < parts
        each = tl.load(lse + at, mask=real, other=float("-inf"))
        output = tl.load(part + at[:, None] * dim + offset[None, :], mask=real[:, None], other=0.0)
        new_top = tl.maximum(top, tl.max(each, axis=0))
        level = tl.where(new_top == float("-inf"), 0.0, new_top)  # no part so far read anything
        weight = tl.exp2(each - level)
        decay = tl.exp2(top - level)
        weight_sum = weight_sum * decay + tl.sum(weight, axis=0)
        output = tl.where((weight > 0)[:, None], output, 0.0)  # the output of an empty part was never written
        mixed = mixed * decay + tl.sum(weight[:, None] * output, axis=0)
        top = new_top
    tl.store(out + query_head * dim + offset, (mixed / weight_sum).to(out.dtype.element_ty))
    tl.store(total + query_head, top + tl.log2(weight_sum))


@triton.jit(do_not_specialize=["size", "width"])
def average(
    logits, total, count, index, attn, size, width,
    indexed: tl.constexpr, heads: tl.constexpr, block_h: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * block_n + tl.arange(0, block_n)
    listed = tl.load(count + row)
    read = (slot < listed) if indexed else (slot >= size - listed) & (slot < size)
    head = tl.arange(0, block_h)
    query_head = row * heads + head
    real = (head < heads)[:, None] & read[None, :]
    logit = tl.load(logits + query_head[:, None] * width + slot[None, :], mask=real, other=float("-inf"))
    level = tl.load(total + query_head, mask=head < heads, other=0.0)
    mean = tl.sum(tl.exp2(logit - level[:, None]), axis=0) / heads
    if indexed:
        column = tl.load(index + row * width + slot, mask=read, other=0)
        tl.store(attn + row * size + column, mean, mask=read)
    else:
        tl.store(attn + row * size + slot, mean, mask=slot < size)
