"""The helpers are plain functions, which child processes import as well; importlib mode adds no folder to the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
