"""The peers, built for comparison: Meta's `sam2` package and `Sam2VideoModel` of transformers, float32 on a CPU."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from .answers import Answer, Answers
from .scenes import Action, Remove, Say, Track, Withdraw

SIZES = ("tiny", "small", "base-plus", "large")
LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
REVISIONS = ("2.0", "2.1")
HOLE_PX = 8


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the peers warn; the suite treats every other warning as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require(module: str) -> Any:
    """Import a peer, or fail with what to do: a skipped comparison proves nothing."""
    import importlib

    with quiet():
        try:
            return importlib.import_module(module)
        except ImportError as error:
            pytest.fail(
                f"the parity tests compare masklet with `{module}`, which does not import ({error}); "
                "`make test` installs the peers sam2, transformers and scipy",
                pytrace=False,
            )


def official_predictor(size: str, revision: str = "2.1", image_px: int = 1024, overrides: Sequence[str] = ()) -> Any:
    """Build Meta's own predictor with its own random weights."""
    build = require("sam2.build_sam")
    folder, prefix = ("sam2.1", "sam2.1") if revision == "2.1" else ("sam2", "sam2")
    cells = image_px // 16
    options = [
        f"++model.image_size={image_px}",
        f"++model.memory_attention.layer.self_attention.feat_sizes=[{cells},{cells}]",
        f"++model.memory_attention.layer.cross_attention.feat_sizes=[{cells},{cells}]",
        *overrides,
    ]
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(1)
        return build.build_sam2_video_predictor(
            f"configs/{folder}/{prefix}_hiera_{LETTERS[size]}.yaml", device="cpu", hydra_overrides_extra=options
        )


def label_8(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Do what the peer's CUDA extension does: label `[b, 1, h, w]` 8-connected islands, with the area at each cell."""
    ndimage = require("scipy.ndimage")
    labels, areas = torch.zeros(mask.shape, dtype=torch.int32), torch.zeros(mask.shape, dtype=torch.int32)
    for i, plane in enumerate(mask[:, 0].numpy()):
        found, _ = ndimage.label(plane, structure=np.ones((3, 3)))
        sizes = np.bincount(found.ravel())
        labels[i, 0], areas[i, 0] = torch.from_numpy(found), torch.from_numpy(sizes[found])
    return labels, areas * (labels > 0)


@cache
def _recording_class() -> Any:
    """The official predictor, which also reports predicted IoUs and whose memory may stay exact.

    Its memories are bfloat16, and a frame with such memories alone crashes in float32. Here they are rounded so but
    kept as float32, which is what they are promoted to wherever it does not crash; or not rounded at all.
    """
    base = require("sam2.sam2_video_predictor").SAM2VideoPredictor

    class Recording(base):
        rounded = True

        def _encode_new_memory(self, *args: Any, **kwargs: Any) -> Any:
            features, codes = super()._encode_new_memory(*args, **kwargs)
            self._exact = features.to(torch.bfloat16).float() if self.rounded else features
            return features, codes

        def _run_memory_encoder(self, *args: Any, **kwargs: Any) -> Any:
            _, codes = super()._run_memory_encoder(*args, **kwargs)
            return self._exact, codes

        def _track_step(self, *args: Any, **kwargs: Any) -> Any:
            answer = super()._track_step(*args, **kwargs)
            self._iou = answer[1][2].max().item()
            return answer

        def _run_single_frame_inference(self, *args: Any, **kwargs: Any) -> Any:
            out, masks = super()._run_single_frame_inference(*args, **kwargs)
            out["iou"] = self._iou
            if out["maskmem_features"] is not None:
                out["maskmem_features"] = self._exact
            return out, masks

    return Recording


@dataclass(eq=False)
class Official:
    """Meta's predictor on one clip. Pictures are seen once, however many scenarios are acted out."""

    predictor: Any
    pixels: Tensor
    """`[t, 3, s, s]`, normalised."""
    height: int
    width: int
    state: Any = field(init=False)

    def __post_init__(self) -> None:
        module = require("sam2.sam2_video_predictor")
        self.predictor.__class__ = _recording_class()
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(module, "load_video_frames", lambda **_: (self.pixels, self.height, self.width))
            self.state = self.predictor.init_state("the clip above")
            seen: dict[bytes, Any] = {}
            for i, picture in enumerate(self.pixels[:, None]):
                key = bytes(picture.numpy())
                seen[key] = seen.get(key) or self.predictor.forward_image(picture)
                self.state["cached_features"][i] = (picture, seen[key])

    def act(self, actions: Sequence[Action], *, rounded: bool = True, holes: bool = True) -> Answers:
        """Act out a scenario. `rounded` memories are bfloat16; with `holes` they are filled as its CUDA build does."""
        self.predictor.rounded = rounded
        self.predictor.fill_hole_area = HOLE_PX if holes else 0
        self.predictor.reset_state(self.state)
        answers: Answers = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(require("sam2.utils.misc"), "get_connected_components", label_8)
            patch.setattr(require("sam2.sam2_video_predictor"), "tqdm", lambda frames, **_: frames)
            for position, action in enumerate(actions):
                for frame, names, logits in self._do(action):
                    for name, plane in zip(names, logits[:, 0], strict=True):
                        if not isinstance(action, Say) or name == action.object:
                            answers[position, frame, name] = self._answer(frame, name, plane)
        return answers

    def _do(self, action: Action) -> Iterator[tuple[int, list[str], Tensor]]:
        if isinstance(action, Track):
            count = None if action.count is None else action.count - 1  # n gives n + 1 frames
            yield from self.predictor.propagate_in_video(
                self.state, start_frame_idx=action.start, max_frame_num_to_track=count, reverse=action.reverse
            )
        elif isinstance(action, Remove):
            self.predictor.remove_object(self.state, action.object, need_output=False)
        elif isinstance(action, Withdraw):
            self.predictor.clear_all_prompts_in_frame(self.state, action.frame, action.object, need_output=False)
        elif action.mask is not None:
            yield self.predictor.add_new_mask(self.state, action.frame, action.object, action.mask)
        else:
            yield self.predictor.add_new_points_or_box(
                self.state,
                action.frame,
                action.object,
                points=[c[:2] for c in action.clicks] if action.clicks else None,
                labels=[c[2] for c in action.clicks] if action.clicks else None,
                box=None if action.box is None else np.array(action.box, np.float32),
                clear_old_points=not action.again,
            )

    def _answer(self, frame: int, name: str, plane: Tensor) -> Answer:
        index = self.state["obj_id_to_idx"][name]
        stores = [self.state[k][index] for k in ("temp_output_dict_per_obj", "output_dict_per_obj")]
        kinds = ("cond_frame_outputs", "non_cond_frame_outputs")
        out = next(s[k][frame] for s in stores for k in kinds if frame in s[k])
        return Answer(plane.clone(), out["object_score_logits"].item(), out["iou"])


def pictures_as_input(clip: NDArray[np.uint8], side: int) -> Tensor:
    """Squash and normalise `[t, h, w, 3]` as the image predictor does (bilinear, antialiased): `[t, 3, side, side]`."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return (pixels - mean[:, None, None]) / deviation[:, None, None]
