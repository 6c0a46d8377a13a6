"""nerfstudio's viewer on a scene of ours: where it opens, what it tells of the run, and how small its images get.

nerfstudio looks for ``ViewerControl`` objects in a pipeline and hands each its viewer, while training and in
``ns-viewer``. :class:`SceneViewer` is one. Three things of nerfstudio have no option: that the cameras are shown, which
is changed as soon as they are drawn, the camera that a browser starts with, and the least size of an image (30 rows in
``nerfstudio/viewer/render_state_machine.py``), which are changed for each browser that connects.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import viser
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl

from l2o_splat.plugin.shown_values import ShownValues
from l2o_splat.plugin.viewer_panel import RunHistory, panel
from l2o_splat.progress import RunProgress, read_progress

if TYPE_CHECKING:
    from l2o_splat.plugin.pipeline import L2OPipeline

LEAST_PIXELS = 180**2
"""Pixels of an image while the camera moves, at least: a scene can be recognised, and a CPU draws it at once."""
WIDEST = math.radians(110)
"""Widest vertical field of view that a narrow window gets."""
PHONE = 0.75
"""Below this ratio of width to height viser puts its panel at the bottom of the window, ..."""
COVERED = 0.6
"""... where it covers this share of the picture until it is folded."""
SECONDS_BETWEEN_PANELS = 1.0


class SceneViewer(ViewerControl):
    """Opens at the first training camera, and shows how the run goes.

    Args:
        pipeline: That is viewed.
    """

    def __init__(self, pipeline: L2OPipeline) -> None:
        self._pipeline = pipeline
        self._history, self._shown = RunHistory(), RunProgress()
        self._shown_at = 0.0

    def _setup(self, viewer: Viewer) -> None:
        """nerfstudio's hook: the viewer is made, and no browser has connected yet."""
        super()._setup(viewer)
        trainer = viewer.trainer
        self._pipeline.model.shown_values = ShownValues(self._pipeline.insight, self._selected)
        self._hide_cameras_at_first(viewer)
        # Below nerfstudio's two lines about step and resolution, above its tabs. The path, at which nothing is looked
        # for, keeps viser from warning that there is none.
        order = viewer.stats_markdown.order + 0.5
        self._panel = viewer.viser_server.gui.add_markdown("", image_root=Path(), order=order)
        if trainer is None:
            finished = read_progress(viewer.log_filename.parent)
            _hide_training_buttons(viewer)
            self.show(finished or RunProgress("finished", num_gaussians=self._pipeline.model.num_points))
        else:
            trainer.progress.listeners.append(self.show)
            self.show(trainer.progress.current)
        viewer.viser_server.on_client_connect(self._welcome)

    def _hide_cameras_at_first(self, viewer: Viewer) -> None:
        """Leave the photographs out of the picture until they are asked for: the first one would hide the scene."""
        draw_cameras = viewer.init_scene

        def draw_hidden_cameras(*args: object, **kwargs: object) -> None:
            draw_cameras(*args, **kwargs)
            viewer.set_camera_visibility(False)
            viewer.toggle_cameravis_button()

        viewer.init_scene = draw_hidden_cameras

    def _selected(self) -> set[str]:
        """Names of the outputs that the viewer shows."""
        controls = self.viewer.control_panel
        return {controls.output_render, *([controls.split_output_render] if controls.split else [])}

    def show(self, progress: RunProgress) -> None:
        """Show a report of the run, if the phase is another one or the last report was shown a while ago."""
        self._history.add(progress)
        now = time.monotonic()
        if progress.phase == self._shown.phase and now - self._shown_at < SECONDS_BETWEEN_PANELS:
            return
        self._shown, self._shown_at = progress, now
        self._panel.content = panel(progress, self._history)
        self.viewer.update_step(progress.step)
        if progress.is_over and self.viewer.ready:
            # nerfstudio would leave the button to pause, and the image of some step before the last.
            _hide_training_buttons(self.viewer)
            self.viewer._trigger_rerender()

    def _welcome(self, client: viser.ClientHandle) -> None:
        """A browser has connected, and nerfstudio has made the thread that draws for it."""
        machine = self.viewer.render_statemachines.get(client.client_id)
        if machine is not None:
            draw_large_enough(machine)
        cameras = self._pipeline.datamanager.train_dataset.cameras
        fov = opening_fov(float(cameras.width[0] / cameras.fx[0]), float(cameras.height[0] / cameras.fy[0]), client)
        aim_below = COVERED * math.tan(fov / 2) if client.camera.aspect < PHONE else 0.0
        place = opening_camera(
            cameras.camera_to_worlds.numpy(force=True), self._pipeline.model.means.numpy(force=True), aim_below
        )
        with client.atomic():
            client.camera.fov = fov
            client.camera.position, client.camera.look_at, client.camera.up_direction = place


def opening_camera(
    poses: np.ndarray, means: np.ndarray, aim_below: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the viewer opens: position of the first camera, what it looks at, and up; in viser's units.

    It orbits around a point on the axis of the camera, as far away as half of the Gaussians in front of it. Up is the
    mean of all cameras, so that the horizon is level even if the first photograph was taken at a tilt.

    Args:
        poses: ``[v, 3, 4]``, camera-to-world, OpenGL axes, scene units.
        means: ``[n, 3]``, scene units.
        aim_below: How far below the axis to look instead, per distance, so that the scene comes up in the window.
    """
    position, forward = poses[0, :, 3], -poses[0, :, 2]
    depths = (means - position) @ forward
    depths = depths[np.isfinite(depths) & (depths > 0)]
    distance = float(np.median(depths)) if len(depths) else 1.0
    up = poses[:, :, 1].mean(axis=0)
    if np.linalg.norm(np.cross(up, forward)) < 0.3:  # Cameras without a common up.
        up = poses[0, :, 1]
    looked_at = position + distance * (forward - aim_below * poses[0, :, 1])
    return position * VISER_NERFSTUDIO_SCALE_RATIO, looked_at * VISER_NERFSTUDIO_SCALE_RATIO, up / np.linalg.norm(up)


def opening_fov(width: float, height: float, client: viser.ClientHandle) -> float:
    """Vertical field of view, radians, in which a window shows the whole photograph.

    Args:
        width: Of the photograph at distance 1.
        height: The same.
        client: Its window.
    """
    return min(2 * math.atan(max(height, width / client.camera.aspect) / 2), WIDEST)


def draw_large_enough(machine: RenderStateMachine) -> None:
    """Let the thread that draws for a browser draw at least :data:`LEAST_PIXELS`, where "Max res" allows it."""
    chosen = machine._calculate_image_res

    def resolution(aspect_ratio: float) -> tuple[int, int]:
        height, width = chosen(aspect_ratio)
        if height * width >= LEAST_PIXELS:
            return height, width
        wanted = math.sqrt(LEAST_PIXELS / aspect_ratio)
        wanted *= min(1.0, machine.viewer.control_panel.max_res / max(wanted, wanted * aspect_ratio))
        return int(wanted), int(wanted * aspect_ratio)

    machine._calculate_image_res = resolution


def _hide_training_buttons(viewer: Viewer) -> None:
    viewer.pause_train.visible = viewer.resume_train.visible = False
