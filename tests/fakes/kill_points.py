"""Where processes are killed: calls to the disk, by what they are about."""

from __future__ import annotations

import random

from fakes.failpoints import Failpoint
from fakes.kill_setting import Setting

NEW = ("create", "write", "sync", "rename")
"""The calls that make a file appear whole."""

LOG = (
    ("write", "segment", 40),
    ("sync", "segment", 25),
    *((call, "new segment", 3) for call in NEW),
    ("sync_folder", "log folder", 4),
    ("truncate", "segment", 1),
    ("sync", "left behind", 1),
)
SNAPSHOT = (*((call, "snapshot", 2) for call in NEW), ("unlink", "snapshot", 1), ("sync_folder", "log folder", 6))
MEDIA = (
    ("write", "pack", 6),
    ("sync", "pack", 6),
    *((call, "new pack", 2) for call in NEW),
    *((call, "pack index", 2) for call in NEW),
    ("sync_folder", "media folder", 4),
)
INDEX = (*((call, "neighbours", 3) for call in NEW), ("sync_folder", "index folder", 3))
REWRITING = (
    *((call, "rewritten segment", 2) for call in NEW),
    *((call, "rewritten pack", 1) for call in NEW),
    *((call, "pack index", 2) for call in NEW),
    *((call, "note of what goes", 1) for call in (*NEW, "unlink")),
    ("unlink", "pack index", 1),
    ("unlink", "snapshot", 1),
)
ERASING = (*REWRITING, ("unlink", "neighbours", 2), ("write", "segment", 3), ("sync", "segment", 2))
THEMES = {"log": LOG, "snapshot": SNAPSHOT, "media": MEDIA, "index": INDEX, "retention": REWRITING, "erasure": LOG}


def a_failpoint(choices: random.Random, setting: Setting, *, closing: bool, erasing: bool = False) -> Failpoint:
    """One that the theme of the round makes likely to be reached. closing: the process is going to be closed in order.

    erasing: it erases a source.
    """
    points = ERASING if erasing else THEMES[setting.theme]
    if not erasing and choices.random() < 0.2:
        points = (*LOG, *MEDIA) if setting.media else LOG
    if closing and choices.random() < 0.5:
        points = (*SNAPSHOT, *(INDEX if setting.theme in ("index", "erasure") else ()))
    syncs = setting.durability.mode != "os" or erasing
    call, place, most = choices.choice([point for point in points if syncs or point[0] != "sync"])
    return Failpoint(
        call=call, place=place, nth=choices.randint(1, most), when=choices.choice(("before", "half", "after"))
    )


def in_appending(choices: random.Random) -> Failpoint:
    """One of the calls that append to the log."""
    return Failpoint(call=choices.choice(("write", "sync")), place="segment", nth=choices.randint(3, 20), when="before")
