"""DyCoke's dynamic pruning of the KV cache as a method of its own."""

from __future__ import annotations

from dycoke.bases.dynamic_pruning import DEVIATIONS, DynamicPruning
from dycoke.registry import register

register(
    "dynamic_pruning",
    source="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, CVPR 2025, section 3.3",
    paper="https://arxiv.org/abs/2411.15024",
    code="https://github.com/KD-TAO/DyCoke/tree/dd74634",
    retention="every token stays in the cache; layers from L read int(V (1 - P)) of V visual tokens",
    official="paper and README: L=3 P=.7; evaluation wrapper, builder and config: L=3 P=.8; refresh .9",
    deviations=DEVIATIONS,
)(DynamicPruning)
