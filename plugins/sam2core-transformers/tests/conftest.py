"""Only this plugin is discovered, what fails is raised, and nothing is fetched."""

from __future__ import annotations

import os

os.environ["SAM2CORE_PLUGINS"] = "transformers"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
