"""Work in a process of its own, which may be killed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path


def forked(work: Callable[[], object]) -> int:
    """The process that does `work`: it ends with 0, or with 1 and a traceback in the file "said"."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        Path("said").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
