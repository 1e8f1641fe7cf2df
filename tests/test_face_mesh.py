"""Faces are found in photos and drawings, chosen among several, and placed by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from adapters.assets import ASSETS
from pipelines.face_mesh import POINTS, FaceError, choose, detect, from_five, measure, template
from pipelines.media import load_image

FACES = sorted(path.stem for path in (ASSETS / "samples" / "faces").glob("*.jpg"))


def sample(name: str) -> Image.Image:
    return load_image(ASSETS / "samples" / "faces" / f"{name}.jpg")


def astronaut() -> Image.Image:
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


@pytest.mark.parametrize("name", FACES)
def test_every_sample_is_one_frontal_face(name: str) -> None:
    faces = detect(sample(name))
    assert len(faces) == 1
    face = faces[0]
    assert face.points.shape == (POINTS, 2)
    assert face.warnings == ()
    assert max(abs(face.yaw), abs(face.roll)) < 5
    # the program paints the pupils at (264, 287) and (376, 287)
    assert np.abs(face.points[[468, 473]] - [(264, 287), (376, 287)]).max() < 6
    assert face.eye_distance == pytest.approx(112, abs=8)


def test_a_photo_at_several_sizes_and_turned() -> None:
    photo = astronaut()
    whole = detect(photo)[0]
    assert whole.score > 0.8
    large = detect(photo.resize((4472, 4472)))[0]  # 20 megapixels
    scaled = large.points / 4472 * 512
    assert np.abs(scaled - whole.points).mean() < 1.5
    assert detect(photo.rotate(45))[0].roll == pytest.approx(whole.roll - 45, abs=5)
    small = detect(photo.resize((64, 64)))[0]
    assert any("apart" in warning for warning in small.warnings)


def test_several_faces_largest_first() -> None:
    wide = Image.new("RGB", (2600, 900), "grey")
    photo = astronaut()
    wide.paste(photo, (100, 200))
    wide.paste(photo.resize((800, 800)), (1500, 50))
    faces = detect(wide)
    assert len(faces) == 2
    assert faces[0].box[0] > 1500
    assert choose(faces) is faces[0]
    assert choose(faces, 1).box[0] < 700
    with pytest.raises(FaceError, match="numbered 0 to 1, received 2"):
        choose(faces, 2)


def test_no_face_says_what_to_try() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), astronaut().crop((0, 0, 215, 512))):
        with pytest.raises(FaceError, match="place five points by hand") as told:
            detect(image)
        assert "\n" not in str(told.value)
    with pytest.raises(FaceError, match="at least 40 px"):
        detect(Image.new("RGB", (30, 30)))


def test_other_colour_modes_are_read() -> None:
    photo = astronaut()
    plain = detect(photo)[0].points
    assert np.abs(detect(photo.convert("L"))[0].points - plain).mean() < 3
    assert np.abs(detect(photo.convert("CMYK"))[0].points - plain).mean() < 3


def test_the_mesh_is_measured_again_on_a_frame() -> None:
    photo = astronaut()
    face = detect(photo)[0]
    again = measure(np.asarray(photo), face)
    assert again is not None
    assert np.abs(again.points - face.points).mean() < 1.5
    assert measure(np.zeros((512, 512, 3), np.uint8), face) is None


def test_five_points_by_hand() -> None:
    image = sample("closed")
    found = detect(image)[0]
    five = [tuple(found.points[i]) for i in (468, 473, 1, 61, 291)]
    placed = from_five(image, five)
    assert np.abs(placed.points[[468, 473, 1, 61, 291]] - five).max() < 0.1
    # the template was measured on this face
    assert np.abs(placed.points - found.points).mean() < 0.05 * found.eye_distance
    with pytest.raises(FaceError, match="in this order"):
        from_five(image, [five[1], five[0], *five[2:]])
    with pytest.raises(FaceError, match="inside 640x640"):
        from_five(image, [(700, 10), *five[1:]])


def test_the_template_is_symmetric() -> None:
    from pipelines.portrait_basis import mirror

    opposite = mirror()
    assert (opposite[opposite] == np.arange(POINTS)).all()
    assert np.abs(template()[opposite] * (-1, 1, 1) - template()).max() < 0.0025


def test_without_mediapipe_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['mediapipe'] = None\n"
        "from PIL import Image\n"
        "from pipelines.face_mesh import detect\n"
        "try:\n"
        "    detect(Image.new('RGB', (99, 99)))\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install -c constraints.txt -e .[portrait]" in done.stdout
    assert done.stdout.count("\n") == 1


def test_networks_start_without_a_word_on_stderr() -> None:
    code = (
        "from pipelines.face_mesh import FaceError, detect\n"
        "from PIL import Image\n"
        "try:\n"
        "    detect(Image.new('RGB', (99, 99)))\n"
        "except FaceError:\n"
        "    pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
