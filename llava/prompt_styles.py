"""Conversations: the messages of a chat and the prompt a model family expects for them."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class SeparatorStyle(Enum):
    """The ways roles, messages and separators are joined."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    CHATML = auto()
    LLAMA_2 = auto()
    LLAMA_3 = auto()
    QWEN = auto()
    GEMMA = auto()


@dataclass
class Conversation:
    """A chat so far. messages holds [role, text] pairs; text None (or "") is a turn still to be written.

    A text may also be a tuple whose first element is the text. offset counts the example messages at the start.
    """

    system: str
    roles: tuple[str, str]
    messages: list[list[Any]] = field(default_factory=list)
    offset: int = 0
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"

    def append_message(self, role: str, message: Any) -> None:
        self.messages.append([role, message])

    def copy(self) -> "Conversation":
        """Return a conversation whose list of messages can be changed on its own."""
        messages = [list(message) for message in self.messages]
        return Conversation(
            self.system, self.roles, messages, self.offset, self.sep_style, self.sep, self.sep2, self.version
        )

    def get_prompt(self) -> str:
        """Return the text of the whole chat. Raises ValueError for a style without a rule of its own (QWEN)."""
        if self.sep_style not in _RULES:
            raise ValueError(f"{self.sep_style} has no prompt rule; the Qwen templates use CHATML")
        turns = [(role, message[0] if isinstance(message, tuple) else message) for role, message in self.messages]
        return _RULES[self.sep_style](self, turns)


Turns = list[tuple[str, str | None]]


def _single(chat: Conversation, turns: Turns) -> str:
    return _colon_turns(chat, turns, (chat.sep, chat.sep))


def _two(chat: Conversation, turns: Turns) -> str:
    return _colon_turns(chat, turns, (chat.sep, chat.sep2))


def _colon_turns(chat: Conversation, turns: Turns, seps: tuple[str, str]) -> str:
    parts = [f"{role}: {text}{seps[number % 2]}" if text else f"{role}:" for number, (role, text) in enumerate(turns)]
    return "".join([chat.system, seps[0], *parts])


def _mpt(chat: Conversation, turns: Turns) -> str:
    return chat.system + chat.sep + _gemma(chat, turns)


def _gemma(chat: Conversation, turns: Turns) -> str:
    return "".join(role + text + chat.sep if text else role for role, text in turns)


def _plain(chat: Conversation, turns: Turns) -> str:
    seps = (chat.sep, chat.sep2)
    parts = [chat.system]
    for number, (_, text) in enumerate(turns):
        if not text:
            continue
        if seps[number % 2] is None:
            raise TypeError("this plain template has no sep2 to end an assistant message with; leave it open")
        parts += [text, seps[number % 2]]
    return "".join(parts)


def _chatml(chat: Conversation, turns: Turns) -> str:
    system = f"{chat.system}{chat.sep}\n" if chat.system else ""
    return system + "".join(f"{role}\n{text}{chat.sep}\n" if text else f"{role}\n" for role, text in turns)


def _llama_2(chat: Conversation, turns: Turns) -> str:
    parts = []
    for number, (_, text) in enumerate(turns):
        if not text:
            continue
        if number == 0 and chat.system:
            text = f"<<SYS>>\n{chat.system}\n<</SYS>>\n\n{text}"
        parts.append(f"{chat.sep}[INST] {text} [/INST]" if number % 2 == 0 else f" {text} {chat.sep2}")
    return "".join(parts).lstrip(chat.sep)


def _llama_3(chat: Conversation, turns: Turns) -> str:
    parts = ["<|begin_of_text|>"]
    for role, text in [("system", chat.system), *turns]:
        parts.append(f"<|start_header_id|>{role}<|end_header_id|>\n\n")
        if text:
            parts.append(text + chat.sep)
    return "".join(parts)


_RULES = {
    SeparatorStyle.SINGLE: _single,
    SeparatorStyle.TWO: _two,
    SeparatorStyle.MPT: _mpt,
    SeparatorStyle.PLAIN: _plain,
    SeparatorStyle.CHATML: _chatml,
    SeparatorStyle.LLAMA_2: _llama_2,
    SeparatorStyle.LLAMA_3: _llama_3,
    SeparatorStyle.GEMMA: _gemma,
}
