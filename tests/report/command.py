"""Running cutline, and how its pages are looked at."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Pictures of the pages go here, for whoever wants to look at them.
SHOTS = Path(os.environ.get("CUTLINE_SCREENSHOTS", ROOT / "target" / "ci" / "report"))
WINDOWS = {"light": (1400, 1000, "light", False), "dark": (1400, 1000, "dark", False), "phone": (390, 844, "dark", True)}


def cutline(*arguments, cwd):
    binary = os.environ.get("CUTLINE", ROOT / "target" / "debug" / "cutline")
    command = [str(binary), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
