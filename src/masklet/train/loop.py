"""The training loop: recipe and data in; a log, curves and weights out that `--model` takes.

Everything random comes from the seed and the number of the step, so that a run which was interrupted goes on with the
same clips, prompts and losses. The result is the moving average of the weights, good at any time.
"""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from masklet.errors import BadWeights, Problem
from masklet.files import draft_path, make_folder, refusals
from masklet.model.network import STRIDE, Network
from masklet.train.clips import Clip, FolderSource, Mixture, Source
from masklet.train.curves import LOG, draw_curves, read_log
from masklet.train.losses import Losses, mean
from masklet.train.prompting import Person
from masklet.train.recipes import RECIPES, Limits, Recipe, members_of
from masklet.train.synthetic import SyntheticSource
from masklet.train.unroll import Unrolled, unroll
from masklet.weights import HASH_CHARACTERS, load_network, save_network

ASPECTS = (16 / 9, 16 / 9, 16 / 9, 4 / 3, 1.0, 9 / 16)
"""Shapes of pictures, width to height, drawn equally often."""
WEIGHT_DECAY = 0.01
MOST_GRADIENT = 1.0
"""Gradients are scaled down to this norm."""
AVERAGE = 0.998
"""Share of the old in each step's moving average of the weights: of the last 500 steps, about."""
WARM_STEPS = 50
FLAT = 0.5
"""The rate is constant for this share of a run, then goes down in a line to nothing."""
DOUBT = 3.0
"""Occlusion logit of every frame when training of the score begins: odds of 20 to 1 that the object is there."""
SILENT = ("self_attn.out_proj.weight", "cross_attn_image.out_proj.weight", "linear2.weight")
"""Ends of the names of memory attention's weights that are zero while it is untrained."""
PART_SHARE = 0.3
"""How often a part of a thing is chosen where a whole thing is once."""
MOST_START = 12
"""Tracking begins up to this many frames after the prompt, so that distances in time vary (memory only)."""
SAVE_SECONDS = 300.0
STATE, MODEL = "state.pt", "model.safetensors"


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a step learns from."""

    side_px: int
    """The network's input size."""
    clips: list[tuple[Clip, np.random.Generator]]
    """Each with the generator that decides on its prompts."""


@dataclass(eq=False)
class Run:
    """A training in a folder."""

    recipe: Recipe
    network: Network
    source: Source
    out: Path
    limits: Limits
    seed: int = 0
    step: int = 0
    seconds: float = 0.0
    narrow: bool = field(default_factory=lambda: _narrow_pays())
    """Compute in bfloat16; weights and losses stay in float32."""
    average: Network = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.network.train().requires_grad_(False)
        groups = []
        for name, rate in self.recipe.rates.items():
            members = [p for _, p in members_of(self.network, name)]
            for parameter in members:
                parameter.requires_grad_(True)
            # Norms, biases and tokens are not pulled towards nothing.
            for decay, chosen in ((WEIGHT_DECAY, True), (0.0, False)):
                some = [p for p in members if (p.dim() > 1 and min(p.shape[:2]) > 1) == chosen]
                groups.append({"params": some, "lr": rate, "rate": rate, "weight_decay": decay})
        self.optimiser = torch.optim.AdamW(groups)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)

    @cached_property
    def frozen(self) -> str:
        """Short name of what training leaves as it is, and of the shapes of the rest: `save` keeps only the rest."""
        digest = hashlib.sha256()
        trained = {name for name, p in self.network.named_parameters() if p.requires_grad}
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {name in trained}".encode())
            if name not in trained:
                digest.update(tensor.cpu().float().contiguous().numpy())
        return digest.hexdigest()[:HASH_CHARACTERS]

    @property
    def done(self) -> bool:
        return self.limits.share(self.step, self.seconds) >= 1

    def draw(self, step: int) -> Drawn:
        """Draw what a step learns from."""
        rng = np.random.default_rng((self.seed, step))
        side = int(rng.choice(self.recipe.long_sides_px or (self.network.config.image_px,)))
        clips = []
        for own in rng.spawn(self.recipe.clips):
            picture = own.random() < self.recipe.picture_share
            size_hw = _size_hw(side, float(own.choice(ASPECTS)))
            clip = self.source.clip(own, frames=1 if picture else self.recipe.frames, size_hw=size_hw)
            most = self.recipe.objects * (3 if picture else 1)
            clips.append((clip.only(_some(own, clip, most)), own))
        return Drawn(side, clips)

    def learn(self, drawn: Drawn) -> dict[str, Any]:
        """Take one step, and return its line of the log."""
        began = time.perf_counter()
        rate = self._set_rate()
        self.optimiser.zero_grad(set_to_none=True)
        self.network.take_pictures_of(drawn.side_px)
        unrolled, losses = [], []
        kind = self.network.device.type
        for clip, rng in drawn.clips:
            start = int(rng.integers(MOST_START + 1)) if self.network.config.remembers else 0
            with torch.autocast(kind, torch.bfloat16, enabled=self.narrow):
                result = unroll(self.network, clip, Person(clip, rng), start=start)
            if not result.steps:  # nothing in it could be known
                continue
            unrolled.append(result)
            losses.append(mean([step.verdict for step in result.steps]))
            (losses[-1].total / len(drawn.clips)).backward()
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, MOST_GRADIENT)
        if not bool(norm.isfinite()):
            raise BadWeights(f"step {self.step}: gradients are not finite; the last checkpoint is in {self.out}")
        self.optimiser.step()
        self._average()
        self.step += 1
        seconds = time.perf_counter() - began
        self.seconds += seconds
        line = {"step": self.step, **_summary(losses), **_overlaps(unrolled)}
        sizes = {"side_px": drawn.side_px, "objects": sum(clip.masks.shape[1] for clip, _ in drawn.clips)}
        return line | {"gradient": round(float(norm), 3), "rate": rate, "seconds": round(seconds, 2)} | sizes

    def save(self) -> None:
        """Write the averaged weights, all that is needed to go on, and the curves; each by rename."""
        notes = {"recipe": self.recipe.name, "steps": str(self.step), "seed": str(self.seed)}
        save_network(self.average, self.out / MODEL, metadata=notes)
        names = [name for name, p in self.network.named_parameters() if p.requires_grad]
        state = {
            "recipe": self.recipe.name,
            "frozen": self.frozen,
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "optimiser": self.optimiser.state_dict(),
            "weights": {name: self.network.get_parameter(name) for name in names},
            "average": {name: self.average.get_parameter(name) for name in names},
        }
        path = self.out / STATE
        with refusals(path), draft_path(path) as draft:
            torch.save(state, draft)
        draw_curves(self.out)

    def resume(self) -> None:
        """Go on from what `save` wrote, with its seed, and forget what the log holds of later steps."""
        state = self._read_state()
        self.network.load_state_dict(state["weights"], strict=False)
        self.average.load_state_dict(state["average"], strict=False)
        self.optimiser.load_state_dict(state["optimiser"])
        self.seed, self.step, self.seconds = state["seed"], state["step"], state["seconds"]
        lines = [line for line in read_log(self.out) if line["step"] <= self.step]
        with draft_path(self.out / LOG) as draft:
            draft.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _read_state(self) -> dict[str, Any]:
        path = self.out / STATE
        if not path.is_file():
            raise BadWeights(f"{path} does not exist: nothing to resume there; start without --resume")
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.network.device, weights_only=True)
        except Exception as error:  # torch's reader meets damaged bytes: it may fail in any way
            reason = str(error).split("\n")[0].split(". ")[0]
            raise BadWeights(
                f"{path} is damaged ({reason}): begin again in another folder; --model {self.out / MODEL} begins with "
                "the average of the weights so far"
            ) from error
        if (state.get("recipe"), state.get("frozen")) != (self.recipe.name, self.frozen):
            began = state.get("recipe", "unknown, of an earlier masklet")
            raise BadWeights(
                f"{path} was made with another recipe or model (its recipe: {began}): resume with those it began with, "
                "or begin again in another folder"
            )
        return state

    def _set_rate(self) -> float:
        done = self.limits.share(self.step, self.seconds)
        share = min(1.0, (self.step + 1) / WARM_STEPS) * min(1.0, (1 - done) / (1 - FLAT))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * share
        return round(share, 4)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for old, new in pairs:
            if new.requires_grad:
                old.lerp_(new, 1 - keep)


def prepare(
    recipe: str,
    data: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "nano",
    limits: Limits,
    seed: int = 0,
) -> Run:
    """Set up a training by the names that the command line takes."""
    chosen = RECIPES[recipe]
    network = load_network(model, dtype="float32")
    if recipe != "finetune" and not network.config.is_nano:
        raise BadWeights(f"recipe {recipe} is for nano, but {model} is another model: use --recipe finetune")
    if network.config.is_nano:
        if "score" in chosen.rates:
            _doubt(network)
        if "memory" in chosen.rates and not network.config.remembers:
            _begin_to_remember(network, seed)
    return Run(
        chosen, network, open_sources(data), Path(out), replace(limits, steps=limits.steps or chosen.steps), seed
    )


@torch.no_grad()
def _doubt(network: Network) -> None:
    """Let an occlusion score that was never trained be less certain: from the one it was made with, the way is long."""
    head = "sam_mask_decoder.pred_obj_score_head.layers.2"
    if not bool(network.get_parameter(f"{head}.weight").any()):
        network.get_parameter(f"{head}.bias").fill_(DOUBT)


@torch.no_grad()
def _begin_to_remember(network: Network, seed: int) -> None:
    """Let memory attention listen, and say nothing yet: what it adds to a picture is scaled by its last norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.memory_attention.named_parameters():
        if name.endswith(SILENT) and not bool(parameter.any()):
            bound = parameter.shape[1] ** -0.5  # as PyTorch begins a linear layer
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * bound - bound)
    network.memory_attention.norm.weight.zero_()
    network.memory_attention.norm.bias.zero_()
    network.config = replace(network.config, remembers=True)


def open_sources(folders: Sequence[str | Path]) -> Source:
    """Open datasets (`JPEGImages` and `Annotations`) and folders of cut-outs and backgrounds, each once."""
    opened: dict[Path, Source] = {}
    for folder in map(Path, folders):
        if folder not in opened:
            made = (folder / "cutouts").is_dir()
            opened[folder] = SyntheticSource(folder) if made else FolderSource(folder)
    return Mixture([opened[Path(folder)] for folder in folders])


def train(run: Run, *, resume: bool = False, report: Callable[[dict[str, Any]], None] = lambda line: None) -> Path:
    """Train until the limits are met, and return the path of the weights.

    `report` hears each step's line of the log and may raise `Cancelled`. After that, and after any other `Problem`, as
    with a picture that cannot be read, the steps that were taken are kept, and `resume` goes on there.
    """
    make_folder(run.out)
    if resume:
        run.resume()
    elif (run.out / STATE).exists():
        raise BadWeights(f"{run.out} already holds a training: go on with --resume, or choose another folder")
    saved = time.monotonic()
    with (run.out / LOG).open("a" if resume else "w", buffering=1) as log:
        try:
            for line in _lines(run):
                log.write(json.dumps(line) + "\n")
                report(line)
                if time.monotonic() - saved > SAVE_SECONDS:
                    run.save()
                    saved = time.monotonic()
        except Problem:
            if run.step:  # else there is nothing to keep, and the folder stays free for another beginning
                run.save()
            raise
    run.save()
    return run.out / MODEL


def _lines(run: Run) -> Iterator[dict[str, Any]]:
    """Take steps; the next one's clips are drawn meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(run.draw, run.step)
        while not run.done:
            began = time.perf_counter()
            drawn = ahead.result()
            waited = time.perf_counter() - began
            run.seconds += waited
            ahead = pool.submit(run.draw, run.step + 1)
            yield run.learn(drawn) | {"waited": round(waited, 2)}
        ahead.cancel()


def _narrow_pays() -> bool:
    """Say where bfloat16 is quicker: on an accelerator, and on processors that have it; others only imitate it."""
    return torch.accelerator.is_available() or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _size_hw(side: int, aspect: float) -> tuple[int, int]:
    short = round(side * min(aspect, 1 / aspect) / STRIDE) * STRIDE
    return (short, side) if aspect >= 1 else (side, short)


def _some(rng: np.random.Generator, clip: Clip, most: int) -> list[int]:
    """Choose objects, whole things rather than parts."""
    count = clip.masks.shape[1]
    odds = np.array([PART_SHARE if row in clip.parts else 1.0 for row in range(count)])
    chosen = rng.choice(count, size=min(most, count), replace=False, p=odds / odds.sum())
    return sorted(np.asarray(chosen).tolist())


def _summary(losses: list[Losses]) -> dict[str, float]:
    if not losses:
        return {}

    def average(values: list[Tensor]) -> float:
        return round(float(torch.stack(values).mean().detach()), 6)

    return {
        "loss": average([one.total for one in losses]),
        "focal": average([one.focal for one in losses]),
        "dice": average([one.dice for one in losses]),
        "iou": average([one.iou for one in losses]),
        "occlusion": average([one.occlusion for one in losses]),
    }


def _overlaps(unrolled: list[Unrolled]) -> dict[str, float]:
    """Return the mean overlap of the chosen masks with the truth, by what was asked."""
    by_kind: dict[str, list[Tensor]] = {}
    for result in unrolled:
        for step in result.steps:
            by_kind.setdefault(f"j_{step.asked}", []).append(step.overlaps[step.verdict.visible])
    joined = {name: torch.cat(values) for name, values in by_kind.items()}
    return {name: round(float(values.mean()), 4) for name, values in joined.items() if len(values)}
