"""Views and chat rows: what a training row shows, and what it is scored on."""

import copy
import random
from collections import Counter

import numpy as np
import pytest
import torch

from dycoke.nano import CONVERSATION, MODEL_PATH
from dycoke.nano import tokenizer as nano_tokenizer
from dycoke.nano.augment import degrade, to_bytes
from dycoke.nano.batches import IGNORE, ROW_TOKENS, Chat, TrainingData, _arrange, _levels, evaluation_scenes, make_rows
from dycoke.nano.generator import FAMILIES, LEVELS, TICKS, clip_questions, image_questions, sample_scenes, stories
from dycoke.nano.generator.randomness import integers
from dycoke.nano.generator.splits import split_seeds
from dycoke.nano.views import CLIP_GRID, NATIVE, draw_view, even_ticks, native_view, spacing
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.mm_utils import tokenizer_image_token
from tests.nano.seeds import split_of


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer.load(MODEL_PATH)


@pytest.fixture(scope="module")
def story_questions():
    return clip_questions(stories(evaluation_scenes(1))[0])


def test_views_cover_the_mix():
    generator = torch.Generator().manual_seed(0)
    views = [draw_view(3, generator) for _ in range(500)]
    assert {view.kind for view in views} == {"native", "even", "uneven", "repeated", "subset", "few", "image"}
    assert {view.grid for view in views} == {3, 4, 5, 6, 8}
    counts = {view.ticks.shape[1] for view in views}
    assert min(counts) == 1 and max(counts) == TICKS
    for view in views:
        assert view.ticks.dtype == torch.int64 and view.ticks.shape[0] == 3
        assert view.ticks.min() >= 0 and view.ticks.max() < TICKS
        assert (view.ticks.diff(dim=1) >= 0).all()
        assert view.visual_tokens == view.ticks.shape[1] * view.grid**2 <= 1200
        if view.kind in ("native", "even", "uneven", "repeated", "subset"):
            assert view.ticks[:, -1].min() >= TICKS - 5  # what is asked about the end is seen
        if view.places is not None:
            assert view.kind == "subset" and view.places[-1] == NATIVE - 1
            off = view.ticks - even_ticks(NATIVE)[view.places]
            assert off.abs().max() <= 1


def test_a_run_begins_with_images():
    generator = torch.Generator().manual_seed(0)
    early = [draw_view(1, generator, 0.0).kind for _ in range(300)].count("image")
    late = [draw_view(1, generator, 0.5).kind for _ in range(300)].count("image")
    assert early > 100 > 40 > late


def test_even_ticks_are_those_that_readers_sample():
    for frames in (8, 12, 32, 63, 64):
        assert even_ticks(frames).tolist() == np.linspace(0, TICKS - 1, frames, dtype=int).tolist()
    assert even_ticks(1).tolist() == [0]


def test_spacing_is_the_longest_stretch_without_a_frame():
    ticks = torch.tensor([[0, 4, 9, 63], [3, 4, 5, 50], [20, 30, 40, 50]])
    assert spacing(ticks) == [54, 45, 21]
    assert spacing(torch.tensor([[8, 28, 48, 60]]))[0] == 20
    assert spacing(torch.arange(TICKS)[None]) == [1]
    # whatever lasts as long is in a frame, and what is shorter by one may not be
    for row, longest in zip(ticks.tolist(), spacing(ticks), strict=True):
        missed = [b for b in range(TICKS - longest + 1) if not set(range(b, b + longest)) & set(row)]
        shorter = [b for b in range(TICKS - longest + 2) if not set(range(b, b + longest - 1)) & set(row)]
        assert not missed and shorter


def test_the_last_stretch_of_a_clip_as_readers_sample_it_hides_nothing():
    assert spacing(even_ticks(32)[None]) == [2]  # frames 60 and 63 are the last
    assert spacing(torch.tensor([[*range(60), 63]])) == [4]  # from 59, where a digit may still be shown
    assert spacing(torch.arange(61)[None]) == [4]  # nothing behind 60 is in a frame
    scenes = sample_scenes(split_seeds("train", 0, 2000), "hard")
    brief = torch.cat([scenes.digit_off, scenes.letter_off, scenes.flash_off], 1)
    begun = torch.cat([scenes.digit_on, scenes.letter_on, scenes.flash_on], 1)
    assert not ((begun > 60) & (begun < TICKS)).any() and not ((brief > 63) & (brief < TICKS)).any()
    for name in ("appear", "change", "leave", "cover"):
        assert getattr(scenes, name)[getattr(scenes, name) < TICKS].max() == TICKS - 3


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
    data = TrainingData(tokenizer, seed=3, batch=4, steps=10)
    again = TrainingData(tokenizer, seed=3, batch=4, steps=10)[7]
    batch = data[7]
    assert torch.equal(batch.rows.ids, again.rows.ids) and torch.equal(batch.view.ticks, again.view.ticks)
    assert torch.equal(batch.scene.seed, again.scene.seed) and torch.equal(batch.scene.level, again.scene.level)
    assert not torch.equal(batch.scene.seed, data[6].scene.seed)
    assert not torch.equal(batch.scene.seed, TrainingData(tokenizer, 4, 4, 10)[7].scene.seed)
    assert batch.rows.ids.shape == (4, ROW_TOKENS)


def test_processes_see_other_scenes_in_the_same_view(tokenizer):
    first, second = (TrainingData(tokenizer, seed=3, batch=4, steps=10, processes=2)[i] for i in (6, 7))
    assert torch.equal(first.view.ticks, second.view.ticks) and first.view.grid == second.view.grid
    assert not torch.equal(first.scene.seed, second.scene.seed)


def test_training_never_meets_evaluation(tokenizer):
    data = TrainingData(tokenizer, seed=0, batch=64, steps=4)
    assert {split_of(seed) for i in range(4) for seed in data[i].scene.seed.tolist()} == {"train"}
    assert {split_of(seed) for seed in evaluation_scenes(64).seed.tolist()} == {"validation"}
    assert {split_of(seed) for seed in evaluation_scenes(4, split="test").seed.tolist()} == {"test"}
    assert torch.equal(evaluation_scenes(4, 2).seed[:2], evaluation_scenes(4).seed[2:])
    with pytest.raises(ValueError, match="count=0"):
        evaluation_scenes(0)


def test_training_mixes_the_levels():
    """Of a hundred scenes, 20 are easy, 55 standard and 25 hard."""
    assert list(LEVELS) == ["easy", "standard", "hard"]
    numbers = torch.arange(3000)
    drawn = integers(numbers, 61, 0, 100)
    assert torch.equal(_levels(numbers), (drawn >= 20).long() + (drawn >= 75).long())
    assert (_levels(numbers).bincount() / 3000).tolist() == pytest.approx([0.2, 0.55, 0.25], abs=0.03)


def turns(tokenizer, row: torch.Tensor) -> list[tuple[str, str]]:
    """The questions and answers of a row, read back from its tokens."""
    text = tokenizer.decode(row[row != tokenizer.pad_token_id])
    parts = text.replace("<|im_start|>user", "").replace("<|im_start|>assistant", "").split("<|im_end|>")[:-1]
    return [(plain(question), answer.strip()) for question, answer in zip(parts[::2], parts[1::2], strict=True)]


def plain(question: str) -> str:
    return question.strip().rstrip("?.").lower()


def test_rows_ask_what_their_frames_show(tokenizer):
    """And only that: a question whose spacing is no narrower than the view's, at most twice of a kind."""
    data = TrainingData(tokenizer, seed=1, batch=4, steps=1000)
    seen: Counter[str] = Counter()
    for number in range(300, 312):
        batch = data[number]
        apart = spacing(batch.view.ticks)
        for b, story in enumerate(stories(batch.scene)):
            right = {}
            for rng in map(random.Random, range(60)):  # enough to come upon every wording
                if batch.view.kind == "image":
                    allowed = image_questions(story, batch.view.ticks[b, 0].item(), rng)
                else:
                    allowed = [q for q in clip_questions(story, rng) if apart[b] <= q.spacing]
                right |= {(plain(q.text), q.answer): q.task for q in allowed}
            tasks = Counter(right[turn] for turn in turns(tokenizer, batch.rows.ids[b]))
            assert max(tasks.values(), default=0) <= 2
            seen += tasks
    assert seen.total() > 300 and set(seen) > {task for family in FAMILIES.values() for task in family.tasks}


def test_long_answers_come_first_or_not_at_all_mostly(story_questions):
    """After them, the short questions could be answered from the text."""
    places = []
    for seed in range(200):
        arranged = _arrange(list(story_questions), random.Random(seed))
        long = [place for place, q in enumerate(arranged) if q.task in ("events", "transcript")]
        places.append("none" if not long else "first" if long == [0, 1] else "any")
        assert len(long) in (0, 2)
    shares = Counter(places)
    assert shares["first"] > 60 and shares["none"] > 60 and shares["any"] > 20


def test_a_row_has_the_questions_that_fit(tokenizer, story_questions):
    chat = Chat(tokenizer)
    chosen = chat.fitting(story_questions, 60)
    sizes = [sum(map(len, chat.turn(q, place == 0))) for place, q in enumerate(chosen)]
    assert 30 < sum(sizes) <= 60
    assert [q for q in story_questions if q in chosen] == chosen
    assert chat.fitting(story_questions, 5) == []
    assert len(make_rows([chosen], chat, 60).ids[0]) == 60


def test_native_view_shows_every_other_tick():
    view = native_view(2)
    assert view.ticks.tolist() == [[*range(0, 62, 2), 63]] * 2
    assert view.visual_tokens == NATIVE * CLIP_GRID**2


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
