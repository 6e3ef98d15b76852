import subprocess
import sys
import zipfile

import pytest
from conftest import SHIPPED


@pytest.mark.slow
def test_the_wheel_ships_models_and_no_tests(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, tmp_path], cwd=SHIPPED, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    models = [path.stem for path in (SHIPPED / "models").glob("*.onnx")]
    assert len(models) > 2
    assert "denoiser/plugins/gimp/denoise/denoise.py" in names
    for model in models:
        assert {f"denoiser/models/{model}.onnx", f"denoiser/models/{model}.toml"} <= names
    assert {"denoiser/cli.py", "denoiser/py.typed"} <= names
    assert not any("tests" in name for name in names)
