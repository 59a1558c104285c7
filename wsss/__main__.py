"""Entry point of `python -m wsss`; torchrun starts it."""

import sys

from wsss.cli import main

sys.exit(main())
