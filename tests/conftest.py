"""Offline everywhere, and kernels in Triton's interpreter where there is no GPU. Set before anything is imported."""

import os
import tempfile

import torch

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
os.environ.setdefault("HF_HOME", tempfile.mkdtemp(prefix="dycoke-hf-"))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
