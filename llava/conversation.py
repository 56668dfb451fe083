"""The prompt templates of LLaVA-NeXT, by name. Their strings are what the models were trained on."""

from llava.prompt_styles import Conversation, SeparatorStyle

__all__ = ["Conversation", "SeparatorStyle", "conv_templates", "default_conversation"]

HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions."
)
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)
SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or "
    "illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a "
    "question does not make any sense, or is not factually coherent, explain why instead of answering "
    "something not correct. If you don't know the answer to a question, please don't share false information."
)
ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
ANSWER_VISUAL = "Answer the questions about the visual content that the user provides."
TAGGED = "The visual content will be provided with the following format: <Image>visual content</Image>."
WITH_TAGS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to "
    "understand the visual content that the user provides, and assist the user with a variety of tasks using "
    "natural language."
)
EXAMPLE_QUESTION = "What are the key differences between renewable and non-renewable energy sources?"
EXAMPLE_ANSWER = (
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of "
    "time, such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other "
    "hand, are finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key "
    "differences between renewable and non-renewable energy sources:\n1. Availability: Renewable energy "
    "sources are virtually inexhaustible, while non-renewable energy sources are finite and will eventually "
    "run out.\n2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
    "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, and other "
    "negative effects.\n3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
    "typically have lower operational costs than non-renewable sources.\n4. Reliability: Renewable energy "
    "sources are often more reliable and can be used in more remote locations than non-renewable sources.\n5. "
    "Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
    "and needs, while non-renewable sources are more rigid and inflexible.\n6. Sustainability: Renewable "
    "energy sources are more sustainable over the long term, while non-renewable sources are not, and their "
    "depletion can lead to economic and social instability.\n"
)
CHATML_ROLES = ("<|im_start|>user\n", "<|im_start|>assistant\n")


def _single(system: str, version: str = "Unknown", examples: tuple[str, ...] = ()) -> Conversation:
    roles = ("Human", "Assistant")
    messages = [[roles[number % 2], text] for number, text in enumerate(examples)]
    return Conversation(system, roles, messages, len(messages), version=version)


def _two(system: str, version: str = "v1") -> Conversation:
    return Conversation(
        system, ("USER", "ASSISTANT"), sep_style=SeparatorStyle.TWO, sep=" ", sep2="</s>", version=version
    )


def _llama_2(system: str, sep: str = "<s>", version: str = "llama_v2") -> Conversation:
    return Conversation(
        system, ("USER", "ASSISTANT"), sep_style=SeparatorStyle.LLAMA_2, sep=sep, sep2="</s>", version=version
    )


def _mpt(system: str, roles: tuple[str, str] = CHATML_ROLES, sep: str = "<|im_end|>") -> Conversation:
    return Conversation(system, roles, sep_style=SeparatorStyle.MPT, sep=sep, version="mpt")


def _qwen(system: str) -> Conversation:
    roles = ("<|im_start|>user", "<|im_start|>assistant")
    system = f"<|im_start|>system\n{system}"
    return Conversation(system, roles, sep_style=SeparatorStyle.CHATML, sep="<|im_end|>", version="qwen")


def _plain() -> Conversation:
    return Conversation("", ("", ""), sep_style=SeparatorStyle.PLAIN, sep="\n")


conv_templates = {
    "default": _single(HUMAN, examples=(EXAMPLE_QUESTION, EXAMPLE_ANSWER)),
    "v0": _single(HUMAN, examples=(EXAMPLE_QUESTION, EXAMPLE_ANSWER)),
    "v1": _two(USER),
    "vicuna_v1": _two(USER),
    "llama_2": _llama_2(SAFE),
    "mistral_instruct": _llama_2("", sep=""),
    "mistral_orca": _mpt(
        "<|im_start|>system\nYou are MistralOrca, a large language model trained by Alignment Lab AI. "
        "Write out your reasoning step-by-step to be sure you get the right answers!"
    ),
    "mistral_zephyr": _mpt("<|system|>\nYou are a helpful AI assistant.", ("<|user|>\n", "<|assistant|>\n"), "</s>"),
    "mistral_direct": _mpt("<|im_start|>system\nAnswer the questions."),
    "plain": _plain(),
    "v0_plain": _plain(),
    "chatml_direct": _mpt("<|im_start|>system\nAnswer the questions."),
    "llava_v0": _single(HUMAN),
    "llava_v0_mmtag": _single(WITH_TAGS + TAGGED, "v0_mmtag"),
    "llava_v1": _two(HUMAN),
    "llava_v1_mmtag": _two(WITH_TAGS + TAGGED, "v1_mmtag"),
    "llava_llama_2": _llama_2(ASSISTANT),
    # The public Llama-3 chat format; the tokenizer that LLaVA-NeXT asks for it is gated.
    "llava_llama_3": Conversation(
        ASSISTANT, ("user", "assistant"), sep_style=SeparatorStyle.LLAMA_3, sep="<|eot_id|>", version="llama_v3"
    ),
    "llava_llama_2_simple": _llama_2(ANSWER_VISUAL),
    "llava_llama_2_mmtag": _llama_2(ANSWER_VISUAL + TAGGED, version="llama_v2_mmtag"),
    "llava_mistral_instruct": _llama_2("", sep=""),
    "mpt": _mpt(
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers."
    ),
    "qwen_1_5": _qwen("You are a helpful assistant."),
    "qwen_2": _qwen("You are a helpful assistant."),
    "qwen_2_5": _qwen("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
    "gemma_instruct": Conversation(
        "",
        ("<start_of_turn>user\n", "<start_of_turn>model\n"),
        sep_style=SeparatorStyle.GEMMA,
        sep="<end_of_turn>\n",
        version="gemma",
    ),
}

default_conversation = conv_templates["vicuna_v1"]
