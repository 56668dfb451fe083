"""Training through the multimodal forward pass."""

import pytest
import torch

from tests.llava import tiny


def batch():
    ids = torch.tensor([[11, -200, 12, 13, 14], [21, -200, 22, 0, 0]])
    mask = ids != 0
    labels = ids.masked_fill(~mask, -100)
    labels[:, :2] = -100
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "images": [tiny.frames(2), tiny.frames(1, seed=1)],
        "modalities": ["video", "image"],
    }


def test_gradients_reach_every_part():
    model = tiny.make_model(tiny.onevision_config(image_aspect_ratio="pad")).train()
    model(**batch())["loss"].backward()
    tower = model.get_vision_tower().vision_tower
    parts = {
        "tower": tower.embeddings.patch_embedding.weight,
        "last tower layer": tower.encoder.layers[-1].mlp.fc2.weight,
        "projector": model.model.mm_projector[0].weight,
        "newline": model.model.image_newline,
        "language model": model.model.layers[0].self_attn.q_proj.weight,
    }
    for name, weight in parts.items():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_a_few_steps_lower_the_loss():
    model = tiny.make_model(tiny.onevision_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_rows_are_padded_right_and_padding_is_not_learnt():
    model = tiny.make_model(tiny.onevision_config())
    _, _, mask, _, _, labels = model.prepare_inputs_labels_for_multimodal(
        **{key: batch()[key] for key in ("input_ids", "attention_mask", "labels", "images", "modalities")},
        position_ids=None,
        past_key_values=None,
    )
    assert mask.sum(1).tolist() == [4 + 33, 2 + 65]
    assert labels[0].tolist() == [-100] * 34 + [12, 13, 14] + [-100] * (2 + 65 - 37)
    assert labels[1].tolist() == [-100] * 66 + [22]


def test_the_loss_of_a_batch_is_that_of_its_rows():
    model = tiny.make_model(tiny.onevision_config())
    whole = batch()
    rows = []
    with torch.no_grad():
        together = model(**whole)["loss"].item()
        for number, words in enumerate((3, 1)):
            row = {key: value[number : number + 1] for key, value in whole.items()}
            rows.append((model(**row)["loss"].item(), words))
    assert abs(together - sum(loss * words for loss, words in rows) / 4) < 1e-5


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")  # the name 5.17 knows
def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        model = tiny.make_model(tiny.onevision_config()).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch())["loss"].backward()
        grads.append(model.get_vision_tower().vision_tower.embeddings.patch_embedding.weight.grad)
    assert torch.allclose(*grads, atol=1e-6)
