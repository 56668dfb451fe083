"""Views and chat rows: what a training row shows, and what it is scored on."""

import copy

import pytest
import torch

from dycoke.nano import CONVERSATION, MODEL_PATH
from dycoke.nano import tokenizer as nano_tokenizer
from dycoke.nano.augment import degrade, to_bytes
from dycoke.nano.batches import IGNORE, ROW_TOKENS, Chat, TrainingData, evaluation_scenes, make_rows
from dycoke.nano.generator import FRAMES, clip_questions, stories
from dycoke.nano.views import CLIP_GRID, draw_view, native_view, spacing
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer.load(MODEL_PATH)


def test_views_cover_the_mix():
    generator = torch.Generator().manual_seed(0)
    views = [draw_view(3, generator) for _ in range(400)]
    assert {view.kind for view in views} == {"native", "even", "uneven", "repeated", "subset", "few", "image"}
    assert {view.grid for view in views} == {3, 4, 5, 6, 8}
    counts = {view.times.shape[1] for view in views}
    assert min(counts) == 1 and max(counts) == 48
    for view in views:
        assert view.times.min() >= 0 and view.times.max() < FRAMES
        assert (view.times.diff(dim=1) >= 0).all()
        if view.kind != "image":
            assert view.times[:, -1].min() >= FRAMES - 4  # what is asked about the end is seen
        if view.places is not None:
            assert view.places.shape == view.times.shape[1:]
            assert view.times.long().equal(view.places.expand_as(view.times))


def test_a_run_begins_with_images():
    generator = torch.Generator().manual_seed(0)
    early = [draw_view(1, generator, 0.0).kind for _ in range(300)].count("image")
    late = [draw_view(1, generator, 0.5).kind for _ in range(300)].count("image")
    assert early > 100 > 40 > late


def test_spacing_is_the_longest_stretch_without_a_frame():
    moments = torch.tensor([[0.0, 4.0, 9.5, 31.0], [3.0, 4.0, 5.0, 25.0], [6.0, 12.0, 18.0, 27.0]])
    assert spacing(moments) == pytest.approx([21.5, 20.0, 9.0])
    assert spacing(torch.tensor([[8.0, 15.0, 22.0, 28.0]]))[0] > 8  # an interval [0, 8) ends before the first frame


def test_rows_are_the_conversation_template(tokenizer):
    questions = clip_questions(stories(evaluation_scenes(1))[0])[:3]
    chat = Chat(tokenizer)
    rows = make_rows([questions], chat, 200)
    conversation = copy.deepcopy(conv_templates[CONVERSATION])
    for number, question in enumerate(questions):
        conversation.append_message(conversation.roles[0], ("<image>\n" if number == 0 else "") + question.text)
        conversation.append_message(conversation.roles[1], question.answer)
    ids = tokenizer_image_token(conversation.get_prompt(), tokenizer)
    at = ids.index(IMAGE_TOKEN_INDEX)
    assert ids[:at] == list(chat.prefix)
    rest = ids[at + 1 :]
    row = rows.ids[0].tolist()
    # the template writes a newline after the last end mark, which nothing is trained on
    assert row[: len(rest) - 1] == rest[:-1]
    assert set(row[len(rest) - 1 :]) == {tokenizer.pad_token_id}


def test_only_answers_are_scored(tokenizer):
    questions = clip_questions(stories(evaluation_scenes(1))[0])[:4]
    rows = make_rows([questions], Chat(tokenizer), 200)
    scored = rows.labels[0] != IGNORE
    assert torch.equal(scored, rows.weights[0] > 0)
    assert torch.equal(rows.labels[0][scored], rows.ids[0][scored])
    assert tokenizer.decode(rows.labels[0][scored]).split("<|im_end|>")[:-1] == [q.answer for q in questions]
    with pytest.raises(ValueError, match="does not fit"):
        make_rows([questions], Chat(tokenizer), 20)


def test_training_data_is_a_function_of_the_number(tokenizer):
    data = TrainingData(tokenizer, seed=3, batch=4, batches=10)
    again = TrainingData(tokenizer, seed=3, batch=4, batches=10)[7]
    batch = data[7]
    assert torch.equal(batch.rows.ids, again.rows.ids) and torch.equal(batch.view.times, again.view.times)
    assert not torch.equal(batch.scene.seed, data[6].scene.seed)
    assert not torch.equal(batch.scene.seed, TrainingData(tokenizer, 4, 4, 10)[7].scene.seed)
    assert batch.rows.ids.shape == (4, ROW_TOKENS)
    assert (batch.rows.weights > 0).any(1).all()


def test_training_never_meets_evaluation(tokenizer):
    data = TrainingData(tokenizer, seed=0, batch=64, batches=4)
    assert all((data[i].scene.seed >= 0).all() for i in range(4))
    assert (evaluation_scenes(64).seed < 0).all()
    assert torch.equal(evaluation_scenes(4, 2).seed[:2], evaluation_scenes(4).seed[2:])
    with pytest.raises(ValueError, match="count=0"):
        evaluation_scenes(0)


def test_native_view_shows_every_frame_once():
    view = native_view(2)
    assert view.times.tolist() == [list(range(FRAMES))] * 2
    assert view.visual_tokens == FRAMES * CLIP_GRID**2


def test_degradation_is_repeatable_mild_and_per_row():
    pixels = torch.rand(3, 2, 3, 64, 64)
    first = degrade(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(first, degrade(pixels, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, degrade(pixels, torch.Generator().manual_seed(2)))
    assert torch.equal(first, to_bytes(first))
    flat = torch.full((4, 1, 3, 16, 16), 0.5)
    shifted = degrade(flat, torch.Generator().manual_seed(0)).mean((1, 2, 3, 4))
    assert 0.001 < (shifted - 0.5).abs().max() < 0.1
    assert shifted.unique().numel() == 4
