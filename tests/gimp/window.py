"""Runs in the system that has GIMP: uses the plug-in with a window, as a person does.

Takes screenshots on the way, which `test_gimp.py` looks at.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

WORK = Path(os.environ["WORK"])
PROFILE = Path(os.environ["GIMP3_DIRECTORY"])
PATIENCE_S = 60


def wait_for(what, found):
    """Wait until `found` gives something true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := found()):
        if time.monotonic() > deadline:
            shoot("failed")
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.2)
    return result


def xdo(*arguments):
    return subprocess.run(["xdotool", *arguments], capture_output=True, text=True).stdout.split()


def window(name):
    """Wait for a window and give it the keyboard."""
    found = wait_for(name, lambda: xdo("search", "--onlyvisible", "--name", name))
    xdo("windowactivate", "--sync", found[-1])
    return found[-1]


def shoot(name):
    """Take a picture of the screen."""
    path = WORK / f"screen-{name}.png"
    subprocess.run(["import", "-window", "root", path], check=True)
    return path.read_bytes()


def settled(name):
    """Wait until the screen stands still, and take a picture of it."""
    last = shoot(name)

    def still():
        nonlocal last
        time.sleep(1)
        before, last = last, shoot(name)
        return before == last

    wait_for("a screen that stands still", still)
    return last


def engines():
    """Processes of the engine."""
    found = subprocess.run(["pgrep", "-f", "denoiser pipe"], capture_output=True, text=True)
    return found.stdout.split()


def start():
    """Start a screen, a window manager, and GIMP with a picture."""
    version = subprocess.run(["gimp", "--version"], capture_output=True, text=True).stdout.split()
    (PROFILE / "gimprc").write_text(
        f'(config-version "{version[-1]}")\n(show-welcome-dialog no)\n(check-updates no)\n'
    )
    (PROFILE / "shortcutsrc").write_text(
        '(file-version 1)\n(action "denoise" "F10")\n(action "inpaint-selection" "F11")\n'
    )
    read, write = os.pipe()
    screen = ["-screen", "0", "1280x900x24", "-nolisten", "tcp", "-displayfd", str(write)]
    yield subprocess.Popen(["Xvfb", *screen], pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as number:  # comes when it is ready
        os.environ["DISPLAY"] = f":{number.readline().strip()}"
    yield subprocess.Popen(["openbox"])
    yield subprocess.Popen(["gimp", "--no-splash", "--new-instance", WORK / "noisy.png"])


def set_strength(percent):
    """Type into the dialog's field, in the place that it has in the screenshots."""
    xdo("mousemove", "575", "516", "click", "--repeat", "3", "1", "mousemove", "1275", "895")
    xdo("type", f"{percent}\t")


def main():
    processes = []
    try:
        processes += start()
        picture = window("noisy")
        xdo("windowsize", "--sync", picture, "1270", "870")
        xdo("mousemove", "1275", "895")  # no tooltips
        settled("before")
        xdo("key", "F10")
        window("Denoise")
        wait_for("the preview's engine", engines)
        settled("denoise")
        set_strength("0")
        settled("strength")
        set_strength("100")
        xdo("mousemove", "760", "727", "click", "1", "mousemove", "1275", "895")  # OK
        wait_for("the end of the run", lambda: not engines())
        window("noisy")
        settled("after")
        xdo("key", "ctrl+z")
        settled("undone")
        xdo("key", "r")
        for words in ("mousemove 560 420", "mousedown 1", "mousemove 580 440", "mousemove 640 450"):
            xdo(*words.split())
            time.sleep(0.3)  # GIMP has to see it move
        xdo("mouseup", "1", "mousemove", "1275", "895")
        time.sleep(1)  # the frame of a selection never stands still
        shoot("selected")
        xdo("key", "F10")
        window("Denoise")
        wait_for("the preview's engine", engines)
        time.sleep(5)
        shoot("denoise-selected")
        xdo("key", "Escape")
        wait_for("the preview's engine to end", lambda: not engines())
        window("noisy")
        xdo("key", "F11")
        window("Inpaint Selection")
        wait_for("the preview's engine", engines)
        time.sleep(5)
        shoot("inpaint")
        xdo("key", "Escape")
        wait_for("the preview's engine to end", lambda: not engines())
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


main()
