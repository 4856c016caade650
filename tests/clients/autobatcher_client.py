"""autobatcher: single calls that become batches without their caller's doing. Argument: URL."""

import asyncio
import sys
from importlib.metadata import version

from autobatcher import BatchOpenAI


async def main():
    client = BatchOpenAI(
        api_key="sk-any",
        base_url=sys.argv[1],
        completion_window="24h",
        poll_interval_seconds=1,
        batch_window_seconds=1,
    )
    calls = [
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"Say {number}"}])
        for number in range(8)
    ]
    answers = await asyncio.gather(*calls)
    assert len(answers) == 8 and all(answer.choices for answer in answers)
    await client.close()
    print(f"autobatcher {version('autobatcher')}: {len(answers)} answers")


asyncio.run(main())
