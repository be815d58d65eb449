"""``python bench/cluster``: a board with mutual TLS and PostgreSQL under the published Go client."""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a directory, neither the benchmarks' own modules nor the tests' process harness are on the path.
_ROOT = Path(__file__).resolve().parents[2]
sys.path[0:0] = [str(_ROOT), str(_ROOT / "tests")]

if __name__ == "__main__":
    from bench.cluster.measure import main

    sys.exit(main())
