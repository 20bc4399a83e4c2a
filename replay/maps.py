"""Files as memory, read only: a map takes no file descriptor, so a replay may have any number of segments and packs.

`mmap.mmap` keeps a descriptor of its file for as long as it lives, and many systems give a process 1,024 of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


def map_file(path: Path) -> memoryview:
    """The file's bytes as a memory map that lives as long as any view of it. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return memoryview(b"")
        start = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if start == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    held = (ctypes.c_ubyte * size).from_address(start)
    weakref.finalize(held, _LIBC.munmap, start, size).atexit = False  # whoever has a view then may still look
    return memoryview(held).cast("B").toreadonly()
