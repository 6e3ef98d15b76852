import os
import sys

import numpy as np
import onnx
import pytest
from conftest import brightness_as_noise_onnx, minus_sigma_onnx, tiny_onnx
from onnx import helper, numpy_helper

import denoiser
from denoiser import catalog, engine, graph, load_model
from denoiser.engine import Model
from denoiser.errors import ArgumentError, DeviceError, ModelError


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(engine, "gpu_problem", lambda: "no NVIDIA driver")


def test_runs_on_the_cpu_and_says_why_not_on_a_gpu(no_gpu):
    model = Model(tiny_onnx())
    assert model.provider == "CPUExecutionProvider"
    assert model.fallback == "no NVIDIA driver"
    assert Model(tiny_onnx(), device="cpu").fallback is None


def test_no_more_threads_than_cores_are_used():
    used = [Model(tiny_onnx(), device="cpu", threads=count).threads for count in (0, 1, 9999)]
    assert used == [0, 1, os.cpu_count()]


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"require_gpu": True}])
def test_a_required_gpu_that_is_missing_is_an_error(no_gpu, options):
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        Model(tiny_onnx(), **options)


def test_contradicting_options_are_refused():
    with pytest.raises(DeviceError):
        Model(tiny_onnx(), device="cpu", require_gpu=True)
    with pytest.raises(DeviceError):
        Model(tiny_onnx(), device="cpu", precision="fp16")
    for device in ("gpu", "cuda:x", "cuda:", "auto:1"):
        with pytest.raises(ArgumentError, match="unknown device"):
            Model(tiny_onnx(), device=device)


def test_contract_is_read_from_metadata():
    contract = Model(tiny_onnx(stride=4, halo=12), device="cpu").contract
    assert (contract.stride, contract.halo, contract.sigma_range) == (4, 12, (0.0, 1.0))
    assert contract.inputs == ("image", "sigma")
    assert contract.noise_halo == 12
    assert Model(tiny_onnx(noise_halo=20), device="cpu").contract.noise_halo == 20


def test_sigma_reaches_the_model():
    model = Model(minus_sigma_onnx(), device="cpu")
    image = np.full((2, 3, 8, 8), 0.75, np.float32)
    np.testing.assert_allclose(model.run(image, np.full_like(image[:, :1], 0.25)), 0.5)


def test_views_are_turned_with_their_noise_level_and_averaged(rng):
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[:, :, 1, 0] = 1  # what lies to the left, 0 beyond the border
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["left"], group=3, pads=[1] * 4),
        helper.make_node("Sub", ["left", "sigma"], ["restored"]),
    ]
    onnx = tiny_onnx(nodes, initializers=[numpy_helper.from_array(kernel, "kernel")])
    image, sigma = (rng.random((2, channels, 16, 24), np.float32) for channels in (3, 1))
    around = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    left, right = around[:, :, 1:-1, :-2], around[:, :, 1:-1, 2:]
    above, below = around[:, :, :-2, 1:-1], around[:, :, 2:, 1:-1]
    means = {1: left, 2: (left + right) / 2, 4: (left + right) / 2}
    means[8] = (left + right + above + below) / 4
    for views, mean in means.items():
        found = Model(onnx, device="cpu", views=views).run(image, sigma)
        np.testing.assert_allclose(found, mean - sigma, atol=1e-6)


def test_foreign_model_with_one_image_input_loads():
    model = Model(tiny_onnx(inputs=("x",), outputs=("y",), metadata=False), device="cpu")
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    np.testing.assert_array_equal(model.run(image), image)


def test_a_foreign_model_of_one_size_is_refused_one_of_single_images_is_not():
    foreign = {"inputs": ("x",), "outputs": ("y",), "metadata": False}
    with pytest.raises(ModelError, match="images of one size only"):
        Model(tiny_onnx(shape=("N", 256, 256), **foreign), device="cpu")
    assert not Model(tiny_onnx(shape=(1, "H", "W"), **foreign), device="cpu").contract.stacks


def test_a_foreign_stride_is_found_out_and_other_sizes_are_refused():
    """A model that halves the picture five times, and one that cuts it to multiples of 32."""
    foreign = {"inputs": ("x",), "outputs": ("y",), "metadata": False}
    halves = [
        helper.make_node("AveragePool", ["x"], ["low"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Resize", ["low", "", "scales"], ["up"], mode="nearest"),
        helper.make_node("Add", ["x", "up"], ["y"]),
    ]
    scales = numpy_helper.from_array(np.array([1, 1, 32, 32], np.float32), "scales")
    model = Model(tiny_onnx(halves, initializers=[scales], **foreign), device="cpu")
    assert model.contract.stride == 32
    second = [*halves, helper.make_node("Shape", ["x"], ["s"])]
    two = onnx.load_from_string(tiny_onnx(second, initializers=[scales], **foreign))
    two.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [4]))
    assert Model(two.SerializeToString(), device="cpu").contract.stride == 32
    cut = [
        helper.make_node(
            "AveragePool", ["image"], ["low"], kernel_shape=[32, 32], strides=[32, 32]
        ),
        helper.make_node("Resize", ["low", "", "scales"], ["restored"], mode="nearest"),
    ]
    wrong = Model(tiny_onnx(cut, inputs=("image",), initializers=[scales]), device="cpu")
    with pytest.raises(ModelError, match="its stride is wrong"):
        wrong.run(np.zeros((1, 3, 48, 48), np.float32))


def test_weights_in_another_file_are_read_from_beside_the_model(tmp_path, monkeypatch):
    nodes = [helper.make_node("Mul", ["image", "half"], ["restored"])]
    half = numpy_helper.from_array(np.full(1000, 0.5, np.float32)[:1], "half")
    model = onnx.load_from_string(tiny_onnx(nodes, inputs=("image",), initializers=[half]))
    path = tmp_path / "mine.onnx"
    onnx.save(model, path, save_as_external_data=True, location="mine.data", size_threshold=0)
    monkeypatch.chdir(tmp_path.parent)
    image = np.ones((1, 3, 32, 32), np.float32)
    found = Model(path, device="cpu")
    np.testing.assert_array_equal(found.run(image), 0.5 * image)
    with pytest.raises(ModelError, match="its weights lie in another file"):
        Model(path.read_bytes(), device="cpu")
    (tmp_path / "mine.data").write_bytes(np.float32(0.25).tobytes())
    assert Model(path, device="cpu").sha256 != found.sha256
    (tmp_path / "mine.data").unlink()
    with pytest.raises(ModelError, match="cannot be read with its weights"):
        Model(path, device="cpu")


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_a_noise_map_is_finite_and_not_negative(value):
    nodes = [
        helper.make_node("Identity", ["image"], ["restored"]),
        helper.make_node("Mul", ["sigma", "factor"], ["noise"]),
    ]
    factor = numpy_helper.from_array(np.float32([value]), "factor")
    outputs = {"outputs": ("restored", "noise"), "initializers": [factor]}
    model = Model(tiny_onnx(nodes, **outputs), device="cpu")
    image = np.ones((1, 3, 32, 32), np.float32)
    if np.isnan(value):
        with pytest.raises(ModelError, match="returned no noise map"):
            model.run_with_noise(image, image[:, :1])
    else:
        np.testing.assert_array_equal(model.run_with_noise(image, image[:, :1])[1], 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no model",
        tiny_onnx(inputs=("image", "depth")),
        tiny_onnx(inputs=("a", "b"), outputs=("y",), metadata=False),
        tiny_onnx(stride=0),
        tiny_onnx(stride=1024),
        tiny_onnx(halo=-1),
        tiny_onnx(noise_halo=-1),
        tiny_onnx([helper.make_node("Concat", ["image", "image"], ["restored"], axis=3)]),
    ],
    ids=[
        "empty",
        "text",
        "unknown input",
        "two inputs",
        "stride",
        "large stride",
        "halo",
        "noise halo",
        "size",
    ],
)
def test_what_is_no_restorer_is_refused(data):
    with pytest.raises(ModelError) as error:
        Model(data, device="cpu")
    assert "\n" not in str(error.value)


def test_bad_arguments_are_refused():
    for options in ({"threads": -1}, {"threads": "2"}, {"device": None}, {"views": 3}):
        with pytest.raises(ArgumentError):
            Model(tiny_onnx(), **options)
    with pytest.raises(ArgumentError, match="unknown task 'x'"):
        load_model(task="x")
    with pytest.raises(ArgumentError, match="model must be"):
        denoiser.denoise(np.zeros((4, 4), np.uint8), model=123)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.onnx"):
        Model(tmp_path / "nothing.onnx", device="cpu")


def test_half_precision_keeps_float32_inputs_and_outputs():
    half = engine._to_half(minus_sigma_onnx())
    image = np.full((1, 3, 8, 8), 0.75, np.float32)
    restored = Model(half, device="cpu").run(image, np.full_like(image[:, :1], 0.25))
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, 0.5, atol=1e-3)


@pytest.mark.parametrize("name", catalog.SIZES)
def test_released_models_agree_in_half_precision(name, rng):
    whole = catalog.find(name).read_bytes()
    image = rng.random((1, 3, 64, 96), np.float32)
    sigma = np.full_like(image[:, :1], 0.1)
    half, full = (
        Model(onnx, device="cpu").run(image, sigma) for onnx in (engine._to_half(whole), whole)
    )
    np.testing.assert_allclose(half, full, atol=3e-3)


@pytest.mark.parametrize("prepared", [bytes, engine._to_half])
def test_the_estimator_alone_finds_what_the_whole_model_finds(prepared, rng):
    model = Model(prepared(brightness_as_noise_onnx()), device="cpu")
    image = rng.random((2, 3, 32, 48), np.float32)
    found = model.estimate(image)
    assert found.shape == (2, 1, 2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[1, 0, 1, 2], image[1, :, 16:, 32:].mean(), rtol=1e-3)
    told = np.zeros_like(image[:, :1])
    np.testing.assert_array_equal(model.run_with_noise(image, told)[1], found)


@pytest.mark.parametrize("name", catalog.SIZES)
def test_the_estimator_of_released_models_needs_no_restorer(name, rng):
    model = load_model(name, device="cpu")
    image = rng.random((2, 3, 64, 96), np.float32)
    guide = np.full_like(image[:, :1], 0.1)
    expected, noise = model.run_with_noise(image, guide)
    np.testing.assert_allclose(model.run(image, guide), expected, atol=1e-6)
    np.testing.assert_allclose(model.estimate(image), noise, atol=1e-6)


@pytest.mark.parametrize("name", catalog.SIZES)
def test_what_is_told_is_restored_without_the_estimator(name):
    from onnx import load_from_string

    whole = catalog.find(name).read_bytes()
    part = load_from_string(graph.without_estimator(whole, ["image", "sigma"], "restored"))
    left_out = {tensor.name for tensor in load_from_string(whole).graph.initializer} - {
        tensor.name for tensor in part.graph.initializer
    }
    assert any("estimator" in name for name in left_out)
    computing = [node.name for node in part.graph.node if "Conv" in node.op_type]
    assert computing and not any("estimator" in name for name in computing)


def test_a_model_that_chooses_its_level_otherwise_stays_whole():
    assert graph.without_estimator(minus_sigma_onnx(), ["image", "sigma"], "restored") is None


WITHOUT_CUDA = pytest.mark.skipif(engine.gpu_problem() is None, reason="a GPU is usable")


@WITHOUT_CUDA
def test_nothing_is_left_of_a_gpu_that_did_not_work(monkeypatch, rng):
    monkeypatch.setattr(engine, "gpu_problem", lambda: None)  # a driver, but no CUDA libraries
    image = rng.random((1, 3, 64, 96), np.float32)
    sigma = np.full_like(image[:, :1], 0.1)
    expected = Model(catalog.find("fast"), device="cpu").run(image, sigma)
    model = Model(catalog.find("fast"), device="auto")
    assert model.fallback and model.precision == "fp32"
    np.testing.assert_array_equal(model.run(image, sigma), expected)


@WITHOUT_CUDA
def test_libraries_that_do_not_load_print_nothing_to_standard_output(monkeypatch, capfd):
    monkeypatch.setattr(engine, "gpu_problem", lambda: None)
    preload_dlls = engine.load_runtime().preload_dlls

    def complain():
        sys.stdout.write("cannot load")
        preload_dlls()

    monkeypatch.setattr(engine.load_runtime(), "preload_dlls", complain)
    assert Model(tiny_onnx()).fallback
    assert capfd.readouterr().out == ""


@WITHOUT_CUDA
@pytest.mark.parametrize("options", [{}, {"device": "cuda"}, {"precision": "fp32"}])
def test_a_bad_model_is_to_blame_even_where_a_gpu_is(monkeypatch, options):
    monkeypatch.setattr(engine, "gpu_problem", lambda: None)
    with pytest.raises(ModelError, match="not a usable ONNX model"):
        Model(b"this is no model", **options)
    with pytest.raises(DeviceError, match="no usable GPU"):
        Model(tiny_onnx(), **options | {"require_gpu": True})


def test_two_distributions_are_detected(monkeypatch):
    present = {"onnxruntime", "onnxruntime-gpu"}

    def version(name):
        if name not in present:
            raise engine.importlib.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(engine.importlib.metadata, "version", version)
    assert "pip uninstall onnxruntime onnxruntime-gpu" in engine.distribution_problem()
    present.remove("onnxruntime")
    assert engine.distribution_problem() is None


@pytest.mark.gpu
@pytest.mark.skipif(engine.gpu_problem() is not None, reason="no usable GPU")
def test_gpu_and_cpu_agree(rng):
    image = rng.random((1, 3, 256, 256), np.float32)
    sigma = np.full_like(image[:, :1], 0.1)
    cpu = Model(catalog.find(), device="cpu").run(image, sigma)
    gpu = Model(catalog.find(), device="cuda", precision="fp32")
    assert gpu.provider == engine.CUDA
    np.testing.assert_allclose(gpu.run(image, sigma), cpu, atol=2e-3)
