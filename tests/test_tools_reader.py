"""What EasyOCR reads for us, on text whose truth is known."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.tools import plates

from actors.tools.backends.languages import find_files
from actors.tools.backends.lines import find_lines
from actors.tools.backends.noise import noise
from actors.tools.backends.reader import EasyOcr, describe_easyocr, weights_only
from common.geometry import covers, grid_to_pixels, pixels_to_grid


@pytest.fixture(scope="module")
def reader():
    torch.set_num_threads(1)
    return EasyOcr(find_files(("en",), None), quantize=True, max_lines_side=512, detect_side=1280, min_confidence=0.25)


def coarse_crops(seeds):
    """Crops of plates by boxes rounded outward to multiples of 50 of 1000, and their codes."""
    crops, codes = [], []
    for seed in seeds:
        scene = plates(seed, num_plates=2 + seed % 3)
        for box, code in zip(scene.boxes, scene.codes, strict=True):
            x0, y0, x1, y1 = grid_to_pixels(pixels_to_grid(box, 448, 448, step=50), 448, 448)
            crops.append(scene.pixels[y0:y1, x0:x1])
            codes.append(code)
    return crops, codes


def texts(lines_of_each):
    return ["\n".join(line.text for line in lines) for lines in lines_of_each]


def test_codes_on_plates_are_read_exactly(reader):
    crops, codes = coarse_crops(range(100, 125))
    right = [text == code for text, code in zip(texts(reader.read_many(crops)), codes, strict=True)]
    assert len(codes) == 75 and np.mean(right) >= 0.97


def test_reading_many_gives_what_reading_each_gives(reader):
    crops, _ = coarse_crops(range(6))
    assert texts(reader.read_many(crops)) == texts([reader.read(crop) for crop in crops])


def test_reading_is_reproducible(reader):
    (crop, *_), _ = coarse_crops([7])
    assert reader.read(crop) == reader.read(crop)


def test_noise_is_measured_and_read_through(reader):
    crops, codes = coarse_crops(range(8))
    random = np.random.default_rng(0)
    noisy = [(crop + random.integers(-30, 31, crop.shape)).clip(0, 255).astype(np.uint8) for crop in crops]
    right = [text == code for text, code in zip(texts(reader.read_many(noisy)), codes, strict=True)]
    assert np.mean(right) >= 0.9
    assert max(noise(crop) for crop in crops) < 2 < min(noise(crop) for crop in noisy)


def test_a_printed_line_is_read_with_its_punctuation(reader):
    from PIL import Image, ImageDraw, ImageFont

    for text in ("Total: $13.75", "EXIT 42"):
        font = ImageFont.load_default(28)
        image = Image.new("RGB", (int(font.getlength(text)) + 20, 56), "white")
        ImageDraw.Draw(image).text((10, 10), text, fill=(0, 0, 0), font=font)
        assert texts([reader.read(np.asarray(image))]) == [text]


def test_a_scanned_page_is_read_in_its_order(reader):
    from skimage import data

    page = np.repeat(data.page()[..., None], 3, axis=2)
    words = " ".join(line.text for line in reader.read(page)).lower()
    places = [words.find(word) for word in ("region-based segmentation", "markers", "unambiguously", "histogram")]
    assert -1 not in places and places == sorted(places)


def test_an_empty_picture_holds_no_text(reader):
    assert reader.read(np.full((60, 90, 3), 128, np.uint8)) == ()
    assert reader.read(np.zeros((1, 1, 3), np.uint8)) == ()


def test_lines_lie_on_their_plates():
    scene = plates(11, num_plates=3)
    lines = find_lines(scene.pixels)
    for box in scene.boxes:
        assert sum(covers(box, line.box) for line in lines) == 1


def test_a_glyph_cut_by_the_border_is_left_out_unless_alone():
    picture = np.full((60, 120, 3), 220, np.uint8)
    picture[20:40, 50:54] = picture[20:40, 60:64] = picture[20:40, 70:74] = 0
    picture[20:24, 50:74] = picture[36:40, 50:74] = 0
    (line,) = find_lines(picture)
    assert line.box == (50, 20, 74, 40) and not line.cut
    picture[20:40, 110:120] = 0
    assert [found.box for found in find_lines(picture)] == [(50, 20, 74, 40)]


def test_weights_are_read_as_tensors_only(tmp_path: Path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"weights": Harmful()}, tmp_path / "weights.pth")
    with weights_only(), pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(tmp_path / "weights.pth", weights_only=False)
    assert not (tmp_path / "harm").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_description_names_versions_and_weights():
    assert describe_easyocr(find_files(("en",), None), quantize=True).startswith("easyocr 1.7.2 (english_g2 ")
