"""transformers' `Sam2VideoModel`, acting out the same scenes. Its processor needs torchvision; its work is here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from masklet.model.config import HIERA
from masklet.renaming import to_hugging_face

from .answers import Answer, Answers
from .peers import quiet, require
from .scenes import Action, Say, Track


def video_model(size: str, revision: str = "2.1", image_px: int = 1024) -> Any:
    """Build `Sam2VideoModel` of an official size with its own random weights."""
    require("transformers.models.sam2_video.modeling_sam2_video")
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

    trunk, cells = HIERA[size], image_px // 16
    backbone = Sam2HieraDetConfig(
        hidden_size=trunk.width,
        num_attention_heads=trunk.heads,
        image_size=[image_px, image_px],
        blocks_per_stage=list(trunk.depths),
        embed_dim_per_stage=[trunk.width << stage for stage in range(4)],
        num_attention_heads_per_stage=[trunk.heads << stage for stage in range(4)],
        window_size_per_stage=list(trunk.windows),
        global_attention_blocks=list(trunk.global_blocks),
        window_positional_embedding_background_size=[trunk.window_background] * 2,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[trunk.width << stage for stage in reversed(range(4))],
        backbone_feature_sizes=[[cells * n, cells * n] for n in (4, 2, 1)],
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"image_size": image_px},
        image_size=image_px,
        memory_attention_rope_feat_sizes=[cells, cells],
        enable_temporal_pos_encoding_for_object_pointers=revision == "2.1",
        enable_occlusion_spatial_embedding=revision == "2.1",
    )
    with quiet(), torch.random.fork_rng():
        return Sam2VideoModel(config).eval()


def load(model: Any, weights: dict[str, Tensor]) -> Any:
    """Give official weights to the model through masklet's renaming; every name must fit."""
    model.load_state_dict(to_hugging_face(weights), strict=True)
    return model


@dataclass(eq=False)
class HuggingFace:
    """The model on one clip, driven as its documentation says: each prompt is answered at once by a call."""

    model: Any
    pixels: Tensor
    """`[t, 3, s, s]`, normalised."""
    height: int
    width: int
    _seen: dict[int, Any] = field(default_factory=dict)

    def act(self, actions: Sequence[Action]) -> Answers:
        """Act out a scenario of prompts and passes on a clip whose length is known."""
        session = self._session(self.pixels)
        answers: Answers = {}
        for position, action in enumerate(actions):
            for frame, names, logits, scores in self._do(session, action):
                for name, plane, score in zip(names, logits, scores, strict=True):
                    if not isinstance(action, Say) or name == action.object:
                        answers[position, frame, name] = self._answer(plane, score)
        return answers

    def stream(self, says: Sequence[Say]) -> Answers:
        """Feed the frames one by one, prompts with the frame they are on; the answers are of position 0."""
        session = self._session(None)
        answers: Answers = {}
        for frame, pixels in enumerate(self.pixels):
            for say in says:
                if say.frame == frame:
                    self._say(session, say)
            out = self._call(session, frame=pixels[None])
            for name, plane, score in zip(out.object_ids, out.pred_masks, out.object_score_logits, strict=True):
                answers[0, frame, name] = self._answer(plane, score)
        return answers

    def _session(self, video: Tensor | None) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video, self.height, self.width, dtype=torch.float32, max_vision_features_cache_size=len(self.pixels)
        )
        session.cache._vision_features = self._seen  # pictures are seen once, however many scenarios are acted out
        return session

    def _do(self, session: Any, action: Action) -> Iterator[tuple[int, list[str], Tensor, Tensor]]:
        assert isinstance(action, Say | Track), f"this peer cannot {action}"
        if isinstance(action, Say):
            self._say(session, action)
            outs = [self._call(session, frame_idx=action.frame)]
        else:
            count = None if action.count is None else action.count - 1  # n gives n + 1 frames
            outs = list(self.model.propagate_in_video_iterator(session, action.start, count, reverse=action.reverse))
        for out in outs:
            yield out.frame_idx, out.object_ids, out.pred_masks, out.object_score_logits

    def _call(self, session: Any, **what: Any) -> Any:
        with torch.inference_mode():
            return self.model(session, **what)

    def _say(self, session: Any, say: Say) -> None:
        index = session.obj_id_to_idx(say.object)
        if say.mask is None:
            self._add_points(session, index, say)
            session.remove_mask_inputs(index, say.frame)
        else:
            side = self.pixels.shape[-1]
            mask = torch.from_numpy(say.mask)[None, None].float()
            mask = functional.interpolate(mask, (side, side), mode="bilinear", antialias=True) >= 0.5
            session.add_mask_inputs(index, say.frame, mask)
            session.remove_point_inputs(index, say.frame)
        session.obj_with_new_inputs = [*session.obj_with_new_inputs, say.object]

    def _add_points(self, session: Any, index: int, say: Say) -> None:
        points = [(x, y) for x, y, _ in say.clicks]
        labels = [label for *_, label in say.clicks]
        if say.box is not None:
            points, labels = [say.box[:2], say.box[2:], *points], [2, 3, *labels]
        scale = self.pixels.shape[-1] / torch.tensor([self.width, self.height])
        inputs = {
            "point_coords": (torch.tensor(points) * scale)[None, None],
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
        }
        before = session.point_inputs_per_obj[index].get(say.frame)
        if say.again and before is not None:
            inputs = {key: torch.cat((before[key], value), dim=2) for key, value in inputs.items()}
        session.add_point_inputs(index, say.frame, inputs)

    def _answer(self, plane: Tensor, score: Tensor) -> Answer:
        """Enlarge to the clip's size, as the processor does. Predicted IoUs are not given out by this peer."""
        full = functional.interpolate(plane[None].float(), (self.height, self.width), mode="bilinear")
        return Answer(full[0, 0], float(score), 0.0)
