"""The methods, one file each. Importing this package registers them all."""

from dycoke.methods.dycoke import DyCoke, TemporalMerge
from dycoke.methods.dynamic_pruning import DynamicPruning
from dycoke.methods.full import Full, KeepAll
from dycoke.methods.prumerge import PruMerge, PruMergePlus
from dycoke.methods.random_drop import RandomDrop
from dycoke.methods.uniform_frames import UniformFrames
from dycoke.methods.vidcom2 import VidCom2
from dycoke.methods.visionzip import VisionZip

__all__ = [
    "DyCoke",
    "DynamicPruning",
    "Full",
    "KeepAll",
    "PruMerge",
    "PruMergePlus",
    "RandomDrop",
    "TemporalMerge",
    "UniformFrames",
    "VidCom2",
    "VisionZip",
]
