"""The tokenizer of the tiny reasoner: one token per character, special tokens and a one-turn chat template.

It is Qwen2's byte-level BPE without merges, because AutoTokenizer builds that class for a Qwen2 model.
Characters outside of CHARACTERS are dropped.
"""

from __future__ import annotations

from transformers import Qwen2Tokenizer

SPECIAL = {"pad_token": "<|pad|>", "unk_token": "<|unk|>", "bos_token": "<|user|>", "eos_token": "<|end|>"}
ASSISTANT = "<|assistant|>"
CHARACTERS = "\n %()*+,-./:;=>?|0123456789ABCDEFGHabcdefghijklmnopqrstuvwxyz"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build(max_length: int) -> Qwen2Tokenizer:
    """Returns the tokenizer for texts of at most `max_length` tokens."""
    characters = CHARACTERS.replace("\n", "Ċ").replace(" ", "Ġ")  # their form in byte-level BPE
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), ASSISTANT, *characters])}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        **SPECIAL,
        extra_special_tokens={"assistant_token": ASSISTANT},
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
