#!/usr/bin/env python3
"""GIMP 3 plug-in: Filters > Enhance > Denoise, and Inpaint Selection.

`denoiser gimp install` puts it into GIMP. Pixels go to the installed denoiser, a child process, and
come back over pipes (docs/pipe.md), so GIMP's Python needs neither numpy nor onnxruntime.
"""

import array
import contextlib
import gettext
import hashlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import gi

gi.require_version("Gimp", "3.0")
gi.require_version("Gegl", "0.4")
gi.require_version("Babl", "0.1")
from gi.repository import Babl, Gegl, Gimp, GLib, GObject  # noqa: E402

HERE = Path(__file__).resolve().parent
PROTOCOL = 1
CONTEXT_PX, HOLE_CONTEXT_PX = 128, 320  # around what is denoised, and around a hole
GRID_PX = 32  # on which crops begin: a multiple of all strides, and of the cells of filling.py
BAND_BYTES = 1 << 22
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_", "GI_")
NATIVE = {Gimp.Precision.U8_NON_LINEAR: "u8", Gimp.Precision.U16_NON_LINEAR: "u16"}
TYPES = {"u8": ("uint8", "B"), "u16": ("uint16", "H"), "float": ("float32", "f")}

_ = gettext.translation("denoise", HERE / "locale", fallback=True).gettext


class Problem(Exception):
    """Something that the person has to know; its text says what to do."""

    def __init__(self, words, id=None):
        super().__init__(words)
        self.id = id  # of the request, if the engine says so


class Death(Problem):
    """The engine is gone."""


class Engine:
    """The installed denoiser as a child process; it ends when this process does."""

    def __init__(self):
        """Start it."""
        self._errors = []
        command, __ = settings()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise Problem(_("denoiser has moved: run `denoiser gimp install` again")) from error
        self._listener = threading.Thread(target=self._keep_errors, daemon=True)
        self._listener.start()

    def greet(self):
        """Wait until it is ready."""
        if self._line().get("protocol") != PROTOCOL:
            raise Problem(_("this plug-in is of another version: run `denoiser gimp install`"))

    def send(self, header, bands):
        """Send a request: a header, and the pixels in bands."""
        try:
            self._process.stdin.write(json.dumps(header).encode() + b"\n")
            for band in bands:
                self._process.stdin.write(band)
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error

    def answer(self, progress):
        """Wait for an answer's header, telling `progress` how far it is, 0-1."""
        while "progress" in (line := self._line()):
            progress(line["progress"])
        if "error" in line:
            raise Problem(line["error"], line.get("id"))
        return line

    def read(self, count):
        """Read raw bytes of an answer."""
        data = self._process.stdout.read(count)
        if len(data) < count:
            raise self._death()
        return data

    def close(self):
        """End it."""
        self._process.kill()
        self._process.wait()

    def _line(self):
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            words = line.decode(errors="replace").strip()
            raise Death(_("denoiser said what is no answer: {}").format(words)) from error

    def _keep_errors(self):
        for line in self._process.stderr:
            self._errors = [*self._errors[-9:], line.decode(errors="replace").rstrip()]

    def _death(self):
        self._process.wait()
        self._listener.join(1)  # the last line may still be on its way
        reason = self._errors[-1] if self._errors else _("it said nothing")
        return Death(_("the denoiser stopped: {}").format(reason))


class Picture:
    """A layer's pixels in a form that the engine takes: as encoded, in the layer's own space."""

    def __init__(self, drawable, kind=None):
        """Choose the layer's own type if the engine knows it, else float; or `kind`."""
        kind = kind or NATIVE.get(drawable.get_image().get_precision(), "float")
        name = ("Y'" if drawable.is_gray() else "R'G'B'") + ("A" if drawable.has_alpha() else "")
        self.drawable, self.mode = drawable, name.replace("Y'", "L").replace("'", "")
        self.format = babl_name(f"{name} {kind}", drawable)
        self.opaque_format = babl_name(f"{name.removesuffix('A')}A {kind}", drawable)
        self.type, self.code = TYPES[kind]
        self.bytes_per_px = len(self.mode) * array.array(self.code).itemsize

    def header(self, task, crop, keep, **options):
        """Compose a request for a crop of which the part `keep` is wanted back."""
        inside = [keep.x - crop.x, keep.y - crop.y, keep.width, keep.height]
        size = {"width": crop.width, "height": crop.height, "keep": inside}
        kind = {"task": task, "mode": self.mode, "type": self.type, "white": 1}
        return kind | size | options

    def bands(self, crop):
        """Read a crop band by band."""
        buffer = self.drawable.get_buffer()
        for band in bands_of(crop, self.bytes_per_px):
            yield buffer.get(band, 1.0, self.format, Gegl.AbyssPolicy.NONE)

    def write(self, engine, buffer, keep):
        """Put what the engine sends into a buffer, band by band."""
        for band in bands_of(keep, self.bytes_per_px):
            size = band.width * band.height * self.bytes_per_px
            buffer.set(band, self.format, engine.read(size))
        buffer.flush()


def settings():
    """Read what `denoiser gimp install` wrote: the engine's command and the models' names."""
    try:
        found = json.loads((HERE / "engine.json").read_text(encoding="utf-8"))
        return [[str(word) for word in found[key]] for key in ("command", "models")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Problem(_("denoiser is not set up: run `denoiser gimp install`")) from error


def babl_name(name, drawable):
    """Name a pixel format in the colour space of a layer."""
    return Babl.get_name(Babl.format_with_space(name, drawable.get_format()))


def bands_of(area, bytes_per_px):
    """Cut an area into bands of some megabytes."""
    rows = max(1, BAND_BYTES // (area.width * bytes_per_px))
    for top in range(0, area.height, rows):
        height = min(rows, area.height - top)
        yield Gegl.Rectangle.new(area.x, area.y + top, area.width, height)


def around(area, margin, step, drawable):
    """Grow an area by a margin, up to a grid, as far as the layer goes."""
    left, top = (max(0, (begin - margin) // step * step) for begin in (area.x, area.y))
    right = min(drawable.get_width(), -(-(area.x + area.width + margin) // step) * step)
    bottom = min(drawable.get_height(), -(-(area.y + area.height + margin) // step) * step)
    return Gegl.Rectangle.new(left, top, right - left, bottom - top)


def selected(drawable):
    """Find the area of a layer in which something is selected."""
    some, x, y, width, height = drawable.mask_intersect()
    if not some or not width or not height:
        raise Problem(_("the selection lies outside the layer"))
    return Gegl.Rectangle.new(x, y, width, height)


def selection_of(drawable, crop):
    """Read how much is selected in a crop, a byte for each pixel."""
    __, x, y = drawable.get_offsets()
    place = Gegl.Rectangle.new(crop.x + x, crop.y + y, crop.width, crop.height)
    selection = drawable.get_image().get_selection().get_buffer()
    return selection.get(place, 1.0, "Y u8", Gegl.AbyssPolicy.NONE)


def denoise_request(config, picture, area):
    """Compose the request to denoise an area: header, bands."""
    crop = around(area, CONTEXT_PX, GRID_PX, picture.drawable)
    automatic, model = config.get_property("automatic"), config.get_property("model")
    options = {
        "sigma": "auto" if automatic else config.get_property("level"),
        "strength": config.get_property("strength") / 100,
        "model": None if model == "default" else model,
    }
    if config.get_property("separate"):
        options["chroma"] = config.get_property("chroma") / 100
    return picture.header("denoise", crop, area, **options), picture.bands(crop)


def inpaint_request(config, picture, area):
    """Compose the request to fill what is selected in an area: header, bands."""
    crop = around(area, HOLE_CONTEXT_PX, GRID_PX, picture.drawable)
    options = {name: config.get_property(name) for name in ("grow", "feather")}
    options["grain"] = config.get_property("grain") / 100
    header = picture.header("inpaint", crop, area, **options)
    mask = selection_of(picture.drawable, crop).translate(bytes([0] + [255] * 255))
    if 255 not in mask:  # of what a preview shows
        raise Problem(_("nothing of the selection is in sight"))
    if 0 not in mask:
        raise Problem(_("all of this is selected: nothing is left to fill it from"))
    return header, itertools.chain(picture.bands(crop), [mask])


def denoise(image, drawable, config, engine):
    """Denoise what is selected, or the whole layer; the selection's softness counts.

    Returns:
        The engine's report.
    """
    area, picture = selected(drawable), Picture(drawable)
    in_place = config.get_property("output") == "in-place"
    state = state_of(picture, area)
    engine.send(*denoise_request(config, picture, area))
    report = engine.answer(Gimp.progress_update)
    seen = drawable.get_visible()
    target = drawable if in_place else drawable.copy()
    try:  # nothing of the image changes before the last pixel is here
        picture.write(engine, target.get_shadow_buffer(), area)
        check_same(picture, area, image, state, in_place)
        with one_undo_step(image):
            if not in_place:
                target.set_name(_("{} denoised").format(drawable.get_name()))
                target.set_lock_content(False)
                insert(target, above=drawable)
                if not is_plain(drawable):  # else its effect would be seen twice
                    locked = drawable.get_lock_visibility()
                    drawable.set_lock_visibility(False)
                    drawable.set_visible(False)
                    drawable.set_lock_visibility(locked)
            merge(target, area)
    except Exception:
        if not in_place and target.get_image() is None:
            target.delete()
        elif not in_place:
            image.remove_layer(target)
            drawable.set_visible(seen)
        raise
    return report


def inpaint(image, drawable, config, engine):
    """Fill what is selected; nothing else changes.

    Returns:
        The engine's report.
    """
    picture = Picture(drawable)
    in_place = config.get_property("output") == "in-place"
    if not in_place and not is_plain(drawable):
        raise Problem(
            _("the layer has a mode, opacity, mask or filter of its own: fill it in place")
        )
    area = around(selected(drawable), config.get_property("grow"), 1, drawable)
    state = state_of(picture, area)
    engine.send(*inpaint_request(config, picture, area))
    report = engine.answer(Gimp.progress_update)
    pixels = engine.read(area.width * area.height * picture.bytes_per_px)
    changed = engine.read(area.width * area.height)
    check_same(picture, area, image, state, in_place)
    with one_undo_step(image):
        if in_place:
            replace(image, picture, area, pixels, changed)
            if is_unseen(picture, pixels, changed):
                words = _("some of what was filled is transparent and stays so: fill a new layer")
                report.setdefault("warnings", []).append(words)
        else:
            put_on_new_layer(image, picture, area, pixels, changed)
    return report


def is_plain(layer):
    """Whether a layer shows its pixels as they are."""
    own = layer.get_mode() != Gimp.LayerMode.NORMAL or layer.get_opacity() < 100
    return not (own or layer.get_mask() or layer.get_filters())


def is_unseen(picture, pixels, changed):
    """Whether something was filled that is fully transparent."""
    if not picture.mode.endswith("A"):
        return False
    count = len(picture.mode)
    alpha = memoryview(pixels).cast(picture.code)[count - 1 :: count]
    return any(filled and not seen for filled, seen in zip(changed, alpha, strict=True))


def replace(image, picture, area, pixels, changed):
    """Replace the pixels that were filled. Only whole ones are selected meanwhile: no ghosts."""
    drawable = picture.drawable
    shadow = drawable.get_shadow_buffer()
    shadow.set(area, picture.format, pixels)
    shadow.flush()
    layers, before = image.get_selected_layers(), Gimp.Selection.save(image)
    hole = Gimp.Channel.new(image, "", image.get_width(), image.get_height(), 0, Gegl.Color())
    try:
        image.insert_channel(hole, None, 0)
        __, x, y = drawable.get_offsets()
        buffer = hole.get_buffer()
        buffer.clear(buffer.get_extent())
        x, y = area.x + x, area.y + y
        left, top = max(0, x), max(0, y)  # libgimp aborts over tiles that reach beyond the picture
        right = min(image.get_width(), x + area.width)
        bottom = min(image.get_height(), y + area.height)
        rows = range((top - y) * area.width, (bottom - y) * area.width, area.width)
        inside = b"".join(changed[row + left - x : row + right - x] for row in rows)
        buffer.set(Gegl.Rectangle.new(left, top, right - left, bottom - top), "Y u8", inside)
        buffer.flush()
        image.select_item(Gimp.ChannelOps.REPLACE, hole)
        if Gimp.Selection.is_empty(image):  # which would stand for everything
            raise Problem(_("the selection lies outside the picture"))
        merge(drawable, area)
    finally:
        image.select_item(Gimp.ChannelOps.REPLACE, before)
        for channel in (before, hole):
            image.remove_channel(channel)
        if layers:
            image.set_selected_layers(layers)


@contextlib.contextmanager
def one_undo_step(image):
    """Make one step of all that is done meanwhile."""
    image.undo_group_start()
    try:
        yield
    finally:
        image.undo_group_end()


def insert(layer, above):
    """Put a layer above another."""
    image = above.get_image()
    if not image.insert_layer(layer, above.get_parent(), image.get_item_position(above)):
        raise Problem(_("there is no place for a new layer: is the group locked?"))


def state_of(picture, area):
    """Note what must not change in an area while the engine works."""
    drawable = picture.drawable
    digest = hashlib.blake2b(selection_of(drawable, area))
    for band in picture.bands(area):
        digest.update(band)
    size = (drawable.get_width(), drawable.get_height())
    return digest.digest(), *drawable.mask_intersect(), *drawable.get_offsets(), *size


def check_same(picture, area, image, state, in_place):
    """Refuse to write where something has changed: GIMP can be used meanwhile."""
    check(picture.drawable, image, in_place)
    if state_of(picture, area) != state:
        raise Problem(_("the selection or the layer has changed meanwhile: try again"))


def put_on_new_layer(image, picture, area, pixels, changed):
    """Put what was filled, and nothing else, on a layer above."""
    drawable = picture.drawable
    kind = Gimp.ImageType.GRAYA_IMAGE if drawable.is_gray() else Gimp.ImageType.RGBA_IMAGE
    layer = Gimp.Layer.new(
        image, _("Filled"), area.width, area.height, kind, 100, Gimp.LayerMode.NORMAL
    )
    __, x, y = drawable.get_offsets()
    layer.set_offsets(x + area.x, y + area.y)
    colours = len(picture.mode.removesuffix("A"))
    opaque = {"B": 1, "H": 257, "f": 1 / 255}[picture.code]
    pixels, changed, buffer = memoryview(pixels), memoryview(changed), layer.get_buffer()
    everything = Gegl.Rectangle.new(0, 0, area.width, area.height)
    for band in bands_of(everything, picture.bytes_per_px):
        count = band.width * band.height
        values = array.array(picture.code)
        values.frombytes(pixels[: count * picture.bytes_per_px])
        whole = array.array(picture.code, bytes(count * (colours + 1) * values.itemsize))
        for channel in range(colours):
            whole[channel :: colours + 1] = values[channel :: len(picture.mode)]
        alpha = array.array(picture.code, (value * opaque for value in changed[:count]))
        whole[colours :: colours + 1] = alpha
        buffer.set(band, picture.opaque_format, whole.tobytes())
        pixels, changed = pixels[count * picture.bytes_per_px :], changed[count:]
    buffer.flush()
    insert(layer, above=drawable)


def check(drawable, image, in_place=None):
    """Refuse what cannot be written to or, not in place, get a layer above; None: not yet known."""
    if not drawable.is_valid() or drawable.get_image() != image:
        raise Problem(_("the layer is gone"))
    if not drawable.is_layer():
        raise Problem(_("a mask or channel is chosen: click on a layer's picture and try again"))
    if drawable.is_group_layer() if hasattr(drawable, "is_group_layer") else drawable.is_group():
        raise Problem(_("a layer group is chosen: choose a layer in it, or merge it first"))
    if drawable.is_indexed():
        raise Problem(_("the picture is indexed: choose Image > Mode > RGB first"))
    if in_place is False and drawable.is_floating_sel():
        raise Problem(_("a floating selection is chosen: anchor it, or make a layer of it first"))
    item = drawable if in_place else drawable.get_parent()
    while item:
        if item.get_lock_content():
            raise Problem(
                _("the pixels of {} are locked: unlock them first").format(item.get_name())
            )
        item = item.get_parent()
    if hasattr(drawable, "is_rasterized") and not drawable.is_rasterized():
        raise Problem(_("the layer is a text, link or drawing: rasterize it first"))


def merge(drawable, area):
    """Make what lies in the shadow buffer the layer's, where it is selected, as one undo step."""
    if not drawable.merge_shadow(True):
        raise Problem(_("the layer cannot be written to: is it locked?"))
    drawable.update(area.x, area.y, area.width, area.height)


class Preview:
    """Keeps a dialog's preview up to date; one engine lives as long as the dialog."""

    def __init__(self, widget, label, drawable, config, request):
        """Follow a GimpUi.DrawablePreview; a Gtk.Label says where it runs, or why not."""
        self._widget, self._label, self._config, self._request = widget, label, config, request
        self._picture, self._number = Picture(drawable, "u8"), 0
        self._engine, self._asked, self._lost, self._closed = Engine(), None, "", False
        self._requests = queue.SimpleQueue()
        widget.connect("invalidated", self._ask)
        config.connect("notify", lambda *_: widget.invalidate())
        for work in (self._send, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def close(self):
        """Stop."""
        self._closed = True
        self._engine.close()

    def _ask(self, widget):
        if not self._config.get_property("preview"):
            return
        self._number += 1
        self._asked = self._place()
        if self._lost:
            self._say(self._number, self._lost)
            return
        try:
            header, bands = self._request(self._config, self._picture, self._area())
        except Problem as problem:
            self._say(self._number, str(problem))
            return
        self._requests.put((header | {"id": self._number}, list(bands)))

    def _send(self):
        """Send what is asked; what was overtaken meanwhile is left out."""
        with contextlib.suppress(Death):  # which is heard, too
            while True:
                request = self._requests.get()
                while not self._requests.empty():
                    request = self._requests.get()
                self._engine.send(*request)

    def _place(self):
        return *self._widget.get_position(), *self._widget.get_size()

    def _area(self):
        """What of the layer is in sight."""
        drawable, (x, y, width, height) = self._picture.drawable, self._place()
        width = max(1, min(width, drawable.get_width() - x))  # which may be cropped meanwhile
        height = max(1, min(height, drawable.get_height() - y))
        return Gegl.Rectangle.new(x, y, width, height)

    def _listen(self):
        try:
            self._engine.greet()
            while True:
                try:
                    answer = self._engine.answer(lambda share: None)
                except Death:
                    raise
                except Problem as problem:
                    GLib.idle_add(self._say, problem.id, str(problem))
                    continue
                if "cancelled" in answer:
                    continue
                pixels = answer["width"] * answer["height"]
                stride = answer["width"] * self._picture.bytes_per_px
                data = self._engine.read(stride * answer["height"])
                if self._request is inpaint_request:  # the mask of what changed
                    self._engine.read(pixels)
                GLib.idle_add(self._draw, answer, data, stride)
        except Problem as problem:
            self._lost = str(problem)
            GLib.idle_add(self._say, self._number, self._lost)
        finally:
            self._engine.close()  # who sends to it would wait for ever

    def _say(self, number, words):
        """Show the picture as it is, and why."""
        if number == self._number and not self._closed:
            self._label.set_text(words)
            self._label.set_tooltip_text(None)
            area = self._area()  # `draw` would be right for 8 bits of colour only
            self._show(b"".join(self._picture.bands(area)), area.width * self._picture.bytes_per_px)
        return GLib.SOURCE_REMOVE

    def _draw(self, answer, pixels, stride):
        wanted = answer["id"] == self._number and self._config.get_property("preview")
        # else another is on its way, or the dialog is gone
        if wanted and not self._closed and self._place() == self._asked:
            on_cpu = answer["provider"].startswith("CPU")
            self._label.set_text(_("Runs on the CPU") if on_cpu else _("Runs on the GPU"))
            self._label.set_tooltip_text(answer["gpu_not_used"])  # why, or None
            self._show(pixels, stride)
        return GLib.SOURCE_REMOVE

    def _show(self, pixels, stride):
        """Draw the preview's area.

        Where something is selected, GIMP (3.0, gimpdrawablepreview.c) skips the rows above it by
        the width of what it draws rather than by the stride: so they are equally wide here.
        """
        drawable, area = self._picture.drawable, self._area()
        some, x, y, width, height = drawable.mask_intersect()
        if some and not Gimp.Selection.is_empty(drawable.get_image()):
            size = self._picture.bytes_per_px
            first, above = max(0, x - area.x) * size, max(0, y - area.y)
            last = min(area.width, x + width - area.x) * size
            rows = range(above, min(area.height, y + height - area.y))
            parts = [pixels[row * stride + first : row * stride + last] for row in rows]
            if parts and first < last:
                pixels, stride = bytes(first + above * (last - first)), last - first
                pixels += b"".join(parts)
        self._widget.draw_buffer(pixels, stride)


def ask(procedure, config, drawable, names, request):
    """Show a dialog with a preview; whether to go on."""
    gi.require_version("GimpUi", "3.0")
    from gi.repository import GimpUi

    GimpUi.init("denoise")
    dialog = GimpUi.ProcedureDialog.new(procedure, config, title_of(procedure))
    if "level" in names:
        dialog.set_sensitive("level", True, config, "automatic", True)
        dialog.set_sensitive("chroma", True, config, "separate", False)
    widget = dialog.get_drawable_preview("preview", drawable)
    label = dialog.get_label("words", "", False, False)
    label.set_line_wrap(True)
    label.set_max_width_chars(40)
    preview = Preview(widget, label, drawable, config, request)
    dialog.fill(["preview", *names, "words"])
    try:
        return dialog.run()
    finally:
        preview.close()
        dialog.destroy()


def title_of(procedure):
    """Give the menu entry's name."""
    return procedure.get_menu_label().replace("_", "").removesuffix("...")


def run(procedure, mode, image, drawables, config, data):
    """Run a procedure; whatever goes wrong becomes a message."""
    work, request, names = data
    engine = None
    try:
        if len(drawables) != 1:
            raise Problem(_("choose one layer"))
        drawable = drawables[0]

        def look(in_place=None):
            check(drawable, image, in_place)
            if work is inpaint and Gimp.Selection.is_empty(image):
                raise Problem(_("select what is to be filled first"))
            selected(drawable)

        if mode == Gimp.RunMode.INTERACTIVE:
            look()
            if not ask(procedure, config, drawable, names, request):
                return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, GLib.Error())
        look(config.get_property("output") == "in-place")
        Gimp.progress_init(procedure.get_blurb())
        engine = Engine()
        engine.greet()
        report = work(image, drawable, config, engine)
        Gimp.displays_flush()
        for warning in report.get("warnings", []):
            Gimp.message(warning)
    except Exception as error:  # GIMP would only say "execution error"
        text = str(error) if isinstance(error, Problem) else repr(error)
        status = Gimp.PDBStatusType.EXECUTION_ERROR
        return procedure.new_return_values(status, GLib.Error(f"{title_of(procedure)}: {text}"))
    finally:
        if engine:
            engine.close()
    return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, GLib.Error())


class Denoise(Gimp.PlugIn):
    """Registers the two procedures."""

    def do_set_i18n(self, name):
        """Translations are our own."""
        return False

    def do_query_procedures(self):
        """Name them."""
        return ["denoise", "inpaint-selection"]

    def do_create_procedure(self, name):
        """Describe one of them."""
        denoises = name == "denoise"
        names = (
            ["model", "automatic", "level", "strength", "separate", "chroma"]
            if denoises
            else ["grow", "feather", "grain"]
        )
        work, request = (denoise, denoise_request) if denoises else (inpaint, inpaint_request)
        procedure = Gimp.ImageProcedure.new(
            self, name, Gimp.PDBProcType.PLUGIN, run, (work, request, [*names, "output"])
        )
        procedure.set_image_types("*")
        procedure.set_sensitivity_mask(
            Gimp.ProcedureSensitivityMask.DRAWABLE | Gimp.ProcedureSensitivityMask.DRAWABLES
        )
        procedure.set_attribution("denoiser", "denoiser, Apache-2.0", "2026")
        (describe_denoise if denoises else describe_inpaint)(procedure)
        procedure.add_menu_path("<Image>/Filters/Enhance")
        outputs = Gimp.Choice.new()
        outputs.add("in-place", 0, _("In place"), "")
        outputs.add("new-layer", 1, _("On a new layer"), "")
        flags = GObject.ParamFlags.READWRITE
        procedure.add_choice_argument(
            "output", _("Resul_t"), _("Where the result goes"), outputs, "in-place", flags
        )
        procedure.add_boolean_aux_argument(
            "preview", _("_Preview"), _("Show the result"), True, flags
        )
        return procedure


def describe_denoise(procedure):
    """Menu, help and arguments of "Denoise"."""
    procedure.set_menu_label(_("_Denoise..."))
    procedure.set_icon_name("gimp-tool-blur")
    procedure.set_documentation(
        _("Remove noise"),
        _("Removes the noise of a layer, or of what is selected in it, by a neural network."),
        None,
    )
    models = Gimp.Choice.new()
    for index, (name, label) in enumerate(model_names().items()):
        models.add(name, index, label, "")
    flags = GObject.ParamFlags.READWRITE
    procedure.add_choice_argument(
        "model", _("_Model"), _("Which model restores"), models, "default", flags
    )
    procedure.add_boolean_argument(
        "automatic", _("_Automatic noise level"), _("Find out how noisy each place is"), True, flags
    )
    procedure.add_double_argument(
        "level", _("_Noise level"), _("Standard deviation, 0-255"), 0, 100, 15, flags
    )
    procedure.add_double_argument(
        "strength", _("Stren_gth"), _("How much of the noise to remove, %"), 0, 100, 100, flags
    )
    procedure.add_boolean_argument(
        "separate", _("Colour separatel_y"), _("Remove another share of colour noise"), False, flags
    )
    procedure.add_double_argument(
        "chroma", _("Colo_ur"), _("How much colour noise to remove, %"), 0, 100, 100, flags
    )


def describe_inpaint(procedure):
    """Menu, help and arguments of "Inpaint Selection"."""
    procedure.set_menu_label(_("_Inpaint Selection..."))
    procedure.set_icon_name("gimp-tool-heal")
    procedure.set_documentation(
        _("Fill the selection"),
        _(
            "Fills what is selected from its surroundings, by a neural network: scratches, dust,"
            " dates, blemishes."
        ),
        None,
    )
    flags = GObject.ParamFlags.READWRITE
    procedure.add_int_argument(
        "grow", _("_Grow"), _("Fill so many pixels more around the selection"), 0, 100, 2, flags
    )
    procedure.add_double_argument(
        "feather", _("_Feather"), _("Blend over so many pixels inside"), 0, 100, 0, flags
    )
    procedure.add_double_argument(
        "grain", _("Gra_in"), _("How much of the noise around to put in, %"), 0, 100, 100, flags
    )


def model_names():
    """List the models that are installed, by name."""
    names = {"default": _("Default")}
    try:
        __, models = settings()
        return names | {name: name for name in models}
    except Problem:
        return names


Gimp.main(Denoise.__gtype__, sys.argv)
