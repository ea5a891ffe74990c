"""Only this plugin is discovered, what fails is raised, and Ray is patient with a busy machine and tells nobody."""

from __future__ import annotations

import os

os.environ["SAM2CORE_PLUGINS"] = "ray"
os.environ["SAM2CORE_STRICT_PLUGINS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_register_timeout_seconds"] = "600"
os.environ["RAY_health_check_failure_threshold"] = "100"
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # it kills workers when others have filled the machine's memory
