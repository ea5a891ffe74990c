"""Only this plugin and that of exports are discovered, and what fails is raised."""

from __future__ import annotations

import importlib.util
import os

here = importlib.util.find_spec("sam2core_export") is not None
os.environ["SAM2CORE_PLUGINS"] = "timm,export" if here else "timm"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
