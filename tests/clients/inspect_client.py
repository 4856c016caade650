"""Inspect AI with --batch: an evaluation whose model calls go out as batches. Arguments: URL, a folder for its logs."""

import sys
from importlib.metadata import version

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes

task = Task(dataset=[Sample(input=f"Say {number}", target="anything") for number in range(20)], scorer=includes())
[log] = eval(
    task,
    model="openai/m",
    model_base_url=sys.argv[1],
    model_args={"api_key": "sk-any", "responses_api": False},
    batch={"size": 20, "send_delay": 1, "tick": 1},
    display="plain",
    log_dir=sys.argv[2],
)
assert log.status == "success", log.error
assert log.samples and len(log.samples) == 20 and all(sample.output.choices for sample in log.samples)
print(f"inspect-ai {version('inspect-ai')}: {len(log.samples)} samples")
