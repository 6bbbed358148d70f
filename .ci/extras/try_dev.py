"""The linter over this checkout, and the types that a user of the installed package gets."""

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", sys.argv[1]], check=True)
uses = "from fairprune_plugin import PrunerConfig; name: str = PrunerConfig(name='bifp').name"
subprocess.run([sys.executable, "-m", "mypy", "--strict", "-c", uses], check=True)
