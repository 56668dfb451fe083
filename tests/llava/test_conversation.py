"""Prompts equal the original's, template by template."""

import copy

import pytest

from llava.conversation import SeparatorStyle, conv_templates
from tests.cases import folded

NEEDS_GATED_TOKENIZER = {"llava_llama_3"}


def prompt(name: str, turns: list) -> str:
    chat = conv_templates[name].copy()
    for number, text in enumerate(turns):
        chat.append_message(chat.roles[number % 2], text)
    return chat.get_prompt()


def test_every_template_is_there(golden):
    assert list(conv_templates) == list(golden["conv"])


@folded("name", [name for name in conv_templates if name not in NEEDS_GATED_TOKENIZER])
def test_template(golden, name):
    chat, expected = conv_templates[name], golden["conv"][name]
    assert chat.sep_style is SeparatorStyle[expected["style"]]
    for key in ("system", "sep", "sep2", "version", "offset"):
        assert getattr(chat, key) == expected[key], key
    assert list(chat.roles) == expected["roles"]
    assert len(chat.messages) == expected["n_messages"]
    cases = {"p1": ["<image>\nHi", None], "p2": ["Q1", "A1", "Q2", None], "p3": ["Q1", "A1"]}
    for key, turns in cases.items():
        if expected[key] == "!TypeError":
            with pytest.raises(TypeError, match="no sep2"):
                prompt(name, turns)
        else:
            assert prompt(name, turns) == expected[key], key


def test_llama_3_follows_the_public_format():
    text = prompt("llava_llama_3", ["<image>\nHi", None])
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language")
    assert text.endswith(
        "natural language.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<image>\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


@pytest.mark.parametrize("duplicate", [lambda chat: chat.copy(), copy.deepcopy])
def test_copies_do_not_share_messages(duplicate):
    chat = duplicate(conv_templates["v0"])
    chat.append_message(chat.roles[0], "more")
    chat.messages[0][1] = "changed"
    assert len(conv_templates["v0"].messages) == 2
    assert conv_templates["v0"].messages[0][1] != "changed"


def test_text_of_a_message_with_images():
    assert prompt("qwen_1_5", [("Hi", object()), None]) == prompt("qwen_1_5", ["Hi", None])


def test_a_style_without_rule_is_refused():
    chat = conv_templates["qwen_1_5"].copy()
    chat.sep_style = SeparatorStyle.QWEN
    with pytest.raises(ValueError, match="QWEN"):
        chat.get_prompt()
