"""The methods, one file each. Importing this package registers them all: one line here makes a file known."""

from dycoke.methods.dycoke import DyCoke, TemporalMerge
from dycoke.methods.dycoke_adaptive import DyCokeAdaptive
from dycoke.methods.dynamic_pruning import DynamicPruning
from dycoke.methods.fastv import FastV
from dycoke.methods.fastvid import FastVID
from dycoke.methods.flashvid import FlashVid, FlashVidOuter
from dycoke.methods.framefusion import FrameFusion
from dycoke.methods.full import Full
from dycoke.methods.holitom import HoliTom, HoliTomOuter
from dycoke.methods.pdrop import PDrop
from dycoke.methods.prumerge import PruMerge, PruMergePlus
from dycoke.methods.prunevid import PruneVid, PruneVidOuter
from dycoke.methods.random_drop import RandomDrop
from dycoke.methods.sparsevlm import SparseVLM
from dycoke.methods.uniform_frames import UniformFrames
from dycoke.methods.vidcom2 import VidCom2
from dycoke.methods.visionzip import VisionZip
