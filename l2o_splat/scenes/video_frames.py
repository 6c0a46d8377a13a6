"""The sharpest frames of a video, evenly spread over it, by ffmpeg.

The video is decoded twice. The first pass measures the sharpness of every frame on a small gray picture: the mean
square of its Laplacian, which motion blur and missed focus lower. The frames are then divided into as many windows of
equal length as frames are wanted, and the second pass takes the sharpest frame of each.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from l2o_splat.scenes.photo_copies import JPEG_QUALITY, Copies
from l2o_splat.scenes.photo_folders import PhotosError
from l2o_splat.scenes.posing_phases import Progress

_MEASURED_SIZE = 960
"""Long side of the pictures whose sharpness is measured, pixels."""
_FIRST_PASS = 0.6
"""Its share of the work."""


def copy_frames(
    video: Path, images: Path, num_frames: int, max_size: int, progress: Progress, report: Callable[[str], None]
) -> Copies:
    """Write the sharpest frames of a video as ``images/frame_000123.jpg``, numbered as in the video.

    Args:
        video: Any file that ffmpeg decodes; it is turned upright as its metadata say.
        images: New folder.
        num_frames: How many frames to take; a video with fewer gives all.
        max_size: Longer frames are reduced to this many pixels on the long side.
        progress: Called for the phase ``frames``.
        report: Receives a line.

    Raises:
        PhotosError: The video cannot be decoded, or has fewer than two frames.
    """
    if num_frames < 2:
        raise PhotosError(f"frames is {num_frames}; at least 2 frames of a video are needed.")
    ffmpeg = _ffmpeg()
    expected = _expected_frames(video)
    progress("frames", 0.0)
    sharpness: list[float] = []
    with _pictures(ffmpeg, video, _MEASURED_SIZE, "pgm") as pictures:
        for picture in pictures:
            sharpness.append(_sharpness(picture))
            progress("frames", _FIRST_PASS * min(len(sharpness) / expected, 1.0))
    if len(sharpness) < 2:
        raise PhotosError(f"{video} holds {len(sharpness)} frames; at least 2 are needed: give a longer video.")
    chosen = sharpest_of_windows(np.array(sharpness), num_frames)
    images.mkdir(parents=True)
    names: list[str] = []
    with _pictures(ffmpeg, video, max_size, "ppm", chosen) as pictures:
        for number, picture in zip(chosen, pictures, strict=True):
            names.append(f"frame_{number:06d}.jpg")
            Image.fromarray(picture).save(images / names[-1], quality=JPEG_QUALITY, subsampling=0)
            progress("frames", _FIRST_PASS + (1 - _FIRST_PASS) * len(names) / len(chosen))
    progress("frames", 1.0)
    report(f"Took the {len(chosen)} sharpest of {len(sharpness)} frames of {video}, one from each stretch of it.")
    return Copies({name: name for name in names}, dict.fromkeys(names, "video"))


def sharpest_of_windows(sharpness: np.ndarray, count: int) -> list[int]:
    """Number of the sharpest frame in each of ``count`` windows of equal length; all frames if there are no more."""
    edges = np.linspace(0, len(sharpness), min(count, len(sharpness)) + 1).astype(int)
    return [int(start + sharpness[start:end].argmax()) for start, end in itertools.pairwise(edges)]


def _sharpness(gray: UInt8[np.ndarray, "h w"]) -> float:
    values = gray.astype(np.int16)
    centre = 4 * values[1:-1, 1:-1]
    laplacian = centre - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    return float(np.square(laplacian, dtype=np.float32).mean()) if laplacian.size else 0.0


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise PhotosError(
            f"A video needs ffmpeg ({error}); install it with your system's packages, or run: l2o check --fix"
        ) from error


def _expected_frames(video: Path) -> int:
    """What the container says; at least 1."""
    import imageio_ffmpeg

    try:
        return max(imageio_ffmpeg.count_frames_and_secs(str(video))[0], 1)
    except (RuntimeError, OSError, ValueError) as error:
        raise _undecodable(video, str(error)) from error


def _undecodable(video: Path, detail: str) -> PhotosError:
    lines = detail.strip().splitlines()
    reason = f" ({lines[-1].strip()})" if lines else ""
    return PhotosError(
        f"{video} cannot be decoded by ffmpeg{reason}; check that it plays, or convert it: "
        f"ffmpeg -i {video.name} -c:v libx264 converted.mp4"
    )


@contextmanager
def _pictures(
    ffmpeg: str, video: Path, max_size: int, kind: str, chosen: list[int] | None = None
) -> Iterator[Iterator[UInt8[np.ndarray, "h w *c"]]]:
    """Upright frames of a video in order, all or the chosen ones, gray (``pgm``) or coloured (``ppm``)."""
    long = f"min({max_size},max(iw,ih))"
    filters = f"scale='if(gt(iw,ih),{long},-2)':'if(gt(iw,ih),-2,{long})':flags=area"
    if chosen is not None:
        filters = f"select='{'+'.join(f'eq(n,{number})' for number in chosen)}'," + filters
    command = [ffmpeg, "-nostdin", "-v", "error", "-i", str(video), "-map", "0:v:0", "-vf", filters]
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", kind, "-"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages)
        try:
            yield _read_pnm(process.stdout)
            if process.wait() != 0:
                messages.seek(0)
                raise _undecodable(video, messages.read().decode(errors="replace"))
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _read_pnm(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """Pictures of a stream of binary PGM or PPM files, as ffmpeg writes them: three header lines, then the pixels."""
    while kind := stream.readline().strip():
        width, height = (int(word) for word in stream.readline().split())
        stream.readline()
        shape = (height, width) if kind == b"P5" else (height, width, 3)
        size = int(np.prod(shape))
        pixels = stream.read(size)
        if len(pixels) < size:
            return
        yield np.frombuffer(pixels, np.uint8).reshape(shape)
