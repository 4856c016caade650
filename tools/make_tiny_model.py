#!/usr/bin/env python3
"""Makes a complete chat model small enough for tests and demonstrations: Qwen3, 2 layers, random weights, 0.6 MB.

The weights come from a fixed seed and the tokenizer from files of the standard library, so two runs on one machine
give the same model. What it answers means nothing. Needs transformers and torch, which come with vLLM.
Never touches a folder that already holds something.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SEED = 20
SPREAD = 0.2  # of the weights; with the usual 0.02 every prompt gets nearly the same greedy answer
VOCABULARY = 2048
CONTEXT = 4096
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = [END_OF_TEXT, TURN_START, TURN_END]  # in this order they get the ids 0, 1 and 2

# Long, stable modules with much prose in them; each exists in every Python from 3.11 on.
CORPUS = ["argparse", "ast", "dataclasses", "difflib", "doctest", "email.message", "enum", "functools", "statistics"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

COMPLETE = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def corpus_files() -> list[str]:
    """The source files of CORPUS in this Python's standard library."""
    specs = [importlib.util.find_spec(name) for name in CORPUS]
    return [spec.origin for spec in specs if spec and spec.origin]


def save_tokenizer(folder: Path) -> None:
    """Trains a byte-level BPE of VOCABULARY entries and saves it with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(
        corpus_files(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    if bpe.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer came out with {bpe.get_vocab_size()} entries instead of {VOCABULARY}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name that transformers 4 does not know; both know this one.
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_model(folder: Path) -> None:
    """Saves a Qwen3 of 2 layers and hidden size 64 with random bfloat16 weights."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    end, pad = SPECIAL.index(TURN_END), SPECIAL.index(END_OF_TEXT)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=SPREAD,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=True, temperature=0.7)
    model.save_pretrained(folder)


def make(folder: Path) -> bool:
    """Makes the model at `folder`, whole or not at all; False when it was there already."""
    if all((folder / name).is_file() for name in COMPLETE):
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(f"{folder}: holds something that is not the tiny model; name another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_tokenizer(partial)
        save_model(partial)
        partial.chmod(0o755)  # a service may run as a user of its own, and some files come out private
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False  # another run was quicker, and made the same model
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the tiny random-weight chat model (0.6 MB, about 10 s).")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the model goes")
    folder: Path = parser.parse_args().folder.absolute()
    print(f"tiny model: {folder} {'made' if make(folder) else 'is there already'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
