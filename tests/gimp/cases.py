"""Runs inside GIMP: calls the procedures on many kinds of layers, and saves what comes out.

`test_gimp.py` makes the pictures in the folder WORK, and looks at the results there.
"""

import json
import os
import traceback
from pathlib import Path

import gi

gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp, Gio

WORK = os.environ["WORK"]
BOX = (150, 100, 40, 30)  # x, y, width, height
results = {}


def path(name):
    return Gio.File.new_for_path(f"{WORK}/{name}")


def load(name):
    return Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, path(name))


def save(image, name):
    Gimp.file_save(Gimp.RunMode.NONINTERACTIVE, image, path(name), None)


def call(name, image, drawables, **options):
    """Run a procedure; "" or what went wrong."""
    procedure = Gimp.get_pdb().lookup_procedure(name)
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", drawables)
    for key, value in options.items():
        config.set_property(key, value)
    result = procedure.run(config)
    good = result.index(0) == Gimp.PDBStatusType.SUCCESS
    return "" if good else Gimp.get_pdb().get_last_error()


def pixels(drawable, format=None):
    buffer = drawable.get_buffer()
    return buffer.get(buffer.get_extent(), 1.0, format, Gegl.AbyssPolicy.NONE)


def select(image):
    image.select_rectangle(Gimp.ChannelOps.REPLACE, *BOX)


def case(function):
    try:
        results[function.__name__] = function()
    except Exception:
        results[function.__name__] = traceback.format_exc()


@case
def whole_pictures():
    errors = {}
    for name in json.loads(os.environ["PICTURES"]):
        image = load(name)
        errors[name] = call("denoise", image, image.get_layers(), model="fast")
        save(image, f"denoised-{name}")
    return errors


@case
def colour_separately():
    image = load("rgb8.png")
    options = {"strength": 40.0, "separate": True, "chroma": 100.0}
    error = call("denoise", image, image.get_layers(), model="fast", **options)
    save(image, "separately.png")
    return error


@case
def holes():
    errors = {}
    for name in json.loads(os.environ["PICTURES"]):
        image = load(name)
        layers = image.get_layers()
        Gimp.Selection.all(image)
        own = Gimp.Selection.save(image)  # as a person may have one
        image.set_selected_layers(layers)
        select(image)
        errors[name] = call("inpaint-selection", image, layers, grow=2)
        if image.get_selected_layers() != layers or image.get_channels() != [own]:
            errors[name] += "another item is chosen, or channels are left"
        image.remove_channel(own)
        untouched = [int(v) for v in Gimp.Selection.bounds(image)[2:]]
        if untouched != [BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]:
            errors[name] += f"selection became {untouched}"
        save(image, f"filled-{name}")
    return errors


@case
def layers_beyond_the_picture():
    """Errors, and how much of the layer was changed, by what is selected."""
    found = {}
    for name, box in {"all": (0, 0, 200, 150), "a third": (120, 0, 80, 150)}.items():
        image = load("rgb8.png")
        (layer,) = image.get_layers()
        image.resize(200, 150, -50, -50)
        image.select_rectangle(Gimp.ChannelOps.REPLACE, *box)
        before = pixels(layer)
        error = call("inpaint-selection", image, [layer], grow=2)
        after = pixels(layer)
        changed = sum(before[i : i + 3] != after[i : i + 3] for i in range(0, len(after), 3))
        if image.get_channels() or image.get_selected_layers() != [layer]:
            error += "another item is chosen, or channels are left"
        found[name] = error, changed / (box[2] * box[3])
        image.delete()
    return found


@case
def strength_zero_changes_nothing():
    """Of every precision and mode, the largest difference, in [0, 1] units."""
    worst = {}
    precisions = [
        name
        for name in dir(Gimp.Precision)
        if name.endswith(("_LINEAR", "_PERCEPTUAL")) and name[0] in "UHFD"
    ]
    some = ["U8_LINEAR", "FLOAT_LINEAR", "HALF_NON_LINEAR"]
    for name, those in {"rgba8.png": precisions, "rgb8.png": some, "grey8.png": some}.items():
        for precision in those:
            image = load(name)
            if image.get_precision() != getattr(Gimp.Precision, precision):
                image.convert_precision(getattr(Gimp.Precision, precision))
            (layer,) = image.get_layers()
            format = "R'G'B'A float"
            before = memoryview(pixels(layer, format)).cast("f")
            error = call("denoise", image, [layer], model="fast", strength=0.0)
            after = memoryview(pixels(layer, format)).cast("f")
            difference = max(abs(a - b) for a, b in zip(before, after, strict=True))
            worst[f"{name} {precision}"] = error or difference
            image.delete()
    return worst


@case
def strength_zero_in_another_space():
    """The same with a profile other than sRGB, of what goes through no floating point."""
    worst = {}
    for name, precision in {"rgb8.png": "U8", "rgb16.png": "U16"}.items():
        image = load(name)
        image.convert_color_profile(
            Gimp.ColorProfile.new_rgb_adobe(), Gimp.ColorRenderingIntent.PERCEPTUAL, True
        )
        (layer,) = image.get_layers()
        before = pixels(layer)
        error = call("denoise", image, [layer], model="fast", strength=0.0)
        assert image.get_precision() == getattr(Gimp.Precision, f"{precision}_NON_LINEAR")
        worst[name] = error or before != pixels(layer)
    return worst


@case
def only_the_selection_changes():
    image = load("rgb8.png")
    (layer,) = image.get_layers()
    layer.set_offsets(20, 10)
    select(image)
    error = call("denoise", image, [layer], model="fast", automatic=False, level=25.0)
    layer.set_offsets(0, 0)
    save(image, "selected.png")
    return error


@case
def a_soft_selection():
    image = load("rgb8.png")
    (layer,) = image.get_layers()
    select(image)
    Gimp.Selection.feather(image, 12)
    share = pixels(image.get_selection(), "Y u8")
    Path(WORK, "share.bin").write_bytes(share)
    error = call("denoise", image, [layer], model="fast", automatic=False, level=25.0)
    save(image, "soft.png")
    return error


def the_plug_in():
    """What the plug-in's file defines."""
    file = Path(os.environ["GIMP3_DIRECTORY"], "plug-ins", "denoise", "denoise.py")
    code, plug_in = file.read_text(), {"__file__": str(file)}
    exec(code.removesuffix("Gimp.main(Denoise.__gtype__, sys.argv)\n"), plug_in)
    return plug_in


@case
def changes_meanwhile():
    """Whether each of them is noticed."""
    plug_in = the_plug_in()
    image = load("rgb8.png")
    (layer,) = image.get_layers()
    select(image)
    area, picture = plug_in["selected"](layer), plug_in["Picture"](layer)
    state = plug_in["state_of"](picture, area)

    def noticed():
        try:
            plug_in["check_same"](picture, area, image, state, True)
        except plug_in["Problem"] as problem:
            return str(problem)
        return ""

    found = {"nothing": noticed()}
    x, y, width, height = BOX
    image.select_rectangle(Gimp.ChannelOps.SUBTRACT, x + 5, y + 5, 1, 1)
    found["the selection"] = noticed()
    select(image)
    found["nothing any more"] = noticed()
    pixel = Gegl.Rectangle.new(x + width - 1, y + height - 1, 1, 1)
    buffer = layer.get_buffer()
    buffer.set(
        pixel,
        "R'G'B' u8",
        bytes(255 - value for value in buffer.get(pixel, 1.0, "R'G'B' u8", Gegl.AbyssPolicy.NONE)),
    )
    buffer.flush()
    found["a pixel"] = noticed()
    return found


@case
def new_layers():
    errors = {}
    for name in json.loads(os.environ["PICTURES"]):
        image = load(name)
        (layer,) = image.get_layers()
        before = pixels(layer)
        select(image)
        errors[name] = call("inpaint-selection", image, [layer], grow=2, output="new-layer")
        filled, below = image.get_layers()
        if pixels(below) != before:
            errors[name] += "the layer below has changed"
        if filled.get_width() != BOX[2] + 4:
            errors[name] += f"the new layer is {filled.get_width()} wide"
        Gimp.Selection.none(image)
        save(image, f"layered-{name}")
        errors[name] += call("denoise", image, [below], model="fast", output="new-layer")
        _, denoised, below = image.get_layers()
        if pixels(below) != before or not below.get_visible():
            errors[name] += "denoising on a new layer changed the one below"
        errors[name] += call("denoise", image, [below], model="fast")
        if pixels(below) != pixels(denoised):
            errors[name] += "denoising on a new layer is not what it is in place"
    return errors


@case
def layers_with_a_mode_of_their_own():
    found = {}
    image = load("rgb8.png")
    (layer,) = image.get_layers()
    layer.set_opacity(50)
    layer.set_lock_visibility(True)
    found["in place"] = call("denoise", image, [layer], model="fast")
    found["new layer"] = call("denoise", image, [layer], model="fast", output="new-layer")
    above, below = image.get_layers()
    found["seen"] = [above.get_visible(), below.get_visible(), above.get_opacity()]
    select(image)
    found["filled"] = call("inpaint-selection", image, [layer], output="new-layer")
    found["layers"] = len(image.get_layers())
    return found


@case
def menus():
    names = ("denoise", "inpaint-selection")
    return [Gimp.get_pdb().lookup_procedure(name).get_menu_paths() for name in names]


@case
def messages():
    found = {}
    image = load("rgb8.png")
    (layer,) = image.get_layers()
    before = pixels(layer)
    found["empty selection"] = call("inpaint-selection", image, [layer])
    copy = layer.copy()
    image.insert_layer(copy, None, 0)
    found["two layers"] = call("denoise", image, [layer, copy])
    copy.set_lock_content(True)
    found["locked"] = call("denoise", image, [copy])
    found["changed"] = pixels(copy) != before
    found["above a locked one"] = call("denoise", image, [copy], model="fast", output="new-layer")
    group = Gimp.GroupLayer.new(image, "group")
    image.insert_layer(group, None, 0)
    found["group"] = call("denoise", image, [group])
    mask = layer.create_mask(Gimp.AddMaskType.WHITE)
    layer.add_mask(mask)
    found["mask"] = call("denoise", image, [mask])
    found["with a mask"] = call("denoise", image, [layer], model="fast", strength=0.0)
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 0, 0, image.get_width(), image.get_height())
    found["everything"] = call("inpaint-selection", image, [layer])
    layer.set_offsets(0, 9000)
    found["outside"] = call("inpaint-selection", image, [layer])
    found["changed"] = found["changed"] or pixels(layer) != before
    image = load("rgb8.png")
    image.convert_indexed(0, 0, 16, False, False, "")
    found["indexed"] = call("denoise", image, image.get_layers())
    return found


HALF = """
import json, sys
print('{"protocol": 1}', flush=True)
header = json.loads(sys.stdin.buffer.readline())
pixels = sys.stdin.buffer.read(header["width"] * header["height"] * 3)
print('{"done": true}', flush=True)
sys.stdout.buffer.write(pixels[: len(pixels) // 2])
sys.stdout.flush()
raise SystemExit("boom")
"""


@case
def a_dying_engine():
    """It greets, and dies with the pixels in its hands, or in the midst of giving them back."""
    settings = Path(Gimp.directory(), "plug-ins/denoise/engine.json")
    good = settings.read_text()
    found = {}
    for what, code in {
        "dies": "print('{\"protocol\": 1}', flush=True); input(); raise SystemExit('boom')",
        "is old": "print('{\"protocol\": 0}', flush=True); input()",
        "is gone": None,
        "babbles": "print('hello', flush=True); input()",
        "dies late": HALF,
        "dies late, new layer": HALF,
    }.items():
        command = ["/usr/bin/python3", "-c", code] if code else ["/nowhere"]
        settings.write_text(json.dumps({"command": command, "models": []}))
        image = load("rgb8.png")
        (layer,) = image.get_layers()
        before = pixels(layer)
        image.clean_all()
        output = "new-layer" if "new" in what else "in-place"
        found[what] = call("denoise", image, [layer], output=output)
        if pixels(layer) != before or image.is_dirty() or len(image.get_layers()) > 1:
            found[what] += " and the picture has changed"
    settings.write_text("[]")
    found["damaged settings"] = call("denoise", image, [layer])
    settings.write_text(good)
    return found


Path(WORK, "results.json").write_text(json.dumps(results, indent=2))
