"""``python -m tinygrad_bn``: train, evaluate, info, warmup."""

import sys

from tinygrad_bn.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
