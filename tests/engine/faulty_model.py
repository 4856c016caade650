"""Makes, beside the tiny model, one that computes NaN for every prompt with an "@", and two adapters for it.

Run as a program, since torch is no guest of the tests' own process: faulty_model.py TINY_MODEL FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

RANK = 12  # none of those that vLLM has kernels for


def make(tiny: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    shutil.copytree(tiny, folder / "model")
    weights = load_file(tiny / "model.safetensors")
    embeddings = weights["model.embed_tokens.weight"].clone()
    vocabulary = AutoTokenizer.from_pretrained(tiny).get_vocab()
    embeddings[[number for token, number in vocabulary.items() if "@" in token]] = float("nan")
    save_file(weights | {"model.embed_tokens.weight": embeddings}, folder / "model" / "model.safetensors")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        adapter = {}
        for layer in range(2):
            for part, outputs in (("q_proj", 4 * 32), ("v_proj", 2 * 32)):
                where = f"base_model.model.model.layers.{layer}.self_attn.{part}"
                adapter[f"{where}.lora_A.weight"] = torch.randn(RANK, 64).to(torch.bfloat16)
                adapter[f"{where}.lora_B.weight"] = torch.randn(outputs, RANK).to(torch.bfloat16)
        (folder / name).mkdir()
        save_file(adapter, folder / name / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
        config |= {"bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(tiny)}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
