"""Random requests generated from the OpenAPI document get the documented responses and no server error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_random_requests_get_no_server_error(service, tmp_path: Path) -> None:
    logged = len(service.log.read_text())
    words = ["run", f"{service.url}/openapi.json", "--checks", CHECKS, "--max-examples", "25", "--seed", "1"]
    more = ["--phases", "examples,coverage,fuzzing", "--workers", "2", "--generation-database", "none"]
    program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, *more], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert service.process.poll() is None
    log = service.log.read_text()[logged:]
    assert len(re.findall(r"POST /v1/(predict|explain|view)", log)) > 30, "too few requests were made to show anything"
    assert not re.search(r" 500 \d+ ms| failed: ", log), log[-2000:]
