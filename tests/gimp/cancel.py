"""Runs inside GIMP: denoises a large picture, and tells what is left when that is cancelled."""

import os
from pathlib import Path

import gi

gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp, Gio

WORK = Path(os.environ["WORK"])
image = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(str(WORK / "large.png")))
(layer,) = image.get_layers()


def pixels():
    buffer = layer.get_buffer()
    return buffer.get(buffer.get_extent(), 1.0, None, Gegl.AbyssPolicy.NONE)


before = pixels()
procedure = Gimp.get_pdb().lookup_procedure("denoise")
config = procedure.create_config()
config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
config.set_property("image", image)
config.set_core_object_array("drawables", [layer])
status = procedure.run(config).index(0)
same = "unchanged" if pixels() == before else "changed"
(WORK / "cancelled.txt").write_text(f"{status.value_nick} {same}")
