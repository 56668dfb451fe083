"""Training on a CPU with tiny sizes: resumable, refusing what does not fit, and reading positions as it should."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from dycoke.nano import MODEL_PATH
from dycoke.nano import tokenizer as nano_tokenizer
from dycoke.nano.architecture import SHAPES, build_model
from dycoke.nano.augment import normalise, to_unit
from dycoke.nano.batches import Batch, Chat, TrainingData, make_rows
from dycoke.nano.generator import FRAME, image_questions, render, sample_scenes, stories
from dycoke.nano.recipe import Recipe
from dycoke.nano.scoring import exact_match, shares
from dycoke.nano.step import NanoStep, draw, place_ids
from dycoke.nano.targets import targets
from dycoke.nano.train import main
from dycoke.nano.views import View
from dycoke.registry import build
from tests.eval.launch.launch import launch

TINY = ["--shape", "tiny", "--batch", "2", "--steps", "3", "--precision", "no", "--workers", "0", "--log-every", "1"]
FAST = [*TINY, "--videos", "1", "--evaluate-every", "100", "--k"]


@pytest.fixture(scope="module")
def tokenizer():
    return nano_tokenizer.load(MODEL_PATH)


@pytest.fixture(scope="module")
def step(tokenizer):
    return NanoStep(build_model(tokenizer, SHAPES["tiny"], seed=0), Chat(tokenizer).prefix)


def losses(folder) -> dict[int, tuple[float, float]]:
    records = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return {record["step"]: (record["answers"], record["dense"]) for record in records if "answers" in record}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    main(["--output", str(tmp_path / "whole"), *FAST])
    whole = losses(tmp_path / "whole")
    assert list(whole) == [1, 2, 3]
    cut = ["--output", str(tmp_path / "cut"), *FAST]
    main([*cut, "--minutes", "0"])
    assert list(losses(tmp_path / "cut")) == [1]
    main([*cut, "--resume"])
    assert losses(tmp_path / "cut") == whole
    assert whole[1] != whole[2] != whole[3]
    for name in ("config.json", "generation_config.json", "model.safetensors", *nano_tokenizer.FILES):
        first, second = (tmp_path / run / "model" / name for run in ("whole", "cut"))
        assert first.read_bytes() == second.read_bytes()


def test_resuming_refuses_another_recipe_and_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        main(["--output", str(tmp_path), *FAST, "--resume"])
    main(["--output", str(tmp_path), *FAST, "--minutes", "0"])
    with pytest.raises(ValueError, match="recipe"):
        main(["--output", str(tmp_path), *FAST, "--resume", "--rate", "0.1"])


def test_a_run_ends_at_the_step_it_is_told(tmp_path):
    main(["--output", str(tmp_path), *FAST, "--until", "2"])
    assert list(losses(tmp_path)) == [1, 2]
    main(["--output", str(tmp_path), *FAST, "--until", "2", "--resume"])  # killed before its last evaluation, say
    assert list(losses(tmp_path)) == [1, 2]
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path), *FAST, "--until", "0"])
    assert ended.value.code == 2


def test_a_kill_while_the_state_is_saved_leaves_the_one_before(tmp_path, monkeypatch):
    run = ["--output", str(tmp_path), *FAST, "--until"]
    main([*run, "1"])
    save, rename = Accelerator.save_state, Path.rename

    def half(self, folder):
        save(self, folder)
        next(Path(folder).glob("*.safetensors")).write_bytes(b"half of it")
        raise KeyboardInterrupt

    def between(self, target):
        if self.name == "state.partial":
            raise KeyboardInterrupt
        return rename(self, target)

    for owner, name, killed in ((Accelerator, "save_state", half), (Path, "rename", between)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, killed)
            main([*run, "2", "--resume"])
    (tmp_path / "curve.jsonl").unlink()
    main([*run, "2", "--resume"])  # of step 1, whose state both kills left
    assert list(losses(tmp_path)) == [2]
    assert {path.name for path in tmp_path.glob("state*")} == {"state"}


def test_a_run_starts_from_the_weights_of_a_model(tmp_path):
    main(["--output", str(tmp_path / "first"), *FAST])
    main(["--output", str(tmp_path / "none"), *FAST, "--seed", "1", "--until", "1"])
    start = tmp_path / "first" / "model"
    main(["--output", str(tmp_path / "more"), *FAST, "--seed", "1", "--until", "1", "--start-from", str(start)])
    # of the same batch, by weights that have learnt a little and by others
    assert losses(tmp_path / "more")[1] != losses(tmp_path / "none")[1]
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "more" / "model"))
    # a single step at the start of the warm-up
    moved = [(before[name].float() - after[name].float()).abs().max() for name in before]
    assert max(moved) < 0.01
    with pytest.raises(FileNotFoundError, match="nothing to start from"):
        main(["--output", str(tmp_path), *FAST, "--start-from", str(tmp_path / "nothing")])


@pytest.mark.parametrize("wrong", [{"shape": "huge"}, {"steps": 0}, {"batch": 0}, {"seed": -1}])
def test_recipes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_learning_rate_and_dense_weight_over_a_run():
    recipe = Recipe(steps=1000, warm_up=100)
    assert recipe.rate_at(0) == pytest.approx(recipe.rate / 100)
    assert max(recipe.rate_at(s) for s in range(1000)) == pytest.approx(recipe.rate, rel=0.05)
    assert recipe.rate_at(1000) == pytest.approx(recipe.rate * recipe.floor)
    assert (recipe.dense_at(0), recipe.dense_at(800), recipe.dense_at(1000)) == (recipe.dense, 0, 0)


def images(tokenizer, rows: int = 2) -> Batch:
    """A batch of single frames, and chats about them."""
    scene = sample_scenes(torch.arange(rows))
    ticks = torch.full((rows, 1), 40)
    chats = [image_questions(story, 40)[:6] for story in stories(scene)]
    return Batch(0, scene, View("image", ticks, 4), make_rows(chats, Chat(tokenizer), 200))


def test_losses_fall_on_a_batch_seen_again_and_again(tokenizer):
    step = NanoStep(build_model(tokenizer, SHAPES["tiny"], seed=1), Chat(tokenizer).prefix)
    batch = images(tokenizer)
    pixels, wanted = draw(batch, 0, torch.device("cpu"))
    optimiser = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=3e-3)
    seen = []
    for _ in range(20):
        answers, dense = step(pixels, wanted, batch.view, batch.rows)
        optimiser.zero_grad()
        (answers + dense).backward()
        optimiser.step()
        seen.append((answers.item(), dense.item()))
    assert seen[-1][0] < 0.7 * seen[0][0] and seen[-1][1] < 0.7 * seen[0][1]


def test_every_trained_weight_gets_a_gradient(step, tokenizer):
    batch = images(tokenizer)
    pixels, wanted = draw(batch, 0, torch.device("cpu"))
    sum(step(pixels, wanted, batch.view, batch.rows)).backward()
    missing = [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None]
    step.zero_grad()
    assert missing == []


def test_a_batch_that_nothing_can_be_asked_about_costs_nothing(step, tokenizer):
    """Two frames may show too little of every scene; a loss that is not a number would spoil all weights."""
    batch = images(tokenizer)
    rows = make_rows([[], []], Chat(tokenizer), 10)
    pixels, wanted = draw(batch, 0, torch.device("cpu"))
    answers, dense = step(pixels, wanted, batch.view, rows)
    assert answers.item() == 0 and dense.item() > 0


def test_a_drawn_batch_is_its_scenes_at_its_ticks(tokenizer):
    batch = TrainingData(tokenizer, seed=0, batch=2, steps=1)[0]
    pixels, wanted = draw(batch, 3, torch.device("cpu"))
    clear = render(batch.scene, batch.view.ticks, FRAME, noise=False)
    assert pixels.shape == clear.pixels.shape and pixels.dtype == torch.float32
    off = (pixels - normalise(to_unit(clear.pixels))).abs()
    assert pixels.min() >= -1 and pixels.max() <= 1 and 0 < off.mean() < 0.15
    assert torch.equal(wanted.owner, targets(batch.scene, batch.view.ticks, clear).owner)
    assert torch.equal(pixels, draw(batch, 3, torch.device("cpu"))[0])
    assert not torch.equal(pixels, draw(batch, 4, torch.device("cpu"))[0])


def test_gaps_between_positions_do_not_hide_frames(step, tokenizer):
    rows = TrainingData(tokenizer, seed=0, batch=1, steps=1)[0].rows
    view = View("subset", torch.zeros(1, 3, dtype=torch.int64), 4, torch.tensor([0, 5, 31]))
    prefix, text = step.prefix.shape[1], rows.ids.shape[1]
    positions = place_ids(view, prefix, text, torch.device("cpu"))
    assert positions.shape == (1, prefix + 3 * 16 + 1 + text)
    assert positions[0, prefix + 16].item() == prefix + 5 * 16
    assert positions[0, prefix + 48].item() == prefix + 32 * 16  # the newline follows the last frame
    assert (positions.diff() > 0).all()
    visual = torch.randn(1, 48, step.model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = step.text_logits(step.last_layer(visual, rows, positions), rows)
        visual[:, 0] += 3  # a token of the first frame, two gaps away from the text
        after = step.text_logits(step.last_layer(visual, rows, positions), rows)
        assert (after - before).abs().max() > 1e-4


def test_step_pools_as_the_model_does(step):
    pixels = torch.rand(1, 3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        ours, features = step.visual_tokens(pixels, 4)
        theirs = step.model.get_2dPool(step.model.encode_images(pixels[0]))
    assert features.shape == (3, 64, step.model.config.mm_hidden_size)
    torch.testing.assert_close(ours[0], theirs)


def test_forced_scoring_counts_every_question(step, tokenizer):
    chat = Chat(tokenizer)
    tally = exact_match(step, chat, 1, torch.device("cpu"))
    assert sum(asked for _, asked in tally.values()) >= 13
    assert shares(tally)["mean"] == 0.0  # an untrained model knows nothing
    merged = exact_match(step, chat, 1, torch.device("cpu"), build("dycoke", k=0.7, positions="original").plan().before)
    assert {task: asked for task, (_, asked) in merged.items()} == {task: asked for task, (_, asked) in tally.items()}


@pytest.mark.slow
def test_processes_stop_together_and_share_the_work(tmp_path):
    forty = [*FAST[:-1], "--steps", "40", "--k", "--minutes", "0"]
    done = launch(2, "dycoke.nano.train", "--output", str(tmp_path), *forty, cold=True)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert records[0]["processes"] == 2
    assert max(losses(tmp_path)) == 10  # they agree every ten steps
    # the first process begins with the batch that a single one begins with
    main(["--output", str(tmp_path / "single"), *forty])
    assert losses(tmp_path)[1] == losses(tmp_path / "single")[1]
