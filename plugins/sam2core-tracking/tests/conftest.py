"""Only this plugin is discovered, and what fails is raised."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["SAM2CORE_PLUGINS"] = "tracking"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # script.py, which the recorder uses as well
