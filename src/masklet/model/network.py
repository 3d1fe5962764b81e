"""SAM 2 assembled, as four verbs that hold no state: see, recall, decode, remember.

Attributes that hold parameters are named as in the official checkpoints, which are a file format. The rules are those
of sam2_base.py at facebookresearch/sam2 2b90b9f; differences are marked `Differs:` and have a test of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from masklet.model.colours import CELL, colours_of, palettes_of
from masklet.model.config import HieraConfig, ModelConfig
from masklet.model.hiera import Hiera
from masklet.model.layers import MLP, resize
from masklet.model.mask_decoder import Answers, MaskDecoder, stable
from masklet.model.matching import TRUST, Sighting, carry, cover_of, evidence, looks_of
from masklet.model.memory_attention import MemoryAttention, Tokens
from masklet.model.memory_encoder import MemoryEncoder
from masklet.model.neck import FpnNeck
from masklet.model.position import sine_map, sine_times
from masklet.model.prompt_encoder import PADDING, PromptEncoder
from masklet.model.target_model import TargetModel, learned
from masklet.model.tiny_vit import PlainNeck, TinyViT

WIDTH = 256
MEMORY_WIDTH = 64
STRIDE = 16
MAPS = 7
"""Time slots of spatial memories: one for every prompted frame together, six for the frames just before."""
POINTERS = 16
"""Object pointers reach this many frames back, the present one counted."""
ABSENT = -1024.0
"""Mask logit of an object that is not there."""
PLAUSIBLE = 0.15
"""So much below the best reading's predicted IoU another is still considered."""
CERTAIN = 10.0
"""Logit of a mask that a person gave."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue."""


@dataclass(frozen=True, eq=False)
class Features:
    """What the network sees in one picture."""

    image: Tensor
    """`[1, 256, h, w]`, stride 16."""
    fine: tuple[Tensor, Tensor] | None
    """`[1, 32, 4h, 4w]` and `[1, 64, 2h, 2w]`; None for nano."""
    colours: Tensor
    """`[3, 4h, 4w]`, 0..1, from `colours_of`."""
    early: Tensor
    """`[c, 4h, 4w]`, what the trunk sees at stride 4: 64 channels for nano, 32 for the others, which do without."""

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[-2], self.image.shape[-1]

    @cached_property
    def looks(self) -> Tensor:
        """What tells its places apart, `[h*w, 288]`; no gradients."""
        return looks_of(self.image.detach(), self.colours)


@dataclass(frozen=True, eq=False)
class Points:
    """Point prompts of a batch; padded with label -1."""

    xy: Tensor
    """`[b, n, 2]`, pixels of the network's input."""
    labels: Tensor
    """`[b, n]` int: 1 and 0 clicks, 2 and 3 the corners of a box, -1 padding."""

    @property
    def ambiguous(self) -> bool:
        """Whether they can mean several things: at most one point an object."""
        return self.labels.shape[1] <= 1


@dataclass(frozen=True, eq=False)
class Recollection:
    """What one object takes from its memory bank for one frame."""

    maps: Sequence[tuple[Tensor, int]]
    """`[64, h, w]` memory maps, each with its time slot: 0 the frame before, ..., 5 six frames before, 6 prompted."""
    pointers: Sequence[tuple[Tensor, int]]
    """`[256]` object pointers, each with its distance in frames; negative means from the future."""
    reach: int
    """The distance that codes as one: `min(frames in the video, 16) - 1`."""
    sightings: Sequence[tuple[Sighting, int]] = ()
    """Nano only, each with its distance in frames."""

    @property
    def target(self) -> TargetModel | None:
        """What was learned of the object where a person showed it; nano only."""
        return next((sighting.target for sighting, _ in self.sightings if sighting.target is not None), None)


@dataclass(frozen=True, eq=False)
class Decoded:
    """One answer per object."""

    logits: Tensor
    """`[b, 1, 4h, 4w]`, above 0 is object; all -1024 where the object is absent."""
    ious: Tensor
    """`[b]`, predicted."""
    scores: Tensor
    """`[b]`, occlusion logits; above 0 present."""
    pointers: Tensor
    """`[b, 256]`."""


class ImageEncoder(nn.Module):
    """Trunk and neck, under the name that checkpoints give them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.trunk: nn.Module
        self.neck: nn.Module
        if isinstance(config.trunk, HieraConfig):
            self.trunk, self.neck = Hiera(config.trunk), FpnNeck(config.trunk)
        else:
            self.trunk, self.neck = TinyViT(config.trunk), PlainNeck()


class Network(nn.Module):
    """SAM 2, or nano, with random weights; `masklet.load_network` gives trained ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config.image_px)
        self.sam_mask_decoder = MaskDecoder(sam1=config.is_nano)
        self.memory_encoder = MemoryEncoder()
        self.memory_attention = MemoryAttention(config.memory_layers)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.obj_ptr_proj = MLP((WIDTH, WIDTH, WIDTH, WIDTH))
        self.maskmem_tpos_enc = nn.Parameter(torch.randn(MAPS, 1, 1, MEMORY_WIDTH) * 0.02)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, WIDTH))  # in every checkpoint, used by none
        self.no_obj_ptr = nn.Parameter(torch.randn(1, WIDTH) * 0.02)
        if config.revision == "2.1":
            self.obj_ptr_tpos_proj = nn.Linear(WIDTH, MEMORY_WIDTH)
            self.no_obj_embed_spatial = nn.Parameter(torch.randn(1, MEMORY_WIDTH) * 0.02)

    @property
    def dtype(self) -> torch.dtype:
        return self.no_mem_embed.dtype

    @property
    def device(self) -> torch.device:
        return self.no_mem_embed.device

    def take_pictures_of(self, image_px: int) -> None:
        """Take pictures of another input size from now on; no weight depends on it."""
        self.config = replace(self.config, image_px=image_px)
        self.sam_prompt_encoder.image_px = image_px

    def see(self, pixels: Tensor) -> Features:
        """Encode one normalised picture `[1, 3, h, w]`; sides are multiples of 32 (nano: 16)."""
        neck, decoder = self.image_encoder.neck, self.sam_mask_decoder
        trunk, seen = self.image_encoder.trunk, pixels.to(self.dtype)
        colours = colours_of(coloured(functional.avg_pool2d(pixels.float(), CELL)))
        if isinstance(neck, FpnNeck):
            image, fine = neck(trunk(seen), (decoder.conv_s0, decoder.conv_s1))
            return Features(image, fine, colours, fine[0][0])
        early, deep = trunk(seen)
        return Features(neck(deep), None, colours, early[0])

    def recall(self, features: Features, recollections: Sequence[Recollection]) -> Tensor:
        """Condition a picture on what each object remembers, `[b, 256, h, w]`.

        An object without any memory sees the picture plus a learned constant, as on a first prompted frame.
        """
        blank = (features.image + self.no_mem_embed.view(1, WIDTH, 1, 1)).expand(len(recollections), -1, -1, -1)
        with_memory = [i for i, r in enumerate(recollections) if r.maps]
        if not with_memory:
            return blank
        tokens = [self._tokens(recollections[i], features.size_hw) for i in with_memory]
        recalled: Tensor = self.memory_attention(features.image, tokens)
        if self.config.is_nano:
            # Differs: what memory says is added to the picture, so that it can begin to be trained by saying nothing.
            recalled = features.image + recalled
        if len(with_memory) == len(recollections):
            return recalled
        return blank.index_copy(0, torch.tensor(with_memory, device=blank.device), recalled)

    def carry(self, features: Features, recollections: Sequence[Recollection]) -> Tensor:
        """Find where each object should be by how the picture looks there, as logits `[b, 1, 4h, 4w]`; nano only."""
        return carry(features.looks, features.size_hw, [r.sightings for r in recollections])

    def decode(
        self, image: Tensor, fine: tuple[Tensor, Tensor] | None, points: Points | None, logits: Tensor | None
    ) -> Decoded:
        """Answer a prompt on conditioned pictures `[b, 256, h, w]`.

        At most one point per object means an ambiguous prompt: of three readings the one with the best predicted IoU
        is taken. With more, the single answer, unless it is unstable. `logits` `[b, 1, 4h, 4w]` is a dense prompt.
        """
        ambiguous = points is None or points.ambiguous
        return self.choose(self.answer(image, fine, points, logits), ambiguous=ambiguous)

    def answer(
        self, image: Tensor, fine: tuple[Tensor, Tensor] | None, points: Points | None, logits: Tensor | None
    ) -> Answers:
        """Give every answer that the decoder has to a prompt; training judges them all."""
        return self._answers(image, fine, points, logits)

    def choose(self, answers: Answers, *, ambiguous: bool, carried: Tensor | None = None) -> Decoded:
        """Take one of the answers for each object, as `decode` says.

        Of a frame to which nano carried masks, the answer nearest to what was `carried`, and the two added: the
        decoder knows edges, matching knows what belongs to the object (`docs/nano.md`).
        """
        rows = torch.arange(len(answers.ious), device=answers.ious.device)
        best = _whole(answers) if ambiguous and self.config.is_nano else answers.ious[:, 1:].argmax(1) + 1
        if carried is not None:
            chosen = _nearest(answers, carried)
        else:
            chosen = best if ambiguous else torch.where(stable(answers.logits[:, 0]), 0, best)
        # The pointer of an unambiguous prompt comes from token 0 even where its mask was unstable.
        token = answers.tokens[rows, best if ambiguous else torch.zeros_like(best)]
        present = answers.scores > 0
        logits = with_evidence(answers, carried).logits[rows, chosen][:, None]
        return Decoded(
            torch.where(present[:, :, None, None], logits, ABSENT),
            answers.ious[rows, chosen],
            answers.scores[:, 0],
            self._pointer(token, present),
        )

    def adopt(self, features: Features, mask: Tensor) -> Decoded:
        """Take a person's mask `[b, 1, 16h, 16w]` (0 or 1) as the answer; the decoder only makes the pointer."""
        logits = mask * (2 * CERTAIN) - CERTAIN
        prompt = self.mask_downsample(mask.to(self.dtype))
        image = features.image.expand(len(mask), -1, -1, -1)
        answers = self._answers(image, features.fine, None, prompt)
        present = mask.flatten(1).any(1, keepdim=True)
        pointer = self._pointer(answers.tokens[:, 0], answers.scores > 0)
        kept = present.to(pointer.dtype)
        return Decoded(
            resize(logits, (4 * features.size_hw[0], 4 * features.size_hw[1]), antialias=True),
            mask.new_ones(len(mask)),
            torch.where(present[:, 0], CERTAIN, -CERTAIN),
            kept * pointer + (1 - kept) * self.no_obj_ptr,
        )

    def remember(self, features: Features, logits: Tensor, scores: Tensor, *, prompted: bool) -> Tensor:
        """Encode masks `[b, 1, 4h, 4w]` into memory maps `[b, 64, h, w]`; prompted masks are binarised first."""
        size_hw = (STRIDE * features.size_hw[0], STRIDE * features.size_hw[1])
        full = resize(logits.float(), size_hw)
        mask = ((full > 0).float() if prompted else full.sigmoid()) * 20.0 - 10.0
        maps: Tensor = self.memory_encoder(features.image, mask.to(self.dtype))
        if self.config.revision == "2.1":
            absent = (scores <= 0).to(maps.dtype)[:, None, None, None]
            maps = maps + absent * self.no_obj_embed_spatial[..., None, None]
        return maps

    def sight(self, features: Features, logits: Tensor, scores: Tensor, carried: Tensor | None) -> list[Sighting]:
        """Note how the objects of masks `[b, 1, 4h, 4w]` with occlusion scores `[b]` look; nano only.

        A prompted mask is noted as the person saw it. A tracked one is believed by half, and what was carried to its
        frame by the other half, so that one wrong answer is not the next frame's truth. Of an absent one the frame is
        noted without it.
        """
        inside = logits[:, 0] > 0
        mask = inside[:, None].float() if carried is None else (logits.sigmoid() + carried.sigmoid()) / 2
        covers, palettes = cover_of(mask.detach().float()), palettes_of(features.colours, inside)
        targets = [learned(features.early, one) if carried is None else None for one in inside]
        trust = TRUST if carried is None else 0.0
        seen = [Sighting(features.looks, *one, trust) for one in zip(covers, palettes, targets, strict=True)]
        return [one if score > 0 else one.without() for one, score in zip(seen, scores.tolist(), strict=True)]

    def _answers(
        self, image: Tensor, fine: tuple[Tensor, Tensor] | None, points: Points | None, logits: Tensor | None
    ) -> Answers:
        encoder, size_hw = self.sam_prompt_encoder, (image.shape[-2], image.shape[-1])
        if points is None:
            nowhere = torch.zeros(len(image), 1, 2, device=image.device)
            points = Points(nowhere, torch.full((len(image), 1), PADDING, device=image.device))
        answers: Answers = self.sam_mask_decoder(
            image,
            encoder.positions(size_hw),
            encoder.points(points.xy, points.labels),
            encoder.mask(logits, size_hw),
            fine,
        )
        return answers

    def _pointer(self, token: Tensor, present: Tensor) -> Tensor:
        """Project a mask token to an object pointer; absent objects all have the same one."""
        kept = present.to(token.dtype)
        projected: Tensor = self.obj_ptr_proj(token)
        return kept * projected + (1 - kept) * self.no_obj_ptr

    def _tokens(self, recollection: Recollection, size_hw: tuple[int, int]) -> Tokens:
        place = sine_map(*size_hw, MEMORY_WIDTH, self.device).flatten(1).T.to(self.dtype)
        values = [m.to(self.dtype).flatten(1).T for m, _ in recollection.maps]
        codes = [place + self.maskmem_tpos_enc[slot, 0] for _, slot in recollection.maps]
        pieces = WIDTH // MEMORY_WIDTH
        if recollection.pointers:
            pointers = torch.stack([p for p, _ in recollection.pointers]).to(self.dtype)
            values.append(pointers.reshape(-1, MEMORY_WIDTH))
            codes.append(self._times(recollection).repeat_interleave(pieces, dim=0))
        return Tokens(torch.cat(values), torch.cat(codes), pieces * len(recollection.pointers))

    def _times(self, recollection: Recollection) -> Tensor:
        """Code how far away each pointer is, `[n, 64]`; revision 2.0 says nothing of it."""
        if self.config.revision == "2.0":
            return torch.zeros(len(recollection.pointers), MEMORY_WIDTH, dtype=self.dtype, device=self.device)
        distances = torch.tensor([float(d) for _, d in recollection.pointers], device=self.device)
        codes: Tensor = self.obj_ptr_tpos_proj(sine_times(distances / recollection.reach, WIDTH).to(self.dtype))
        return codes


def with_evidence(answers: Answers, carried: Tensor | None) -> Answers:
    """Add what was carried, logits `[b, 1, 4h, 4w]`, to every answer, as they are shown; None adds nothing."""
    return answers if carried is None else replace(answers, logits=answers.logits + evidence(carried))


def _whole(answers: Answers) -> Tensor:
    """Differs: of three readings nano takes the largest that is plausible, `[b]`: one click means the whole thing.

    Its predicted IoUs do not tell a part from a whole (`docs/nano.md`); who means a part clicks on the rest as well.
    """
    ious = answers.ious[:, 1:]
    plausible = ious >= ious.amax(dim=1, keepdim=True) - PLAUSIBLE
    areas = (answers.logits[:, 1:] > 0).sum(dim=(2, 3))
    return torch.where(plausible, areas, -1).argmax(dim=1) + 1


def _nearest(answers: Answers, carried: Tensor) -> Tensor:
    """Return which answer overlaps most with what was carried, `[b]`, both taken as probabilities."""
    found, expected = answers.logits.sigmoid(), carried.sigmoid()
    shared = torch.minimum(found, expected).sum(dim=(2, 3))
    return (shared / torch.maximum(found, expected).sum(dim=(2, 3))).argmax(dim=1)


def normalise(pixels: Tensor, *, size_hw: tuple[int, int]) -> Tensor:
    """Turn an 8-bit picture `[h, w, 3]` into network input `[1, 3, *size_hw]`, by ImageNet's mean and deviation."""
    picture = pixels.permute(2, 0, 1)[None].float() / 255
    shrinks = size_hw[0] < picture.shape[2] or size_hw[1] < picture.shape[3]
    picture = functional.interpolate(picture, size_hw, mode="bilinear", align_corners=False, antialias=shrinks)
    mean, deviation = _statistics(picture)
    return (picture - mean) / deviation


def coloured(picture: Tensor) -> Tensor:
    """Turn network input `[1, 3, h, w]` back into red, green and blue, 0..1."""
    mean, deviation = _statistics(picture)
    return picture * deviation + mean


def _statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = (picture.new_tensor(of).view(3, 1, 1) for of in (MEAN, DEVIATION))
    return mean, deviation
