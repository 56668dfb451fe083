"""Operations on visual tokens [T, N, D] that methods share: similarity, merging, clustering, choosing."""
