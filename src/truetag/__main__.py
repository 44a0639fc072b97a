"""`python -m truetag` is the command `truetag`."""

import sys

from truetag.cli import main

sys.exit(main())
