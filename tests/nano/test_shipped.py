"""The model and the videos that ship with the project."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dycoke.families.chat import load_chat, placement
from dycoke.nano import MODEL_PATH, SAMPLES_PATH
from dycoke.nano.architecture import SHAPES, build_model
from dycoke.nano.generator import FAMILIES
from dycoke.nano.samples import INDEX, NUMBERS, TASKS, read_samples, write_samples
from dycoke.nano.tokenizer import load
from dycoke.offline.answer import answer
from dycoke.registry import build
from dycoke.video.frames import read_frames

WEIGHTS = MODEL_PATH / "model.safetensors"
FRAMES = 32
ROOT = Path(__file__).resolve().parents[2]
TOGETHER = pytest.mark.xdist_group("shipped")  # one process of the tests makes the answers


@pytest.fixture(scope="module")
def chat():
    return load_chat(str(MODEL_PATH), placement("cpu", "float32"))


@pytest.fixture(scope="module")
def answers(chat):
    """(video, task, right answer, said at full tokens, said at K = 0.7) of every sample question."""
    found = []
    for sample in read_samples():
        frames = read_frames(sample.video, FRAMES)
        for task, question, right in sample.questions:
            request = chat.request(frames, question)
            methods = build("full"), build("dycoke", k=0.7, decode="off")
            said = [answer(chat, method, request, 96).text for method in methods]
            found.append((sample.video.name, task, right, *said))
    return found


def test_files_are_small():
    total = sum(path.stat().st_size for path in MODEL_PATH.iterdir())
    assert WEIGHTS.stat().st_size <= 19_900_000 and total < 20_000_000
    for sample in read_samples():
        assert sample.video.stat().st_size < 200_000


def test_checkpoint_has_exactly_the_tensors_of_a_llava_next_file():
    model = build_model(load(MODEL_PATH), SHAPES["nano"], seed=0)
    # as the original writes them; tied embeddings leave no lm_head in the file
    expected = {
        name.replace(".vision_tower.vision_tower.", ".vision_tower.vision_tower.vision_model."): tuple(value.shape)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    with safe_open(WEIGHTS, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in found} == {"BF16"}
    assert found == expected


def test_checkpoint_loads_with_its_own_configuration(chat):
    config = json.loads((MODEL_PATH / "config.json").read_text())
    assert config["architectures"] == ["LlavaQwenForCausalLM"]
    assert config["torch_dtype"] == "bfloat16" and config["rope_theta"] == 10000.0
    assert config["vision_config"]["num_hidden_layers"] == 5
    tower = chat.model.get_vision_tower()
    assert (tower.depth, tower.num_patches, tower.image_size) == (4, 64, 64)
    assert chat.model.lm_head.weight is chat.model.model.embed_tokens.weight
    assert chat.model.generation_config.do_sample is False
    assert chat.model.generation_config.eos_token_id == chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with safe_open(WEIGHTS, "pt") as file:
        assert torch.equal(file.get_tensor("model.image_newline").float(), chat.model.model.image_newline)


def test_sample_questions_are_of_every_family():
    samples = read_samples()
    assert [sample.video.stem for sample in samples] == list(NUMBERS)
    for sample in samples:
        assert [task for task, _, _ in sample.questions] == list(TASKS)
        assert max(len(right.split()) for _, _, right in sample.questions) > 20
        assert not {"none", "It stays still"} & {right for _, _, right in sample.questions}
    assert all(any(task in family.tasks for task in TASKS) for family in FAMILIES.values())


def test_samples_are_what_their_numbers_draw(tmp_path):
    """The files that are shipped are those that the command writes."""
    for file in write_samples(tmp_path):
        shipped, fresh = read_frames(SAMPLES_PATH / file.name, FRAMES), read_frames(file, FRAMES)
        assert np.abs(shipped.astype(float) - fresh.astype(float)).mean() < 2  # x264 may have another version
    assert (tmp_path / INDEX).read_text() == (SAMPLES_PATH / INDEX).read_text()


def test_a_missing_sample_is_named(tmp_path):
    (tmp_path / INDEX).write_text((SAMPLES_PATH / INDEX).read_text())
    with pytest.raises(FileNotFoundError, match=r"\.mp4"):
        read_samples(tmp_path)


@TOGETHER
@pytest.mark.slow
def test_every_sample_question_is_answered_right(answers):
    assert [row[:4] for row in answers if row[2] != row[3]] == []
    assert len(answers) == 3 * len(TASKS)


@TOGETHER
@pytest.mark.slow
def test_most_stay_right_under_temporal_merging(answers):
    right = sum(row[2] == row[4] for row in answers)
    assert right >= 0.8 * len(answers)


@pytest.mark.parametrize(
    "question",
    [
        "what color is the {shape} at the end",
        "What is the final color of the {shape}?",
        "What colour is the {shape} at the end of the video?",
    ],
)
def test_typed_variants_are_understood(chat, question):
    sample = read_samples()[0]
    frames = read_frames(sample.video, FRAMES)
    ((asked, right),) = [(asked, right) for task, asked, right in sample.questions if task == "color_end"]
    shape = asked.split("is the ")[1].split()[0]
    assert answer(chat, build("full"), chat.request(frames, question.format(shape=shape)), 8).text == right


def test_the_cards_figures_are_those_of_the_results():
    card = (MODEL_PATH / "MODEL_CARD.md").read_text()
    methods = ["full", *(f"dycoke-k{k}-l1-p0.7" for k in (0.3, 0.5, 0.7))]
    files = [ROOT / "results" / "nano_table1" / f"nano_f32_{method}__nanovideo" / "metrics.json" for method in methods]
    runs = [json.loads(file.read_text()) for file in files]
    of = {
        "mean of twelve families": FAMILIES,
        "the ten with short answers": [name for name, family in FAMILIES.items() if not family.long],
        "events in order": ["events"],
        "transcript": ["transcript"],
    }
    for label, families in of.items():
        (row,) = (line for line in card.splitlines() if line.startswith("|") and label in line)
        asked, *told = [cell.strip() for cell in row.split("|")[2:-1]]
        leaves = [f"nanovideo_{name}" for name in families]
        means = [sum(run["scores"][leaf]["score"] for leaf in leaves) / len(leaves) for run in runs]
        assert told == ["100 %" if mean == 1 else f"{100 * mean:.1f} %" for mean in means]
        assert int(asked) == sum(runs[0]["samples"][leaf] for leaf in leaves)
    full = runs[0]["scores"]
    short = [full[f"nanovideo_{name}"]["score"] for name in of["the ten with short answers"]]
    assert min(short) >= 0.85 and sum(short) / len(short) >= 0.95
    assert min(full["nanovideo_events"]["score"], full["nanovideo_transcript"]["score"]) >= 0.9
