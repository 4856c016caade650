// openai-node: upload, create, poll, content, list over pages, cancel, delete. Arguments: URL, a file.
import assert from "node:assert";
import { createReadStream } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "sk-any" });
const file = await client.files.create({ file: createReadStream(process.argv[3]), purpose: "batch" });
const create = () =>
  client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
const made = [await create(), await create(), await create()];
let batch = made[0];
while (!["completed", "failed", "cancelled"].includes(batch.status)) {
  await sleep(200);
  batch = await client.batches.retrieve(batch.id);
}
assert.equal(batch.status, "completed");
const answers = (await (await client.files.content(batch.output_file_id)).text()).trim().split("\n");
assert.equal(answers.length, batch.request_counts.completed);
const listed = new Set();
for await (const one of client.batches.list({ limit: 1 })) listed.add(one.id);
assert(made.every((one) => listed.has(one.id)));
await assert.rejects(client.batches.cancel(batch.id), { status: 409 });
assert(["cancelling", "cancelled"].includes((await client.batches.cancel((await create()).id)).status));
assert((await client.files.delete(file.id)).deleted);
console.log(`openai-node ${VERSION}: ${answers.length} answers`);
