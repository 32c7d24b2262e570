"""Python code in a process of its own, which finds only some of the installed packages."""

import subprocess
import sys
from pathlib import Path


def fresh(code: str, folder: Path, without: tuple[str, ...]) -> str:
    """Run code in a folder, and return what it prints.

    - without: packages that it doesn't find
    """
    blocked = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
