import unicodedata

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from denoiser import mask_files
from denoiser.errors import InputError


def test_a_mask_is_ours_until_somebody_edits_it(tmp_path):
    path = tmp_path / "new" / "a.png"
    mask_files.write(np.eye(8, dtype=np.float32), path, overwrite=False)
    assert mask_files.is_ours(path)
    with Image.open(path) as file:
        edited, texts = file.copy(), PngImagePlugin.PngInfo()
        texts.add_text("denoiser mask", file.text["denoiser mask"])
    edited.save(path, pnginfo=texts)
    assert mask_files.is_ours(path)
    edited.putpixel((3, 5), 255)
    edited.save(path, pnginfo=texts)  # with the text that the editor found
    assert not mask_files.is_ours(path)


def test_a_mask_is_found_by_stem_however_it_is_spelt(tmp_path):
    (tmp_path / "deep").mkdir()
    name = unicodedata.normalize("NFD", "Gr\u00fcn")
    (tmp_path / "deep" / f"{name}.png").touch()
    assert mask_files.find(f"deep/{name}.jpg", tmp_path).name == f"{name}.png"
    (tmp_path / "deep" / f"{name}.tif").touch()
    with pytest.raises(InputError, match="several masks for deep/"):
        mask_files.find(f"deep/{name}.jpg", tmp_path)
    (tmp_path / f"{name}.png").touch()
    assert mask_files.find("Gr\u00fcn.jpg", tmp_path).name == f"{name}.png"
    with pytest.raises(InputError, match=r"no mask for GR"):
        mask_files.find("GR\u00dcN.jpg", tmp_path)
    with pytest.raises(InputError, match=r"no mask for b\.jpg"):
        mask_files.find("b.jpg", tmp_path)
    one = tmp_path / "deep" / f"{name}.png"
    assert mask_files.find("any.jpg", one) == one
