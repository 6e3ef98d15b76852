"""Record the noise of photographs for the corruption `recorded`: `record_noise.py PHOTOGRAPH...`.

They must be as the camera gave them, not scaled down, with places where nothing but noise is seen.
"""

from pathlib import Path

import click
import numpy as np

from denoiser.console import run, say
from denoiser.errors import InputError
from denoiser.files import check_file, whole_file
from denoiser.images import as_rgb8, read
from denoiser.training import recorded

OUT = Path(recorded.__file__).with_name(recorded.FILE)


@click.command("record_noise.py", context_settings={"show_default": True})
@click.argument("photographs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=OUT)
def main(photographs: tuple[Path, ...], out: Path) -> None:
    """Write the calm squares of each photograph, without what is seen in them, into one file."""
    check_file(out)
    found = []
    for path in photographs:
        squares = recorded.record(as_rgb8(read(path)))
        say(f"{path.name}: {'no' if squares is None else len(squares)} calm squares")
        if squares is not None:
            found.append(squares)
    if not found:
        raise InputError("none of the photographs has enough calm places")
    with whole_file(out, overwrite=True) as file:
        np.savez_compressed(file, *found)
    say(f"wrote {out}")


if __name__ == "__main__":
    run(main)
