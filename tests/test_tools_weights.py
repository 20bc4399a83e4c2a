"""Back ends that need weights: SAM2's own classes and transformers' at a shrunk size, and NanoTrack where it is."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes.tools import plates

from actors.tools.backends import edgetam, nano, sam2, sam2_transformers
from actors.tools.backends.classical_segmenter import ClassicalSegmenter
from actors.tools.backends.classical_tracker import ClassicalTracker
from actors.tools.backends.masks import extent, mask_iou
from actors.tools.catalogue import describe_back_ends, furnish
from actors.tools.config import ToolsConfig
from actors.tools.ports import Prompt
from common.errors import ModelError
from common.geometry import iou
from common.media import FolderMediaStore

SHRUNK = (
    "++model.image_encoder.trunk.embed_dim=32",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[256,128,64,32]",
    "++model.memory_attention.num_layers=1",
)
TRACKER_WEIGHTS = Path(os.environ.get("PIXELIS_TRACKER_WEIGHTS", Path(__file__).parents[2] / "shared/data/trackers"))
PROMPTS = (
    Prompt(box=(40, 30, 160, 120)),
    Prompt(points=((100, 80),)),
    Prompt(points=((100, 80), (110, 90)), negative=((20, 20),)),
    Prompt(box=(40, 30, 160, 120), points=((100, 80),), negative=((45, 35),)),
)


@pytest.fixture(scope="module")
def sam2_folder(tmp_path_factory):
    """A folder with a small checkpoint of SAM2's own, its weights random."""
    import torch
    from safetensors.torch import save_file
    from sam2.build_sam import build_sam2

    folder = tmp_path_factory.mktemp("sam2")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_sam2(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        None,
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[*sam2.size_overrides(256), *SHRUNK],
    )
    save_file(model.state_dict(), folder / "sam2.1_hiera_tiny.safetensors")
    torch.save({"model": model.state_dict()}, folder / "other.pt")
    return folder


def sam2_config(folder, **settings):
    return ToolsConfig(
        num_workers=0, ocr="none", weights_dir=str(folder), sam2_overrides=SHRUNK, sam2_image_size=256, **settings
    )


@pytest.fixture(scope="module", params=["sam2", "edgetam"])
def transformers_folder(request, tmp_path_factory):
    """A folder as transformers saves it, with a small model for clips, its weights random."""
    return saved(f"{request.param}_video", tmp_path_factory.mktemp("hub") / f"small-{request.param}")


def saved(kind, folder):
    """The folder, with a small random model of one of transformers' types in it."""
    import torch
    import transformers

    edgetam.keep_offline()
    family, clips = kind.removesuffix("_video"), kind.endswith("_video")
    torch.manual_seed({"sam2": 0, "edgetam": 1}[family])  # weights that see an object in some frames
    settings = small_sam2_settings() if family == "sam2" else small_edgetam_settings()
    if not clips:
        settings = {key: value for key, value in settings.items() if key.endswith("_config")}
    name = {"sam2": "Sam2", "edgetam": "EdgeTam"}[family] + ("Video" if clips else "")
    config = getattr(transformers, f"{name}Config")(**settings)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


def small_sam2_settings():
    """Sam2 at 128 px with a trunk of five blocks."""
    backbone = {
        "image_size": [128, 128],
        "hidden_size": 16,
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1],
        "global_attention_blocks": [3],
    }
    return {
        "vision_config": {
            "backbone_config": backbone,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "prompt_encoder_config": {"image_size": 128},
        "image_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [8, 8],
    }


def small_edgetam_settings():
    """EdgeTam at 128 px: timm's RepViT with a block a stage, and a memory of 4 × 4 windows a frame."""
    arguments = {**edgetam.ENCODER["model_args"], "embed_dim": [16, 32, 64, 128], "depth": [1, 1, 1, 1]}
    return {
        "vision_config": {
            "model_type": "edgetam_vision_model",
            "backbone_config": {**edgetam.ENCODER, "model_args": arguments},
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "prompt_encoder_config": {"image_size": 128},
        "image_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_attention_rope_k_sizes": [4, 4],
        "perceiver_resampler_num_latents": 16,
        "perceiver_resampler_num_latents_2d": 16,
    }


def bench_of(config, folder):
    return furnish(config, FolderMediaStore(folder / "media"))


def check_segmenter(segmenter):
    """Every kind of prompt gives a mask of the picture's size and a score, the same ones each time."""
    pixels = plates(0).pixels[:200, :300]
    for prompt in PROMPTS:
        found, again = (segmenter.segment(pixels, prompt) for _ in range(2))
        assert found.mask.shape == (200, 300) and found.mask.dtype == bool and 0 <= found.score <= 1
        assert np.array_equal(found.mask, again.mask) and found.score == again.score
    together = segmenter.segment_many([pixels] * len(PROMPTS), PROMPTS)
    for prompt, found in zip(PROMPTS, together, strict=True):
        alone = segmenter.segment(pixels, prompt)
        assert (found.mask != alone.mask).mean() < 0.001 and found.score == pytest.approx(alone.score, abs=1e-3)


def check_tracker(tracker, *, num_frames):
    """Every kind of seed gives a sighting a frame, the same ones each time; a seed mask is the first frame's."""
    frames, boxes = drifting_plate(num_frames, size=(160, 240))
    mask = np.zeros(frames[0].shape[:2], bool)
    mask[boxes[0][1] : boxes[0][3], boxes[0][0] : boxes[0][2]] = True
    middle = (boxes[0][0] + boxes[0][2]) // 2, (boxes[0][1] + boxes[0][3]) // 2
    for seed in (Prompt(box=boxes[0]), Prompt(points=(middle,), negative=((2, 2),)), Prompt(mask=mask)):
        found, again = (list(tracker.track(frames, seed)) for _ in range(2))
        assert len(found) == num_frames
        for sighting, same in zip(found, again, strict=True):
            assert sighting.box == same.box and sighting.visible == same.visible
            assert (sighting.mask is not None) == sighting.visible
            if sighting.mask is not None:
                assert sighting.mask.shape == (160, 240) and sighting.box == extent(sighting.mask)
    assert found[0].visible and mask_iou(found[0].mask, mask) > 0.8


# SAM2's own package


def test_sam2_serves_seg_and_trk_when_a_checkpoint_lies_in_the_weights_folder(sam2_folder, tmp_path):
    config = sam2_config(sam2_folder)
    described = describe_back_ends(config)
    assert described["SEG"].startswith("sam2 1.1.0 (sam2.1_hiera_tiny ") and described["TRK"] == described["SEG"]
    bench = bench_of(config, tmp_path)
    check_segmenter(bench.segmenter)
    check_tracker(bench.tracker, num_frames=4)


def test_sam2s_own_pt_file_gives_the_same_masks_as_its_safetensors(sam2_folder, tmp_path):
    shutil.copy(sam2_folder / "other.pt", tmp_path / "sam2.1_hiera_tiny.pt")
    pixels = plates(0).pixels[:200, :300]
    masks = [
        bench_of(sam2_config(folder), tmp_path).segmenter.segment(pixels, PROMPTS[0]).mask
        for folder in (sam2_folder, tmp_path)
    ]
    assert np.array_equal(*masks)


def test_sam2s_video_state_does_not_grow_with_the_clip(sam2_folder):
    model = sam2.load(sam2_folder / "sam2.1_hiera_tiny.safetensors", overrides=SHRUNK, image_size=256)
    tracker = sam2.Sam2Tracker(model)
    states = []
    make = tracker._state
    tracker._state = lambda frames: states.append(make(frames)) or states[-1]
    frames, boxes = drifting_plate(24, size=(64, 360))
    sizes = []
    for _ in tracker.track(frames, Prompt(box=boxes[0])):
        kept = states[0]["output_dict_per_obj"][0]
        sizes.append((len(kept["non_cond_frame_outputs"]), len(states[0]["frames_tracked_per_obj"][0])))
    assert len(sizes) == 24 and max(size for pair in sizes for size in pair) <= 17
    assert sizes[-1] == sizes[-4]


def check_same_sightings(bounded, whole):
    frames, boxes = drifting_plate(22, size=(64, 360))
    num_visible = 0
    for ours, theirs in zip(*(t.track(frames, Prompt(box=boxes[0])) for t in (bounded, whole)), strict=True):
        num_visible += ours.visible
        assert ours.box == theirs.box and ours.visible == theirs.visible
        assert ours.mask is theirs.mask is None or np.array_equal(ours.mask, theirs.mask)
    assert num_visible > 1  # random weights see something too, or nothing was compared


def test_forgetting_old_frames_changes_no_mask(sam2_folder):
    model = sam2.load(sam2_folder / "sam2.1_hiera_tiny.safetensors", overrides=SHRUNK, image_size=256)
    bounded, whole = sam2.Sam2Tracker(model), sam2.Sam2Tracker(model)
    whole._forget = lambda state, index: None
    check_same_sightings(bounded, whole)


def test_a_checkpoint_of_another_size_is_refused_in_one_line(sam2_folder, tmp_path):
    config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(sam2_folder), sam2_image_size=256)
    with pytest.raises(ModelError) as caught:
        furnish(config, FolderMediaStore(tmp_path))
    assert "\n" not in str(caught.value) and "sam2.1_hiera_tiny" in str(caught.value)


# transformers


def test_transformers_models_serve_seg_and_trk_from_their_folder(transformers_folder, tmp_path):
    kind = f"{transformers_folder.name.removeprefix('small-')}_video {transformers_folder.name}"
    for folder in (transformers_folder, transformers_folder.parent):
        config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(folder))
        described = describe_back_ends(config)
        assert described["SEG"].startswith("transformers ") and kind in described["TRK"]
    bench = bench_of(config, tmp_path)
    check_segmenter(bench.segmenter)
    check_tracker(bench.tracker, num_frames=4)


def test_transformers_forgets_old_frames_and_its_masks_stay_the_same(transformers_folder):
    model = sam2_transformers.load_video_model(transformers_folder)
    bounded, whole = (sam2_transformers.TransformersTracker(model) for _ in range(2))
    whole._forget = lambda session, index: None
    check_same_sightings(bounded, whole)


def test_transformers_session_does_not_grow_with_the_clip(transformers_folder):
    tracker = sam2_transformers.TransformersTracker(sam2_transformers.load_video_model(transformers_folder))
    sessions = []
    make = tracker._session
    tracker._session = lambda *given: sessions.append(make(*given)) or sessions[-1]
    frames, boxes = drifting_plate(24, size=(64, 360))
    sizes = []
    for _ in tracker.track(frames, Prompt(box=boxes[0])):
        (session,) = sessions
        kept = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        sizes.append((len(kept), len(session.frames_tracked_per_obj[0]), len(session.processed_frames)))
    assert len(sizes) == 24 and max(size for triple in sizes for size in triple) <= 17
    assert sizes[-1] == sizes[-4]


@pytest.mark.parametrize("kind", ["sam2", "edgetam"])
def test_a_model_for_pictures_alone_segments_and_leaves_tracking_to_the_classical_one(kind, tmp_path):
    config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(saved(kind, tmp_path)))
    described = describe_back_ends(config)
    assert f"({kind} " in described["SEG"] and described["TRK"].startswith("classical")
    check_segmenter(bench_of(config, tmp_path).segmenter)
    with pytest.raises(ModelError, match="cannot track"):
        describe_back_ends(ToolsConfig(ocr="none", weights_dir=str(tmp_path), tracker="sam2"))


WRONG_ENCODERS = (
    ({"architecture": "no_such_network"}, "no_such_network"),
    ({"architecture": "hf-hub:timm/repvit_m1.dist_in1k"}, "from this folder alone"),
    ({"model_args": {"checkpoint_path": "weights.pt"}}, "checkpoint_path"),
    ({"model_args": {"no_such_argument": 1}}, "no_such_argument"),
    (edgetam.ENCODER, "does not load"),  # the published one, larger than these weights
)


@pytest.mark.parametrize(("wrong", "said"), WRONG_ENCODERS)
def test_an_edgetam_with_another_encoder_is_refused_in_one_line(wrong, said, tmp_path):
    checkpoint = saved("edgetam", tmp_path / "small")
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["vision_config"]["backbone_config"] |= wrong
    check_refused(checkpoint, settings, said, tmp_path)


def test_a_folder_whose_weights_do_not_fit_its_config_is_refused_in_one_line(transformers_folder, tmp_path):
    settings = json.loads((transformers_folder / "config.json").read_text())
    check_refused(transformers_folder, settings | {"memory_attention_num_layers": 2}, "no weights for", tmp_path)


def check_refused(checkpoint, settings, said, folder):
    """The checkpoint with other settings is refused, in one line that names its folder."""
    shutil.copy(checkpoint / "model.safetensors", folder)
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=said) as caught:
        bench_of(ToolsConfig(num_workers=0, ocr="none", weights_dir=str(folder)), folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_an_edgetam_that_names_no_encoder_has_the_published_one(tmp_path):
    """RepViT-M1 (arXiv:2307.09283): stages of 48, 96, 192 and 384 channels, a quarter to a 32nd of the side."""
    import torch
    import transformers

    settings = {"model_type": "edgetam_video", "vision_config": {"model_type": "edgetam_vision_model"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    config = edgetam.read_config(tmp_path, "EdgeTamVideoModel")
    encoder = transformers.AutoModel.from_config(config.vision_config.backbone_config).eval()
    with torch.inference_mode():
        maps = encoder(torch.zeros(1, 3, 64, 64)).last_hidden_state
    assert [tuple(found.shape[1:]) for found in maps] == [(48, 16, 16), (96, 8, 8), (192, 4, 4), (384, 2, 2)]


# Supplied weights


def supplied_weights():
    folder = os.environ.get("PIXELIS_WEIGHTS_DIR")
    if folder is None:
        pytest.skip("set PIXELIS_WEIGHTS_DIR to a folder with a SAM2 checkpoint")
    return folder


@pytest.mark.weights
def test_supplied_sam2_weights_segment_a_plate(tmp_path):
    config = ToolsConfig(num_workers=0, ocr="none", segmenter="sam2", weights_dir=supplied_weights())
    scene = plates(0)
    x0, y0, x1, y1 = scene.boxes[0]
    found = bench_of(config, tmp_path).segmenter.segment(scene.pixels, Prompt(box=scene.boxes[0]))
    truth = np.zeros(found.mask.shape, bool)
    truth[y0 : y1 + 1, x0 : x1 + 1] = True
    assert mask_iou(found.mask, truth) > 0.85


@pytest.mark.weights
def test_supplied_sam2_weights_follow_a_plate(tmp_path):
    config = ToolsConfig(num_workers=0, ocr="none", tracker="sam2", weights_dir=supplied_weights())
    frames, boxes = drifting_plate(12)
    found = bench_of(config, tmp_path).tracker.track(frames, Prompt(box=boxes[0]))
    assert np.mean([iou(sighting.box, true) for sighting, true in zip(found, boxes, strict=True)]) > 0.75


@pytest.mark.gpu
def test_sam2_on_a_gpu_gives_nearly_the_masks_of_the_cpu(sam2_folder, tmp_path):
    import torch

    model = sam2.load(sam2_folder / "sam2.1_hiera_tiny.safetensors", overrides=SHRUNK, image_size=256)
    assert next(model.parameters()).is_cuda
    pixels = plates(0).pixels[:200, :300]
    on_gpu = [sam2.Sam2Segmenter(model).segment(pixels, prompt).mask for prompt in PROMPTS]
    check_tracker(sam2.Sam2Tracker(model), num_frames=3)
    try:
        on_cpu = [sam2.Sam2Segmenter(model.to("cpu")).segment(pixels, prompt).mask for prompt in PROMPTS]
    finally:
        model.to("cuda")
    torch.cuda.synchronize()
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert (ours != theirs).mean() < 0.02


# NanoTrack


@pytest.mark.skipif(not TRACKER_WEIGHTS.is_dir(), reason=f"NanoTrack's networks are not in {TRACKER_WEIGHTS}")
def test_nanotrack_is_used_when_its_networks_lie_in_the_weights_folder(tmp_path):
    for name, source in zip(nano.FILES, ("nanov2_backbone.onnx", "nanov2_head.onnx"), strict=True):
        shutil.copy(TRACKER_WEIGHTS / source, tmp_path / name)
    config = ToolsConfig(num_workers=0, ocr="none", weights_dir=str(tmp_path))
    assert describe_back_ends(config)["TRK"].startswith("NanoTrack")
    tracker = bench_of(config, tmp_path).tracker
    frames, boxes = drifting_plate(8)
    middle = (boxes[0][0] + boxes[0][2]) // 2, (boxes[0][1] + 4)
    for seed in (Prompt(box=boxes[0]), Prompt(points=(middle,))):
        first, again = (list(tracker.track(frames, seed)) for _ in range(2))
        assert first == again
        assert np.mean([iou(sighting.box, true) for sighting, true in zip(first, boxes, strict=True)]) > 0.7


def test_the_classical_tracker_keeps_to_a_plate_that_crosses_others():
    frames, boxes = drifting_plate(24)
    found = ClassicalTracker(ClassicalSegmenter()).track(frames, Prompt(box=boxes[0]))
    assert np.mean([iou(sighting.box, true) for sighting, true in zip(found, boxes, strict=True)]) > 0.8


def drifting_plate(num_frames, size=(448, 448)):
    """A plate that drifts 12 px right and 4 px down a frame across a scene of other plates; its boxes.

    In a small picture it drifts by as much as there is room for.
    """
    ground, plate = plates(3, num_plates=4).pixels[: size[0], : size[1]], plates(5)
    x0, y0, x1, y1 = plate.boxes[0]
    across = min(12, (size[1] - 24 - (x1 - x0)) // num_frames)
    top = min(100, size[0] - 4 - (y1 - y0))
    down = min(4, (size[0] - top - (y1 - y0)) // num_frames)
    frames, boxes = [], []
    for index in range(num_frames):
        left, upper = 20 + across * index, top + down * index
        frame = ground.copy()
        frame[upper : upper + y1 - y0, left : left + x1 - x0] = plate.pixels[y0:y1, x0:x1]
        frames.append(frame)
        boxes.append((left, upper, left + x1 - x0, upper + y1 - y0))
    return frames, boxes
