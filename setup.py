"""Package metadata. Build and tool settings are in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = runpy.run_path(str(ROOT / "dycoke" / "version.py"))["__version__"]

REQUIRED = [
    "torch>=2.11",  # tensors; brings Triton on Linux
    "torchvision",  # transformers' processor of LLaVA-OneVision needs it for videos
    "transformers>=5.17,<6",  # language models, towers, generation; both ends of the range are tested
    "accelerate",  # placing a model on devices, and launching training
    "safetensors",  # checkpoints
    "huggingface-hub",  # checkpoints by name
    "av",  # frames of a video, with FFmpeg inside on every platform; writing mp4
    "numpy",
    "pillow",  # image processors
    "pyyaml",  # values of options
    "typer>=0.29",  # the command line
    "rich",  # its tables and progress
    # The Llama tokenizer reads tokenizer.model with sentencepiece and protobuf. Later releases of sentencepiece need a
    # protobuf that wandb, which lmms-eval pins, does not allow.
    "sentencepiece<=0.2.1",
    "protobuf",
]
# Other readers of frames. The last release of decord has wheels for Linux on x86-64 and Windows only.
DECORD = "decord; sys_platform == 'linux' and platform_machine == 'x86_64' or sys_platform == 'win32'"
EVALUATION = [
    "lmms-eval>=0.7.3,<0.8",  # the harness; earlier wheels of 0.7 hold no tasks
    "filelock<4.3",  # lmms-eval 0.7.3 reaches into a module of it that 4.3 does not have
    DECORD,  # lmms-eval's llava_onevision and llava_vid import it
    "matplotlib",  # plots of reports
]
DOCS = [  # docs/ as a site
    "mkdocs<2",  # 2.0 has no plugins, which the theme and searching are
    "mkdocs-material>=9.7,<10",  # a theme that reads well on a phone and searches without a server of its own
]
EXTRAS = {
    "decord": [DECORD],
    "torchcodec": ["torchcodec>=0.8"],  # needs FFmpeg's libraries on the machine, and a release of torch that it names
    "flash-attn": ["flash-attn"],  # a faster attention backend on GPUs; sdpa is used without it
    # One 72B model sharded over all GPUs by ZeRO-3, where device_map="auto" would let them compute one after the other.
    "deepspeed": ["deepspeed>=0.19.8"],
    "eval": EVALUATION,
    "docs": DOCS,
    # import-linter: that no room imports one above it, by the contracts in pyproject.toml.
    # mypy: what a method or a family of one's own is type-checked against has to hold here first.
    "dev": [*EVALUATION, *DOCS, "pytest", "pytest-xdist", "ruff", "import-linter>=2.1", "mypy>=2"],
}

setup(
    name="dycoke",
    version=VERSION,
    description="Training-free token compression for video language models",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["dycoke", "dycoke.*", "llava", "llava.*"]), "dycoke.eval_configs"],
    package_dir={"dycoke.eval_configs": "eval_configs"},
    package_data={
        "dycoke": ["py.typed"],
        "dycoke.nano": ["model/*", "samples/*"],
        "dycoke.eval": ["tasks/*/*"],
        "dycoke.eval_configs": ["*.yaml"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["dycoke = dycoke.cli:main"],
        "lmms_eval.models": ["dycoke = dycoke.eval.models.manifest:manifests"],
    },
)
