"""Measure tinygrad_bn beside its peers: ``python bench/run.py --help``; ``bench/README.md`` says how and what."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]

from bench.harness.cli import main  # noqa: E402  # the repository's root must be on the path first

if __name__ == "__main__":
    sys.exit(main())
