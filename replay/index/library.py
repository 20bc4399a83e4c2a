"""FAISS. Its type hints do not know what its Python wrappers take."""

from __future__ import annotations

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
