"""Pictures in a row as an animated GIF or an MP4."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.animation import FFMpegWriter
from matplotlib.figure import Figure
from PIL import Image


def film(
    file: str | Path,
    pictures: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float,
    colors: int = 256,
) -> Path:
    """Pictures in a row, the last of which stays for two seconds.

    Args:
        file: where it goes; its name ends with .gif, or with .mp4, which needs ffmpeg.
        pictures: one or more of one size, an even one for an MP4.
        fps: pictures in a second; > 0.
        colors: the most in a GIF, from 2 to 256; fewer make a smaller file.

    Returns:
        The file.

    Raises:
        ValueError: if the name ends otherwise or its folder is not there, a number is out of its
            range, or the pictures are none or differ in size. (A missing ffmpeg is a RuntimeError.)

    Example:
        >>> film("pictures.avi", [], 10)
        Traceback (most recent call last):
        ValueError: film: expected a file that ends with .gif or .mp4, got 'pictures.avi'; try ...
    """
    file = Path(file)
    require_film("film", file)
    pictures = list(pictures)
    if not pictures:
        raise ValueError("film: expected a picture or more, got none; try some of one size")
    _require_pictures(pictures, fps, colors)
    if file.suffix == ".gif":
        _write_gif(file, pictures, fps, colors)
    else:
        _write_mp4(file, pictures, fps)
    return file


def require_film(door: str, file: Path) -> None:
    """Refuses a name that is not a film's, and an MP4 without what writes it."""
    if file.suffix not in (".gif", ".mp4"):
        raise ValueError(
            f"{door}: expected a file that ends with .gif or .mp4, got '{file.name}'; try "
            f"'{file.stem or 'film'}.gif'"
        )
    if not file.absolute().parent.is_dir():
        raise ValueError(
            f"{door}: expected a folder that is there, got '{file.parent}'; try to make it first"
        )
    if file.suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise RuntimeError(
            f"{door}: expected ffmpeg, which writes '{file.name}', got none; try to install it, "
            f"or '{file.stem}.gif'"
        )


def _require_pictures(pictures: list[np.ndarray], fps: float, colors: int) -> None:
    """Refuses pictures of several sizes, and numbers out of their ranges."""
    if not 0 < fps < math.inf:
        raise ValueError(f"film: expected fps to be finite and above 0, got {fps}; try 10")
    if colors not in range(2, 257):
        raise ValueError(f"film: expected 2 to 256 colors, got {colors}; try 256")
    for picture in pictures:
        shape, dtype = np.shape(picture), np.asarray(picture).dtype
        if shape != np.shape(pictures[0]) or shape[2:] != (3,) or dtype != np.uint8:
            raise ValueError(
                "film: expected pictures (h, w, 3) of one size with numbers of 8 bits, got "
                f"{dtype} of shape {shape}; try picture[..., :3].astype('uint8')"
            )


def _write_gif(
    file: Path, pictures: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, most: int
) -> None:
    """Writes a GIF with one palette, the last picture's commonest colors, so that none flickers."""
    images = [Image.fromarray(picture) for picture in pictures]
    numbers = np.asarray(images[-1], dtype=int) @ np.array([1 << 16, 1 << 8, 1])
    colors, counts = np.unique(numbers, return_counts=True)
    common = colors[np.argsort(-counts, kind="stable")]
    # Pillow takes 4 neighboring shades for one, so the palette has one color of each such box.
    boxes = np.unique(common & 0xFCFCFC, return_index=True)[1]
    common = common[np.sort(boxes)[:most]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        np.stack([common >> 16, common >> 8 & 255, common & 255], 1).ravel().tolist()
    )
    first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 / fps)] * len(others) + [2000]
    first.save(file, save_all=True, append_images=others, duration=durations, loop=0)


def _write_mp4(file: Path, pictures: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float) -> None:
    """Writes a film; as its frames are equally long, the last picture is repeated for its pause."""
    first, *others = pictures
    height, width, _ = first.shape
    screen = Figure(figsize=(width / 100, height / 100), dpi=100)
    image = screen.figimage(first)
    writer = FFMpegWriter(max(1, round(fps)))
    with writer.saving(screen, str(file), screen.dpi):
        for picture in [first, *others, *[[first, *others][-1]] * round(2 * fps)]:
            image.set_data(picture)
            writer.grab_frame()
