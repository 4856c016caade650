"""openai-python: upload, create, poll, content, list over pages, cancel, delete. Arguments: URL, a file of requests."""

import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-any")
with open(sys.argv[2], "rb") as requests:
    file = client.files.create(file=requests, purpose="batch")
assert client.files.wait_for_processing(file.id).status == "processed"


def create():
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )


batches = [create() for _ in range(3)]
while (batch := client.batches.retrieve(batches[0].id)).status not in ("completed", "failed", "cancelled"):
    time.sleep(0.2)
assert batch.status == "completed", batch
answers = client.files.content(batch.output_file_id).text.splitlines()
assert len(answers) == batch.request_counts.completed > 0
assert {one.id for one in batches} <= {one.id for one in client.batches.list(limit=1)}
assert file.id in {one.id for one in client.files.list()}
refused = ""
try:
    client.batches.cancel(batch.id)
except openai.ConflictError as error:
    refused = str(error)
assert "Cannot cancel a batch with status 'completed'" in refused
assert client.batches.cancel(create().id).status in ("cancelling", "cancelled")
assert client.files.delete(file.id).deleted and client.files.delete(batch.output_file_id).deleted
print(f"openai {openai.__version__}: {len(answers)} answers")
