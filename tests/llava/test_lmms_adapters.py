"""lmms-eval's command line on this package; each answer equals the one computed here directly.

`llava` is lmms-eval's own adapter. `llava_onevision` and `llava_vid` are ours, which are lmms-eval's own as long as
they are given no argument of ours; with method=full they load and ask the model in their own way.
"""

import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava.conversation import conv_templates
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from tests import warm
from tests.llava import tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("warm")]
pytest.importorskip("lmms_eval")
av = pytest.importorskip("av")
decord = pytest.importorskip("decord")

ROOT = Path(__file__).parent.parent.parent
WAYS = pytest.mark.parametrize("ours", ["", ",method=full"], ids=["stock", "full"])
QUESTIONS = ["What is shown?", "Which colour comes last?"]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.{visual}
doc_to_text: "question"
doc_to_target: "answer"
process_results: !function functions.score
generation_kwargs: {{max_new_tokens: 8, temperature: 0, do_sample: false}}
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
"""
FUNCTIONS = """
from PIL import Image


def one_video(doc):
    return [doc["video"]]


def all_images(doc):
    return [Image.open(file).convert("RGB") for file in doc["images"]]


def one_image(doc):
    return all_images(doc)[:1]


def score(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


def write_video(path: Path, seed: int) -> None:
    rng = np.random.RandomState(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(4))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(20):
            colour = np.broadcast_to(rng.randint(0, 256, 3, dtype=np.uint8), (64, 96, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(colour), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with two questions about videos and images, and the three tasks that ask them."""
    folder = tmp_path_factory.mktemp("tasks")
    docs = []
    for number, question in enumerate(QUESTIONS):
        video = folder / f"video{number}.mp4"
        write_video(video, number)
        files = []
        for side, size in (("a", (120, 80)), ("b", (50, 130))):
            file = folder / f"image{number}{side}.png"
            noise = np.random.RandomState(number + size[0]).randint(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(noise).save(file)
            files.append(str(file))
        docs.append({"question": question, "answer": "A", "video": str(video), "images": files})
    (folder / "docs.json").write_text(json.dumps(docs))
    (folder / "functions.py").write_text(FUNCTIONS)
    for visual in ("one_video", "all_images", "one_image"):
        text = TASK.format(name=f"tiny_{visual}", data=folder / "docs.json", visual=visual)
        (folder / f"{visual}.yaml").write_text(text)
    return folder


def run_lmms_eval(
    tasks: Path, out: Path, model: str, names: list[str], arguments: str, batch_size: int = 1, cold: bool = False
) -> dict:
    """Run tasks and return the logged answers of each, in the order of the questions."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(out / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", arguments]
    command += ["--tasks", ",".join(f"tiny_{name}" for name in names), "--include_path", str(tasks)]
    command += ["--device", "cpu", "--batch_size", str(batch_size), "--output_path", str(out), "--log_samples"]
    command += ["--verbosity", "DEBUG"]  # it exits with 0 after most errors, unless it is told to raise them
    options = {"env": environment, "cwd": out, "capture_output": True, "text": True}
    done = warm.run(command, cold=cold, timeout=300, **options)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: logged_answers(out, name) for name in names}


def logged_answers(out: Path, name: str) -> list[str]:
    (log,) = out.rglob(f"*_samples_tiny_{name}.jsonl")
    samples = sorted((json.loads(line) for line in log.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert [sample["doc_id"] for sample in samples] == [0, 1]
    return [sample["filtered_resps"] for sample in samples]


def direct_answers(path: Path, name: str, template: str, visuals: list, overwrite=None) -> list[str]:
    """Answer the questions without lmms-eval; visuals holds frames [T, H, W, 3] or a list of images for each."""
    tokenizer, model, processor, _ = load_pretrained_model(
        str(path), None, name, attn_implementation="sdpa", overwrite_config=overwrite
    )
    answers = []
    for question, visual in zip(QUESTIONS, visuals, strict=True):
        chat = conv_templates[template].copy()
        if isinstance(visual, np.ndarray):
            pixels = processor.preprocess(visual, return_tensors="pt")["pixel_values"].half()
            options = {"images": [pixels], "modalities": ["video"]}
        else:
            if len(visual) > 1:
                model.config.image_aspect_ratio = "pad"
            pixels = process_images(visual, processor, model.config)
            options = {"images": pixels.half(), "image_sizes": [image.size for image in visual]}
        count = 1 if isinstance(visual, np.ndarray) else len(visual)
        chat.append_message(chat.roles[0], " ".join(["<image>"] * count) + "\n" + question)
        chat.append_message(chat.roles[1], None)
        ids = tokenizer_image_token(chat.get_prompt(), tokenizer, return_tensors="pt")[None]
        new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, **options)
        answers.append(tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip())
    return answers


def sampled_frames(tasks: Path, count: int) -> list[np.ndarray]:
    """Return `count` evenly spaced frames of each video."""
    clips = []
    for number in range(len(QUESTIONS)):
        reader = decord.VideoReader(str(tasks / f"video{number}.mp4"))
        clips.append(reader.get_batch(np.linspace(0, len(reader) - 1, count, dtype=int).tolist()).asnumpy())
    return clips


def pictures(tasks: Path, count: int) -> list[list[Image.Image]]:
    docs = json.loads((tasks / "docs.json").read_text())
    return [[Image.open(file).convert("RGB") for file in doc["images"][:count]] for doc in docs]


def check(answers: list[str], expected: list[str]) -> None:
    assert answers == expected
    assert len(set(answers)) == 2  # the two samples differ, so an answer by default would show
    assert all(answers)


@WAYS
def test_onevision(onevision_path, tasks, tmp_path, ours):
    arguments = f"pretrained={onevision_path},conv_template=qwen_1_5,model_name=llava_qwen,device_map=auto{ours}"
    names = ["one_video", "all_images", "one_image"]
    answers = run_lmms_eval(tasks, tmp_path, "llava_onevision", names, f"{arguments},max_frames_num=4", cold=not ours)
    visuals = [sampled_frames(tasks, 4), pictures(tasks, 2), pictures(tasks, 1)]
    for name, visual in zip(names, visuals, strict=True):
        check(answers[name], direct_answers(onevision_path, "llava_qwen", "qwen_1_5", visual))


@WAYS
def test_llava_video(tasks, tmp_path, ours):
    path = tiny.make_video_checkpoint(tmp_path / "LLaVA-Video-tiny-Qwen2")
    arguments = f"pretrained={path},conv_template=qwen_1_5,device_map=auto,max_frames_num=4,force_sample=True{ours}"
    out = tmp_path / "out"
    out.mkdir()
    answers = run_lmms_eval(tasks, out, "llava_vid", ["one_video"], arguments)["one_video"]
    settings = {"mm_spatial_pool_mode": "average", "mm_newline_position": "grid"}
    check(answers, direct_answers(path, path.name, "qwen_1_5", sampled_frames(tasks, 4), settings))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_llava_15(goldens_dir, tasks, tmp_path, batch_size):
    path = Path(shutil.copytree(goldens_dir / "ckpt" / "llava-v1.5-tiny", tmp_path / "llava-v1.5-tiny"))
    tiny.edit_config(path, mm_vision_tower=str(goldens_dir / "ckpt" / "clip-tiny"))
    out = tmp_path / "out"
    out.mkdir()
    answers = run_lmms_eval(tasks, out, "llava", ["one_image"], f"pretrained={path},device_map=auto", batch_size)
    expected = direct_answers(path, path.name, "vicuna_v1", pictures(tasks, 1))
    check([answer.strip() for answer in answers["one_image"]], expected)
