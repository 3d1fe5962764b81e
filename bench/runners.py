"""One implementation on one clip, in a process of its own: prints seconds of each frame and the peak memory as JSON.

    python bench/runners.py {masklet|sam2|transformers} CLIP WEIGHTS --side 1024 --objects 1 --frames 12

All three get the same weights (a file in official form), the same frames and one click per object on frame 0.
"""

import argparse
import json
import logging
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from masklet import Click, Prompt, Session, open_video
from masklet.model.config import sam2_config
from masklet.model.network import Network, normalise
from masklet.renaming import to_hugging_face


@dataclass(frozen=True)
class Run:
    """What every implementation is given."""

    clip: Path
    weights: Path
    side: int
    """Of the square that the network sees."""
    objects: int
    frames: int

    @property
    def clicks(self) -> list[tuple[float, float]]:
        """Return one place for each object, spread over the picture, in source pixels."""
        video = open_video(self.clip)
        return [
            (video.width * (0.2 + 0.6 * (i % 4) / 3), video.height * (0.35 + 0.3 * (i // 4)))
            for i in range(self.objects)
        ]


def run_masklet(run: Run) -> Iterator[None]:
    """Yield after each frame."""
    network = Network(sam2_config("tiny", "2.1", run.side)).eval().requires_grad_(False)
    network.load_state_dict(torch.load(run.weights, weights_only=True)["model"])
    with Session(run.clip, network) as session:
        for i, (x, y) in enumerate(run.clicks):
            session.add(Prompt(f"object {i}", 0, clicks=(Click(x, y),)))
        for _ in session.track("forward", max_frames=run.frames):
            yield


def run_sam2(run: Run) -> Iterator[None]:
    """Yield after each frame of Meta's predictor."""
    from sam2.build_sam import build_sam2_video_predictor

    cells = run.side // 16
    predictor = build_sam2_video_predictor(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        str(run.weights),
        device="cpu",
        hydra_overrides_extra=[
            f"++model.image_size={run.side}",
            f"++model.memory_attention.layer.self_attention.feat_sizes=[{cells},{cells}]",
            f"++model.memory_attention.layer.cross_attention.feat_sizes=[{cells},{cells}]",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        for frame in open_video(run.clip).frames(0, run.frames):
            Image.fromarray(frame.rgb).save(f"{folder}/{frame.index:05d}.jpg", quality=95)
        state = predictor.init_state(folder)
    for i, (x, y) in enumerate(run.clicks):
        predictor.add_new_points_or_box(state, 0, i, points=[[x, y]], labels=[1])
    for _ in predictor.propagate_in_video(state):
        yield


def run_transformers(run: Run) -> Iterator[None]:
    """Yield after each frame of `Sam2VideoModel`, its processor's work done here (it needs torchvision)."""
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    config = Sam2VideoConfig()
    assert run.side == config.prompt_encoder_config.image_size, "transformers is measured at its own size only"
    model = Sam2VideoModel(config).eval()
    model.load_state_dict(to_hugging_face(torch.load(run.weights, weights_only=True)["model"]))
    video = open_video(run.clip)
    frames = [normalise(torch.from_numpy(f.rgb), size_hw=(run.side, run.side))[0] for f in video.frames(0, run.frames)]
    session = Sam2VideoInferenceSession(torch.stack(frames), video.height, video.width, dtype=torch.float32)
    scale = torch.tensor([run.side / video.width, run.side / video.height])
    for i, click in enumerate(run.clicks):
        inputs = {
            "point_coords": (torch.tensor(click) * scale).view(1, 1, 1, 2),
            "point_labels": torch.ones(1, 1, 1, dtype=torch.int32),
        }
        session.add_point_inputs(session.obj_id_to_idx(i), 0, inputs)
    session.obj_with_new_inputs = list(range(run.objects))
    with torch.inference_mode():
        for out in model.propagate_in_video_iterator(session, start_frame_idx=0):
            full = torch.nn.functional.interpolate(out.pred_masks, (video.height, video.width), mode="bilinear")
            (full > 0).numpy()
            yield


RUNNERS = {"masklet": run_masklet, "sam2": run_sam2, "transformers": run_transformers}


def main() -> None:
    """Run one implementation and print what it took."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=RUNNERS)
    parser.add_argument("clip", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--frames", type=int, default=12)
    arguments = vars(parser.parse_args())
    runner = RUNNERS[arguments.pop("who")]
    seconds, before = [], time.perf_counter()
    for _ in runner(Run(**arguments)):
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main()
