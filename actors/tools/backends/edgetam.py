"""EdgeTAM's configuration (arXiv:2501.07256), made from a checkpoint's folder alone.

EdgeTAM is SAM2 with a network of timm as its picture encoder. transformers fetches that encoder's default configuration
from a hub whenever an EdgeTAM configuration is made, validated or saved, whatever it holds; here it stays on the disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import ModelError

ENCODER = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}
"""The picture encoder of the published EdgeTAM, where config.json does not name one."""


def read_config(folder: Path, name: str) -> Any:
    """The configuration of EdgeTamModel or EdgeTamVideoModel (`name`) for a folder. Raises ModelError, one line."""
    import importlib.util

    import transformers
    from huggingface_hub.errors import StrictDataclassError

    if importlib.util.find_spec("timm") is None:
        raise ModelError(f"{folder}: {name} needs the package timm; run scripts/setup")
    keep_offline()
    try:
        settings = json.loads((folder / "config.json").read_text())
        vision = {"model_type": "edgetam_vision_model", **(settings.pop("vision_config", None) or {})}
        vision["backbone_config"] = {**ENCODER, **(vision.get("backbone_config") or {})}
        check_encoder(folder, vision["backbone_config"])
        settings.pop("model_type")  # a folder for clips serves pictures too
        return getattr(transformers, name).config_class.from_dict({**settings, "vision_config": vision})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{folder}: config.json is not one of {name} ({str(error).splitlines()[0]})") from error


def check_encoder(folder: Path, encoder: dict[str, Any]) -> None:
    """Refuse an encoder that timm would look for outside the folder. Raises ModelError, one line."""
    architecture, arguments = str(encoder["architecture"]), encoder["model_args"] or {}
    outside = [key for key in arguments if key.startswith(("pretrained", "checkpoint"))]
    if ":" in architecture or "/" in architecture or outside:
        found = f"model_args.{outside[0]}" if outside else f"architecture {architecture!r}"
        raise ModelError(
            f"{folder}: the encoder's weights come from this folder alone: in config.json's "
            f"vision_config.backbone_config give a name of timm such as 'repvit_m1', not {found}"
        )


def keep_offline() -> None:
    """Tell transformers that EdgeTAM's configurations have no defaults, for those defaults lie on a hub.

    Without it `EdgeTamVisionConfig.__post_init__` asks for timm/repvit_m1.dist_in1k when a configuration is compared
    with the defaults of its class, which its validation and `save_pretrained` do (transformers 5.19.0).
    """
    import transformers

    for config in (transformers.EdgeTamVisionConfig, transformers.EdgeTamConfig, transformers.EdgeTamVideoConfig):
        config.has_no_defaults_at_init = True
