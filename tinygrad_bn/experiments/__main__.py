"""``python -m tinygrad_bn.experiments NAME …``."""

import sys

from tinygrad_bn.experiments.runner.cli import main

if __name__ == "__main__":
    sys.exit(main())
