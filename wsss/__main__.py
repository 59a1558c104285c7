"""`python -m wsss`, which is what torchrun starts."""

import sys

from wsss.cli import main

sys.exit(main())
