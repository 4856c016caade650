"""LiteLLM's SDK, by the providers that speak OpenAI's API. Arguments: URL, a file."""

import sys
import time
from importlib.metadata import version

import litellm

for provider in ("openai", "hosted_vllm"):
    to = {"custom_llm_provider": provider, "api_base": sys.argv[1], "api_key": "sk-any"}
    with open(sys.argv[2], "rb") as requests:
        file = litellm.create_file(file=requests, purpose="batch", **to)
    made = litellm.create_batch(
        completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id, metadata={"a": "1"}, **to
    )
    for _ in range(150):
        batch = litellm.retrieve_batch(batch_id=made.id, **to)
        if batch.status in ("completed", "failed"):
            break
        time.sleep(0.2)
    assert batch.status == "completed", batch
    content = litellm.file_content(file_id=batch.output_file_id, **to)
    answers = len(content.text.splitlines())
    assert answers == batch.request_counts.completed > 0
    if provider == "openai":  # the other one has no list
        assert litellm.list_batches(limit=2, **to) is not None
    print(f"litellm {version('litellm')} as {provider}: {answers} answers")
