"""What README and docs say about commands, tests and Python is so."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import SHIPPED
from PIL import Image

from denoiser import cli, denoiser_cli, inpaint_cli

PAGES = [SHIPPED / "README.md", SHIPPED / "CONTRIBUTING.md", *(SHIPPED / "docs").glob("*.md")]
COMMANDS = {
    "denoise": cli.denoise,
    "inpaint": inpaint_cli.inpaint,
    "denoiser": denoiser_cli.denoiser,
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def test_every_test_that_docs_name_exists_once():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named) > 20
    assert not [name for name in sorted(named) if tests.count(f"def {name}(") != 1]


def test_links_of_docs_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_docs_have_such_options(page):
    for line in "\n".join(blocks(page, "(?:sh)?")).splitlines():
        command_line = line.partition(" < ")[0].partition(" > ")[0]
        name, *words = shlex.split(command_line, comments=True) or [""]
        if name not in COMMANDS:
            continue
        command = COMMANDS[name]
        if name == "denoiser":
            assert words[0] in command.commands
            continue
        context = command.make_context(name, words)
        assert not context.args


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = blocks(SHIPPED / "README.md", "python")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "grey").save("in.png")
    mask = Image.new("L", (64, 48))
    mask.paste(255, (20, 20, 30, 25))
    mask.save("mask.png")
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    assert names["restored"].shape == names["filled"].shape == (48, 64, 3)
