"""Every test module can be collected, and some tests run. pytorchcv comes as in the Makefile."""

import subprocess
import sys
from pathlib import Path

root = Path(sys.argv[1])
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
subprocess.run([*pip, "pytorchcv", "xai"], check=True)
pytest = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "--rootdir",
    str(root),
    "-c",
    root / "pyproject.toml",
]
subprocess.run(
    [*pytest, "--collect-only", root / "tests", root / "integration_tests"], check=True, stdout=subprocess.DEVNULL
)
subprocess.run([*pytest, root / "tests" / "writers", root / "tests" / "test_config.py"], check=True)
