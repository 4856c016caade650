"""What /openapi.json says is what is answered, whatever is asked: schemathesis makes up requests, right and wrong ones.

By hand with more of them: SCHEMATHESIS_CASES=2000 tools/test tests/web/test_openapi.py
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from running import IN_MEMORY
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import Served

from inbox_daemon.config import build

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "300"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_status_and_shape_that_is_answered_is_documented() -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        served = Served(Path(folder), build({"web": {"max_upload_bytes": 4096}}, "test"))
        batch = served.create(served.upload()["id"])
        served.says(served.taken(batch), "completed", {"results.jsonl": b"{}\n"})
        output = served.client.get(f"/v1/batches/{batch['id']}").json()["output_file_id"]
        ids = [{"batch_id": batch["id"]}, {"file_id": served.upload()["id"]}, {"file_id": output}]
        schema = schemathesis.openapi.from_asgi("/openapi.json", served.app)
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 22
        seen: Counter[int] = Counter()
        for operation in operations:

            @settings(max_examples=CASES // len(operations), suppress_health_check=list(HealthCheck), deadline=None)
            @given(case=operation.as_strategy(), real=strategies.sampled_from([None, *ids]))
            def holds(case: schemathesis.Case, real: dict[str, str] | None) -> None:
                if real and real.keys() == case.path_parameters.keys():
                    case.path_parameters.update(real)
                answer = case.call()
                seen[answer.status_code] += 1
                depends = case.query.keys() & {"after", "from"}  # on what there is: no schema can say it;
                depends = depends or answer.status_code == 413  # nor what the settings let in
                case.validate_response(answer, excluded_checks=[positive_data_acceptance] if depends else [])

            holds()
        assert sum(seen.values()) >= CASES // 2 and not any(status >= 500 for status in seen), seen
        print(sum(seen.values()), "cases:", dict(sorted(seen.items())))
