"""The one place where another package may step into a model of this one: between pooling and newline packing.

`model.video_seam` is None unless something is attached; with None nothing here is ever called.
"""

from typing import Protocol

from torch import Tensor

from llava.model.packing import Packed


class VideoSeam(Protocol):
    """What an attached compressor answers. Tensors must stay on the device they came on."""

    def video(
        self, frames: Tensor, grid: tuple[int, int], newline: str, text: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """Choose the tokens of one video; called once per video entry of a batch, in prompt order.

        frames [T, N, D] are the pooled, projected tokens, N = rows * cols, and grid = (rows, cols). newline is the
        layout they will be packed in: "one_token", "grid", "frame" or "no_token" (also "no_token" for merge type
        "flat" and for a model without a newline vector). text [Q, D] are the embedded text tokens of the prompt
        row the video stands in. rows are those of the frames in the one tower call that encoded the whole batch.
        Returns embeds [M, D] and index [M] int64: the unique slot t * N + n of each token.
        """
        ...

    def release(self) -> None:
        """Let go of the tower call: all its videos have passed, or encoding or laying them out has failed."""
        ...

    def packed(self, packed: Packed) -> Tensor | None:
        """Choose the position ids of a packed batch; called once per batch, one without images too (and then ignored).

        packed.visual [B, S] bool is True at tokens of a video or an image, False at text and newlines; packed.newlines
        [B, S] bool is True at the newlines. packed.video and packed.slots [B, S] int64 say which video of its row a
        token is of, and which of its slots t * N + n it is, -1 elsewhere. packed.positions [B, S] int64 holds the place
        each token has in the uncompressed, unpadded sequence, 0 at padding. packed.mask [B, S] bool is True at real
        tokens.
        Returns position ids [B, S], or None for the usual consecutive ones.
        """
        ...
