"""`python -m chatixia_langchain`: the same as the `chatixia-langchain` command."""

from __future__ import annotations

import sys

from .cli.main import main

sys.exit(main())
