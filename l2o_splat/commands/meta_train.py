"""``l2o meta-train``, with captures that nerfstudio reads."""

from __future__ import annotations

from dataclasses import dataclass

from l2o_splat.meta.command import MetaTrain


@dataclass
class MetaTrainCommand(MetaTrain):
    __doc__ = MetaTrain.__doc__

    def run(self) -> None:
        """Train.

        Raises:
            L2OError: If the training cannot start, resume, or read a capture.
        """
        self.data.named_captures()  # Before anything slow: a name may be wrong.
        # Only here: this imports nerfstudio, which takes seconds.
        from l2o_splat.plugin.training_captures import read_training_capture

        super().run(read_training_capture)
