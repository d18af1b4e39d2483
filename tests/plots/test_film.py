"""Films: as long as their pictures, and refusals before anything is written."""

import numpy as np
import pytest
from PIL import Image

from fnn.plots import film

ROWS = 255 * np.eye(6, dtype=np.uint8)
PICTURES = [np.repeat(np.tile(row[:, None], 8)[..., None], 3, axis=2) for row in ROWS[:3]]


def test_the_last_picture_stays(tmp_path):
    with Image.open(film(tmp_path / "shades.gif", PICTURES, 20)) as gif:
        assert (gif.n_frames, gif.size) == (3, (8, 6))
        durations = []
        for i in range(3):
            gif.seek(i)
            durations.append(gif.info["duration"])
    assert durations == [50, 50, 2000]


@pytest.mark.parametrize(
    ("name", "pictures", "numbers", "says"),
    [
        ("a.avi", PICTURES, (10, 256), r"got 'a\.avi'; try 'a\.gif'"),
        ("none/a.gif", PICTURES, (10, 256), "a folder that is there, got .*none"),
        ("a.gif", [], (10, 256), "a picture or more, got none"),
        ("a.gif", PICTURES, (0, 256), "fps to be finite and above 0, got 0"),
        ("a.gif", PICTURES, (float("nan"), 256), "got nan"),
        ("a.gif", PICTURES, (10, 1), "2 to 256 colors, got 1"),
        ("a.gif", PICTURES, (10, 2.5), "2 to 256 colors, got 2.5"),
        ("a.gif", [PICTURES[0], PICTURES[0][:4]], (10, 256), r"of one size .* shape \(4, 8, 3\)"),
        ("a.gif", [PICTURES[0] / 255], (10, 256), "8 bits, got float64"),
        ("a.gif", [PICTURES[0][..., 0]], (10, 256), r"uint8 of shape \(6, 8\)"),
    ],
)
def test_films_that_cannot_be_are_refused(tmp_path, name, pictures, numbers, says):
    with pytest.raises(ValueError, match=says):
        film(tmp_path / name, pictures, *numbers)
    assert not list(tmp_path.iterdir())
