"""Programs of this package that run in a process of their own, beside the one that opened the replay."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any


def start_program(module: str, argument: str, **streams: Any) -> subprocess.Popen[bytes]:
    """Run `main(argument)` of a module on one thread, with this process's import path; what it returns is the exit
    status. streams: as Popen takes them. Raises OSError when it cannot be started.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"import sys; from {module} import main; sys.exit(main(sys.argv[1]))", argument],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        **streams,
    )
