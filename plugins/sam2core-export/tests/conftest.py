"""Only this plugin is discovered, and what fails is raised."""

from __future__ import annotations

import os

os.environ["SAM2CORE_PLUGINS"] = "export"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
