"""Base directories of the servers that tests start."""

from __future__ import annotations

import os
from pathlib import Path

from development.environment import Environment


def base_directory(environment: Environment, purpose: str) -> Path:
    """The clone's for a purpose; every worker of pytest-xdist has its own."""
    return environment.base_directory(purpose + os.environ.get("PYTEST_XDIST_WORKER", ""))
