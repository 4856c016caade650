"""Makes two more tiny models beside that of tools/make_tiny_model.py: of other architectures, sizes and templates.

    python tests/tiny_models.py llama DIR

In a process of its own, since torch takes a gigabyte. No test lives here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main(kind: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_tiny_model", ROOT / "tools" / "make_tiny_model.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.save_model = lambda partial: _save(tool, kind, partial)
    tool.CHAT_TEMPLATE = {
        "llama": tool.CHAT_TEMPLATE.replace("<|im_start|>' + message", "<|im_start|>L ' + message"),
        "gemma": tool.CHAT_TEMPLATE.replace("assistant", "model"),
    }[kind]
    tool.make(folder)


def _save(tool: Any, kind: str, folder: Path) -> None:
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    end, pad = tool.SPECIAL.index(tool.TURN_END), tool.SPECIAL.index(tool.END_OF_TEXT)
    common = {
        "vocab_size": tool.VOCABULARY,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": tool.CONTEXT,
        "tie_word_embeddings": False,
        "initializer_range": tool.SPREAD,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    torch.manual_seed(tool.SEED + 1 + (kind == "gemma"))
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(hidden_size=96, num_hidden_layers=3, **common))
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(hidden_size=64, num_hidden_layers=4, sliding_window=512, **common))
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=True, temperature=0.7)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).absolute())
