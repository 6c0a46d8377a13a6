"""``l2o meta-train``: meta-training of a learned optimizer. Only a run imports what needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from typing_extensions import Self

from l2o_splat.meta.options import MetaOptions
from l2o_splat.meta.presets import PresetName, find_preset
from l2o_splat.meta.rules import GainRuleOptions, TrainedRule
from l2o_splat.scenes.capture_names import CaptureNameError, CaptureSource, find_capture
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import CaptureRanges, Schedule

if TYPE_CHECKING:
    from l2o_splat.scenes.capture import Capture
    from l2o_splat.training.sources import Source

ReadCapture = Callable[..., "Capture"]
"""Reads a capture of any nerfstudio format: ``(data, dataparser, scale, hold_out)``."""


@dataclass(frozen=True)
class CaptureLoader:
    """Reads a capture of the user, without the views that the benchmark holds out.

    Equal captures have equal representations, by which a resumed run recognises its source.
    """

    read: ReadCapture = field(repr=False)
    source: CaptureSource
    scale: float
    """Factor of the size of the photographs."""

    def __call__(self) -> Capture:
        data = None if self.source.data is None else Path(self.source.data)
        return self.read(data, self.source.dataparser, self.scale, True)


@dataclass(frozen=True)
class DataOptions:
    """Which scenes are trained on."""

    captures: tuple[str, ...] = ()
    """Folders of real captures, in any format nerfstudio reads; their views 0, 8, 16, ... are left out."""
    scale: float = 0.25
    """Photographs of captures are scaled by this factor, in memory."""
    chunks: ChunkOptions = field(default_factory=ChunkOptions)
    """Scenes of RealEstate10K, DL3DV, or of `l2o chunks`."""
    capture_share: float = 0.5
    """Probability that a scene is one of the captures or of the chunks (equally often if there are both); the others
    are procedural."""
    seed: int = 0
    """Seed of the procedural scenes, and of the order and views of the chunks."""
    ranges: CaptureRanges = field(default_factory=CaptureRanges)
    """Sizes of the procedural captures, also of those for validation."""
    validation_captures: int = 4
    """Number of procedural captures, never trained on, on which curves and the best weights are measured."""

    def __post_init__(self) -> None:
        if not 0 < self.capture_share <= 1:
            raise TrainingError(f"--data.capture-share is {self.capture_share}; a share above 0, up to 1, is needed.")
        if self.validation_captures < 1:
            raise TrainingError("--data.validation-captures is below 1; at least one is needed to measure progress.")

    def source(self, read: ReadCapture) -> Source:
        """Captures, chunks, procedural scenes, or a mixture.

        Raises:
            ChunkError: If the folder of chunks is not usable.
            TrainingError: If an entry of ``captures`` names none, or there are no views or points for the chunks.
        """
        from l2o_splat.training.chunk_source import ChunkSource
        from l2o_splat.training.sources import CapturesSource, MixtureSource, ProceduralSource

        real: list[Source] = []
        if self.captures:
            real.append(CapturesSource([CaptureLoader(read, named, self.scale) for named in self.named_captures()]))
        if self.chunks.folder is not None:
            real.append(ChunkSource(self.chunks, self.seed))
            real[-1].prepare()
        parts = [(self.capture_share / len(real), source) for source in real]
        if not parts or self.capture_share < 1:
            parts.append((1 - self.capture_share if parts else 1.0, ProceduralSource(self.seed, self.ranges)))
        return parts[0][1] if len(parts) == 1 else MixtureSource(parts, self.seed)

    def check_points(self, needing: str) -> None:
        """Refuse chunks without points.

        Raises:
            TrainingError: If chunks are named and their points are not; the message says what is ``needing`` them.
        """
        if self.chunks.folder is not None and self.chunks.points is None:
            raise TrainingError(
                f"{needing} needs the sparse points of every scene, and chunks hold none; give --data.chunks.points a "
                "folder with them."
            )

    def describe(self) -> str:
        """Description for the training record."""
        text = f"procedural scenes, seed {self.seed}, {self.ranges}"
        real = [self.chunks.describe()] if self.chunks.folder is not None else []
        if self.captures:
            names = ", ".join(source.scene for source in self.named_captures())
            real.insert(0, f"captures ({names}) at scale {self.scale}")
        return f"{self.capture_share:.0%} {' and '.join(real)}, otherwise {text}" if real else text

    def named_captures(self) -> list[CaptureSource]:
        """Where the captures are.

        Raises:
            TrainingError: If an entry of ``captures`` names none.
        """
        try:
            return [find_capture(text) for text in self.captures]
        except CaptureNameError as error:
            raise TrainingError(str(error)) from error


@dataclass
class MetaTrain:
    """Train a learned optimizer on procedural scenes, captures of your own, chunks of RealEstate10K or DL3DV, or a
    mixture.

    --preset gain trains our small rule; paper-dense and paper-sparse train the network of Learn2Splat as the paper
    does, from points or from ReSplat's Gaussians. `l2o meta-train --preset NAME --help` shows the values of a preset.

    Each meta-iteration starts a fresh scene, or resumes one from a buffer, takes some recorded steps with the rule, and
    improves the rule by what the steps were worth on views that they did not see. The result is OUT/best.safetensors
    (and .json with the training record), for
    `ns-train learn2splat --optimizers.gaussians.optimizer.weights OUT/best.safetensors`.

    The same command resumes a run that was stopped; SIGTERM and Ctrl-C save first.
    """

    out: Path
    """Folder of the run: weights, curves, saved states."""
    preset: PresetName = "gain"
    """Sets the defaults of all other options."""
    training: MetaOptions = field(default_factory=MetaOptions)
    """Options that the weights depend on."""
    rule: Annotated[TrainedRule, tyro.conf.AvoidSubcommands] = field(default_factory=GainRuleOptions)
    """The rule that is trained."""
    data: DataOptions = field(default_factory=DataOptions)
    """The scenes that it is trained on."""
    schedule: Schedule = field(default_factory=Schedule)
    """When a run evaluates and saves."""
    devices: int = 1
    """Processes on this machine, each with one scene (or --training.scenes-per-iteration), and a GPU if there are."""
    nodes: int = 1
    """Machines; start the command on each of them, with the environment variables of torchrun."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes GPUs if there are any."""

    @classmethod
    def of_preset(cls, name: str) -> Self:
        """The defaults of a preset; the folder is still to be named.

        Raises:
            KeyError: If there is no such preset.
        """
        preset = find_preset(name)
        return cls(out=tyro.MISSING, preset=name, training=preset.training, rule=preset.rule)

    def run(self, read: ReadCapture) -> None:
        """Train.

        Args:
            read: Reads captures of the user.

        Raises:
            TrainingError: If Lightning Fabric is not installed, an entry of ``data.captures`` names no capture, or
                chunks lack the points that episodes start from.
        """
        if self.training.episode.start == "points":
            self.data.check_points("--training.episode.start points")
        from l2o_splat.meta.evaluation import Evaluation, captures_for
        from l2o_splat.meta.record import MetaRecord
        from l2o_splat.meta.starts import ReSplatStart, start_from_points
        from l2o_splat.meta.trainer import MetaTrainer
        from l2o_splat.training.processes import start_fabric
        from l2o_splat.training.sources import VALIDATION_SEEDS, ProceduralSource

        fabric = start_fabric(self.accelerator, self.devices, self.nodes)
        source = self.data.source(read)
        start, feature_width = start_from_points, None
        if self.training.episode.start == "resplat":
            start = ReSplatStart.from_weights(self.training.episode.start_weights, fabric.device)
            feature_width = start.feature_width
            if start.needs_points:
                self.data.check_points(f"The depth range of {self.training.episode.start_weights}")
        rule = self.rule.build(feature_width)
        validation = Evaluation(
            (),
            sh_degree=self.training.episode.sh_degree,
            context_views=8 if self.training.episode.start == "resplat" else None,
            start=start,
        )
        validation_source = ProceduralSource(ranges=self.data.ranges, seeds=VALIDATION_SEEDS)
        captures = captures_for(validation_source, self.data.validation_captures, validation, fabric.device)
        validation = replace(validation, captures=captures)
        trainer = MetaTrainer(fabric, rule, source, validation, self.training, self.schedule, self.out, start)
        if fabric.global_rank != 0:
            trainer.run(lambda *_: None)
            return
        with MetaRecord(self.out, self.data.describe(), self.training.iterations) as record:
            trainer.run(record)
            print(record.outcome(trainer))
