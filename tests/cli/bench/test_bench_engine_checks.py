"""`dycoke bench engine`: the arithmetic of floors, rates and shares, and that its checks can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dycoke.bench.engine import parity as engine_parity
from dycoke.bench.engine import run as engine
from dycoke.bench.engine import static as engine_static
from dycoke.bench.engine.answer import _stages
from dycoke.bench.engine.cost import (
    against_floor,
    against_matmul,
    compress_bytes,
    mean_decoded,
    prefill_flops,
    shares,
    step_bytes,
    tokens_of_plan,
    vision_flops,
    weight_bytes,
)
from dycoke.bench.engine.decode import pairs, per_token
from dycoke.bench.engine.frames import measure_frames
from dycoke.bench.engine.model import build_llava, make_request, share_llava
from dycoke.bench.engine.parity import Forcing, compare, forced_by_generate, same_tokens
from dycoke.bench.engine.setting import ON_CPU, ON_GPU, SO400M, Setting
from dycoke.bench.engine.static import StaticSteps
from dycoke.bench.engine.versions import Subject, Subjects, check_loop_kind, unserved
from dycoke.bench.timing import WARM_UPS, Captured
from dycoke.video.pixels import FrameSettings

SMALL = Setting(**ON_CPU)
BIG = Setting(**ON_GPU)


@pytest.fixture(scope="module")
def model():
    return build_llava(SMALL, "cpu")


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


class TestArithmetic:
    def test_weights_of_a_step(self, model):
        language, head = model.model.language_model, model.lm_head.weight
        read = [weight for name, weight in language.named_parameters() if "embed_tokens" not in name]
        assert weight_bytes(SMALL.language, torch.float32) == 4 * sum(weight.numel() for weight in [*read, head])
        assert weight_bytes(BIG.language, torch.bfloat16) == pytest.approx(14.1e9, rel=5e-3)

    def test_floors_of_the_design(self):
        """The floors that were stated before anything was built, in ms at 4.28 TB/s."""
        for version, rows, expected in (
            ("engine_full", 1, 3.4),
            ("engine_dycoke", 1, 3.3),
            ("engine_full", 64, 8.7),
            ("engine_dycoke", 64, 4.3),
        ):
            nbytes = step_bytes(BIG, tokens_of_plan(BIG, version, 32), 0, rows)
            assert nbytes / 4.28e9 == pytest.approx(expected, abs=0.06), version
        assert prefill_flops(BIG, tokens_of_plan(BIG, "stock_sdpa", 32)) / 790e9 == pytest.approx(114, abs=1)
        assert compress_bytes(BIG, 32, 2960) == (6272 + 2960) * 3584 * 2

    def test_columns_of_a_step(self):
        tokens = tokens_of_plan(SMALL, "engine_dycoke", 4)
        column = 2 * 2 * 16 * 4
        columns = 3 * 28 + 3 * int(0.3 * 28) + 6 * (31 + 2.5)
        moved = step_bytes(SMALL, tokens, mean_decoded(1, 5), rows=3) - weight_bytes(SMALL.language, torch.float32)
        assert moved == 3 * columns * column

    def test_a_count_that_depends_on_the_video_has_no_floor(self):
        assert tokens_of_plan(SMALL, "engine_prunevid", 8) is None
        told = against_floor(2.0, None, {"gb_per_s": 1.0})
        assert set(told.values()) == {None}

    def test_operations_of_the_tower(self, model):
        from torch.utils.flop_counter import FlopCounterMode

        inner, pixels = model.model, torch.zeros(2, 3, 32, 32)
        with FlopCounterMode(display=False) as counter:
            inner.multi_modal_projector(share_llava(model, "eager").model.vision_tower(pixels).last_hidden_state)
        assert vision_flops(SMALL.vision, SMALL.language, 2) == counter.get_total_flops()
        assert vision_flops(SO400M, BIG.language, 32) == pytest.approx(21.3e12, rel=0.01)

    def test_against_ceilings(self):
        ceilings = {"gb_per_s": 4000.0, "tflop_per_s": 800.0}
        assert against_floor(5.0, 16e9, ceilings) == {
            "bytes": 16e9,
            "floor_ms": 4.0,
            "of_floor": 1.25,
            "gb_per_s": 3200.0,
        }
        told = against_matmul(50.0, 20e12, ceilings)
        assert told["tflop_per_s"] == pytest.approx(400) and told["of_matmul"] == pytest.approx(0.5)

    def test_shares(self):
        assert shares({"vision": 1.0, "decode": 2.0}, 4.0) == {"vision": 0.25, "decode": 0.5, "rest": 0.25}
        told = _stages([(4.0, {"vision": 1.0}), (10.0, {"vision": 5.0}), (8.0, {"vision": 2.0})])
        assert told["stages_ms"] == {"vision": 2.0, "rest": 5.0} and told["shares"] == {"vision": 0.25, "rest": 0.75}
        assert told["watched_ms"] == 8.0

    def test_time_a_token(self):
        assert per_token(lambda: 100.0, lambda: 420.0, 64) == 5.0
        taken = iter([90.0, 100.0, 101.0, 165.0])
        assert per_token(lambda: 100.0, lambda: next(taken), 1) == 1.0
        with pytest.raises(RuntimeError, match="5 times: too noisy"):
            per_token(lambda: 100.0, lambda: 99.0, 64)

    def test_what_is_divided(self):
        assert pairs(["stock_sdpa", "engine_full", "engine_dycoke"]) == [
            ("stock_sdpa", "engine_full"),
            ("stock_sdpa", "engine_dycoke"),
            ("engine_full", "engine_dycoke"),
        ]
        assert pairs(["stock_sdpa", "engine_dycoke"]) == [("stock_sdpa", "engine_dycoke")]


class TestVersions:
    def test_a_request_the_stock_loop_decoded_is_no_measure(self):
        check_loop_kind("engine_full", "engine", SMALL)
        check_loop_kind("dycoke_host", "stock: engine='off'", SMALL)
        with pytest.raises(RuntimeError, match="engine_full: decoded by 'stock: beams'"):
            check_loop_kind("engine_full", "stock: beams", SMALL)
        check_loop_kind("engine_full", "stock: several devices", SimpleNamespace(device_map="auto"))

    def test_a_short_answer_is_seen(self, model, monkeypatch):
        subject, request = Subjects(model, SMALL)["stock_sdpa"], make_request(model, SMALL, 4)
        assert subject.generate(request, 3).shape == (1, 3)
        generate = subject.model.generate
        monkeypatch.setattr(subject.model, "generate", lambda **given: generate(**given)[:, :-1])
        for take in (subject.generate, subject.timed):
            with pytest.raises(RuntimeError, match=r"stock_sdpa: answers \(1, 2\)"):
                take(request, 3)

    def test_a_stock_version_that_does_not_fit_is_skipped(self, model, monkeypatch):
        def fail(subject, request, tokens):
            if subject.name in failing:
                raise torch.cuda.OutOfMemoryError("87 GB")

        monkeypatch.setattr(Subject, "generate", fail)
        failing, request = {"stock_eager"}, make_request(model, SMALL, 4)
        with Subjects(model, SMALL) as subjects:
            subjects.warm_up(request, (1,), 0.0)
            assert subjects.skipped == {"stock_eager": "out of memory: 87 GB"}
            assert [each.name for each in subjects.named(["stock_eager", "stock_sdpa"])] == ["stock_sdpa"]
            failing.add("engine_full")
            with pytest.raises(torch.cuda.OutOfMemoryError):
                subjects.warm_up(request, (1,), 0.0)

    def test_no_graph_of_several_gpus(self):
        assert unserved(SMALL) == {} and list(unserved(SimpleNamespace(device_map="auto"))) == ["stock_static_graph"]

    def test_stages_of_a_stock_version_leave_nothing_behind(self, model):
        subject = Subjects(model, SMALL)["stock_sdpa"]
        request, hooks = make_request(model, SMALL, 4), count_hooks(subject.model)
        with subject.watched():
            subject.generate(request, 3)
        assert {name for name, stage in subject.report.stages.items() if stage.ms} == {"vision", "prefill", "decode"}
        assert subject.report.stages["decode"].tokens == 2 and count_hooks(subject.model) <= hooks + 4


def count_hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


class TestStaticSteps:
    def test_steps_are_what_the_model_does_behind_those_columns(self, model):
        steps = StaticSteps(share_llava(model, "sdpa"), SMALL, length=20, rows=3, room=8)
        assert steps.time(2) > 0 and steps.time(3) > 0
        assert int(steps._loop.cache.get_seq_length()) == 25 and steps._loop.position.tolist() == [[24]] * 3

    @pytest.fixture
    def replays(self, monkeypatch):
        """Lets a step be captured as on a GPU: warmed up, and run again by `replay` into the same tensor."""

        def replayed(step):
            for _ in range(WARM_UPS):
                output = step()
            return Captured(SimpleNamespace(replay=lambda: output.copy_(step())), output)

        monkeypatch.setattr(engine_static, "capture", replayed)

    def captured(self, model):
        steps = StaticSteps(share_llava(model, "sdpa"), SMALL, length=20, rows=1, room=8)
        steps._captured, steps._ran = engine_static.capture(steps._loop.step), WARM_UPS
        return steps

    def test_replays_advance(self, model, replays):
        steps = self.captured(model)
        assert steps.time(2) > 0
        steps._captured.graph.replay = lambda: None
        with pytest.raises(RuntimeError, match="not written"):
            steps.time(2)

    def test_a_replay_that_does_not_advance_is_seen(self, model, replays):
        steps = self.captured(model)
        steps._captured.graph.replay = lambda: steps._captured.output.zero_()
        with pytest.raises(RuntimeError, match="12 steps left 10 columns"):
            steps.time(2)


class TestParity:
    IDS = torch.tensor([3, 1, 2])

    def test_differences_by_step(self):
        logits = torch.eye(3, 5)[[1, 2, 0]]
        told = compare(lambda ids: logits, lambda ids: logits + 0.001 * torch.eye(3, 5), self.IDS, torch.bfloat16)
        assert told["steps"] == 3 and told["max_by_step"] == pytest.approx([1e-3] * 3)
        assert told["mean_by_step"] == pytest.approx([2e-4] * 3) and told["top1_agreement"] == 1

    def test_another_token_is_told_and_other_logits_are_refused(self):
        logits = torch.ones(3, 5)
        other = logits.clone()
        other[1, 4] += 0.01
        assert compare(lambda ids: logits, lambda ids: other, self.IDS, torch.bfloat16)["top1_same"] == [1, 0, 1]
        with pytest.raises(RuntimeError, match="logits are"):
            compare(lambda ids: logits, lambda ids: other, self.IDS, torch.float32)
        with pytest.raises(RuntimeError, match=r"logits \(2, 5\)"):
            compare(lambda ids: logits, lambda ids: other[:2], self.IDS, torch.float32)

    @pytest.mark.parametrize("name", ["stock_sdpa", "engine_full"])
    def test_forced_logits_are_those_ahead_of_the_ids(self, model, name):
        with Subjects(model, SMALL) as subjects:
            subject, request = subjects[name], make_request(model, SMALL, 4)
            ids = subject.generate(request, 5)[0]
            assert torch.equal(forced_by_generate(subject, request, ids).argmax(-1), ids)
            other = ids.clone()
            other[1] += 1
            logits = forced_by_generate(subject, request, other)
        assert torch.equal(logits[:2].argmax(-1), ids[:2]) and torch.isfinite(logits).all()
        assert not torch.equal(logits[2:].argmax(-1), ids[2:])

    def test_an_answer_that_was_not_forced_is_seen(self, model, monkeypatch):
        with Subjects(model, SMALL) as subjects:
            subject, request = subjects["stock_sdpa"], make_request(model, SMALL, 4)
            monkeypatch.setattr(Forcing, "__call__", lambda forcing, ids, scores: scores)
            with pytest.raises(RuntimeError, match=r"where \[9, 9\] was forced"):
                forced_by_generate(subject, request, torch.tensor([9, 9]))

    def test_another_token_in_fp32_is_seen(self, model, monkeypatch):
        assert same_tokens(model, SMALL, "engine_dycoke")["loop"] == "engine"
        generate = Subject.generate
        monkeypatch.setattr(engine_parity.Subject, "generate", lambda *given: generate(*given).flip(-1))
        with pytest.raises(RuntimeError, match="engine_full: answers"):
            same_tokens(model, SMALL, "engine_full")


@pytest.mark.parametrize("fault", ["size", "range"])
def test_other_pixels_are_seen(monkeypatch, fault):
    call = FrameSettings.__call__
    wrong = {"size": lambda *given: call(*given)[..., 1:], "range": lambda *given: call(*given) + 2}
    monkeypatch.setattr(FrameSettings, "__call__", wrong[fault])
    with pytest.raises(RuntimeError, match="expected 4 frames of 32"):
        measure_frames(SMALL, "cpu")


def test_a_failed_part_is_recorded_and_the_others_are_measured(monkeypatch, tmp_path):
    def fail(*given):
        raise RuntimeError("poisoned")

    monkeypatch.setattr(engine, "measure_decode", fail)
    record_file = tmp_path / "record.json"
    setting = replace(SMALL, parts=("decode", "first_token"), versions=("stock_sdpa",), rounds=1)
    with pytest.raises(RuntimeError, match="decode: poisoned"):
        engine.run(setting, record_file, engine.Console(quiet=True))
    record = json.loads(record_file.read_text())
    assert record["decode"]["failed"] == "poisoned" and not record["complete"]
    assert record["first_token"]["results"]


def test_a_run_that_is_killed_leaves_the_parts_it_had(monkeypatch, tmp_path):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "measure_answer", stop)
    record_file = tmp_path / "record.json"
    setting = replace(SMALL, parts=("decode", "first_token"), versions=("stock_sdpa",), rounds=1)
    with pytest.raises(KeyboardInterrupt):
        engine.run(setting, record_file, engine.Console(quiet=True))
    record = json.loads(record_file.read_text())
    assert record["decode"]["results"] and not record["complete"] and "first_token" not in record
