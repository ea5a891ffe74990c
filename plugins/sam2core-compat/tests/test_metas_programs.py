"""Meta's own programs give the same over this package as over Meta's.

Their sources are not on PyPI, but for `training/`: SAM2CORE_META names a checkout of github.com/facebookresearch/sam2,
or a folder that holds `training` alone, as Meta's source distribution does. Without it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from both import META, OURS, run

HERE = Path(__file__).parent
SOURCES = Path(os.environ.get("SAM2CORE_META", "nowhere"))
pytestmark = pytest.mark.skipif(META is None, reason="Meta's package is the reference: pip install sam2==1.1.0")


def need(name: str) -> Path:
    if not (SOURCES / name).exists():
        pytest.skip(f"set SAM2CORE_META to Meta's sources, with {name} in them")
    return SOURCES / name


@pytest.mark.parametrize("kind", ["training"])
def test_metas_training_takes_the_same_steps(kind, tmp_path):
    """Losses to 1e-5; parameters of the same number in the same order, so that an optimizer's state fits by index."""
    shutil.copytree(need(kind), tmp_path / "path" / kind)
    shutil.copy(HERE / "tiny.yaml", tmp_path)
    found = {}
    for name, where in (("theirs", META), ("ours", OURS)):
        run((*where, tmp_path / "path"), HERE / "training_step.py", tmp_path, tmp_path / f"{name}.npz")
        with np.load(tmp_path / f"{name}.npz") as file:
            found[name] = dict(file)
    theirs, ours = found["theirs"], found["ours"]
    assert ours["names"].tolist() == theirs["names"].tolist() and np.array_equal(ours["state"], theirs["state"])
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours["gradients"], theirs["gradients"], rtol=1e-4, atol=1e-5 * theirs["gradients"].max())
    np.testing.assert_allclose(ours["weights"], theirs["weights"], rtol=1e-3, atol=1e-3)


FLAGS = {
    "plain": [],
    "postprocessed": ["--apply_postprocessing"],
    "one file an object": ["--per_obj_png_file", "--use_all_masks"],
    "thresholded": ["--score_thresh", "0.5"],
    "appearing later": ["--track_object_appearing_later_in_video", "--apply_postprocessing"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A video of four frames with the masks of two objects on its first, one of which an object's folder repeats."""
    from PIL import Image

    place = tmp_path_factory.mktemp("vos")
    frames, masks, objects = place / "frames" / "clip", place / "masks" / "clip", place / "objects" / "clip"
    for folder in (frames, masks, objects / "001"):
        folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for frame in range(4):
        picture = Image.fromarray(np.roll(coarse, frame, axis=1)).resize((64, 48), Image.Resampling.BICUBIC)
        picture.save(frames / f"{frame:05d}.jpg", quality=95)
    labels = np.zeros((48, 64), np.uint8)
    labels[8:30, 6:30], labels[20:44, 36:60] = 1, 2
    drawn = Image.fromarray(labels)
    drawn.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    drawn.save(masks / "00000.png")
    one = Image.fromarray((labels == 1).astype(np.uint8))
    one.putpalette([0, 0, 0, 255, 255, 255])
    one.save(objects / "001" / "00000.png")
    return place


@pytest.mark.parametrize("name", FLAGS)
def test_vos_inference_writes_the_same_masks(name, dataset, tmp_path):
    from PIL import Image

    program = need("tools/vos_inference.py")
    shutil.copy(HERE / "tiny.yaml", tmp_path)
    weights = tmp_path / "tiny.pt"
    run(META, HERE / "saving_weights.py", tmp_path, weights)
    written = {}
    for package, where in (("theirs", META), ("ours", OURS)):
        out = tmp_path / package
        per_object = "--per_obj_png_file" in FLAGS[name]
        given = ["--base_video_dir", dataset / "frames", "--output_mask_dir", out, *FLAGS[name]]
        given += ["--input_mask_dir", dataset / ("objects" if per_object else "masks")]
        run(where, HERE / "on_cpu.py", tmp_path, program, "--sam2_checkpoint", weights, *given)
        written[package] = {str(path.relative_to(out)): np.asarray(Image.open(path)) for path in out.rglob("*.png")}
    theirs, ours = written["theirs"], written["ours"]
    assert set(theirs) == set(ours) and len(theirs) >= 4
    for file, labels in theirs.items():
        assert (labels != ours[file]).mean() < 5e-3, file
