"""What every family is there for, in words: the page about the world and the command line show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """needs: why a look at the view is not enough. without: what is left without one of its tools."""

    needs: str
    without: str


ABOUT: dict[str, About] = {
    "text": About(
        needs="a digit is under 3 px high in the view", without="without OCR nothing can be read: one guess in 1,000"
    ),
    "clip": About(
        needs="as text; one of the frames shows the plate",
        without="without OCR one guess in 1,000; a plate of the wrong frame has another code",
    ),
    "fill": About(
        needs="a pixel of the view is 7 × 7 of the source, and strips hide a part of half the shapes",
        without="without SEG a box can be measured, but a box is always full; without PROP there is no number",
    ),
    "distance": About(
        needs="the centroids of what is seen, to 5 %",
        without="SEG's boxes tell their middles, which are the centroids of no half-covered shape",
    ),
    "hop": About(
        needs="the note's word is under 3 px high, and the fill is as above",
        without="without OCR a guess among the shapes; without SEG or PROP as above",
    ),
    "when": About(
        needs="the colour is there between the two frames that are shown only",
        without="without TEMP one of the 14 other frames' clocks; without OCR one guess in 1,000",
    ),
    "event": About(
        needs="what moves or vanishes does so between the two frames that are shown",
        without="without TRK or TEMP one of the 14 other frames' clocks; without OCR one guess in 1,000",
    ),
    "identity": About(
        needs="two look-alikes pass behind a bar between the frames, and one of them turns around",
        without="without TRK a guess between two; without OCR one guess in 100",
    ),
    "side": About(needs="nothing: the view shows it", without="a call is a call too many"),
    "count": About(needs="nothing: the view shows it", without="a call is a call too many"),
}
