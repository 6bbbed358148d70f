"""The census demo, shortened. Its table comes with xai, which the Makefile installs as this script does."""

import subprocess
import sys
from pathlib import Path

pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "xai"]
subprocess.run(pip, check=True)
demo = Path(sys.argv[1], "examples", "census_demo.py")
subprocess.run([sys.executable, demo, "--steps", "40", "--dense-steps", "20", "--out", "demo"], check=True)
assert any(Path("demo").iterdir())
