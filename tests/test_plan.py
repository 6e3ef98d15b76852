import os
from pathlib import Path

import pytest

from denoiser.errors import ArgumentError
from denoiser.images import format_of
from denoiser.plan import make_plan


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def plan_of(root, **options):
    options = {"recursive": True, "format": None, "suffix": ""} | options
    return make_plan(root / "in", root / "out", **options)


def test_the_tree_is_mirrored_and_system_files_are_no_part_of_it(tmp_path):
    touch(
        tmp_path / "in",
        *("b.JPG", "a b/ü.png", "a b/c/d.tif", "note.txt", ".hidden.png", "._b.JPG", "Thumbs.db"),
        *("desktop.ini", "@eaDir/b.JPG", ".denoise/x.png", ".DS_Store"),
    )
    plan = plan_of(tmp_path)
    assert [item.name for item in plan.items] == ["a b/c/d.tif", "a b/ü.png", "b.JPG"]
    assert plan.items[1].target == tmp_path / "out" / "a b" / "ü.png"
    assert (plan.others, plan.folders) == (["note.txt"], 0)
    flat = plan_of(tmp_path, recursive=False)
    assert [item.name for item in flat.items] == ["b.JPG"] and flat.folders == 1


def test_format_and_suffix_name_the_output(tmp_path):
    touch(tmp_path / "in", "a.jpg")
    (item,) = plan_of(tmp_path, format=format_of("x.webp"), suffix="-clean").items
    assert item.output == "a-clean.webp"


def test_two_pictures_for_one_place_are_found(tmp_path):
    touch(tmp_path / "in", "a.jpg", "a.png", "b.png")
    plan = plan_of(tmp_path, format=format_of("x.png"))
    assert [item.name for item in plan.items] == ["a.jpg", "b.png"]
    (((item, why),)) = plan.clashes
    assert item.name == "a.png" and "a.jpg and a.png would both become" in why
    assert not plan_of(tmp_path).clashes


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "in", "a/b.png")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "in" / "a" / "b.png")
    assert [item.name for item in plan_of(tmp_path).items] == ["a/b.png", "link.png"]


def test_a_real_folder_keeps_its_place_beside_links_to_it(tmp_path):
    touch(tmp_path / "in", "a/c.png", "z/b.png")
    (tmp_path / "in" / "a" / "link").symlink_to(tmp_path / "in" / "z")
    (tmp_path / "in" / "b").symlink_to("z")
    assert [item.name for item in plan_of(tmp_path).items] == ["a/c.png", "z/b.png"]


def test_results_seen_through_a_link_are_no_pictures(tmp_path):
    touch(tmp_path, "in/a.png", "out/a.png", "out/deep/b.png")
    (tmp_path / "in" / "results").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "deep").symlink_to(tmp_path / "out" / "deep")
    (tmp_path / "in" / "all").symlink_to(tmp_path)
    assert [item.name for item in plan_of(tmp_path).items] == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_pipes_are_no_pictures(tmp_path):
    touch(tmp_path, "in/a.png")
    os.mkfifo(tmp_path / "in" / "b.png")
    plan = plan_of(tmp_path)
    assert [item.name for item in plan.items] == ["a.png"] and plan.special == ["b.png"]


def test_a_folder_that_vanishes_while_it_is_walked_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "in/a/b.png", "in/c.png")
    walk = os.walk

    def remove_first(*arguments, **options):
        for folder, *rest in walk(*arguments, **options):
            if Path(folder).name == "a":
                (tmp_path / "in" / "a").rename(tmp_path / "gone")
            yield folder, *rest

    monkeypatch.setattr("os.walk", remove_first)
    plan = plan_of(tmp_path)
    assert [item.name for item in plan.items] == ["c.png"]
    assert plan.unreadable == [(str(tmp_path / "in" / "a"), "No such file or directory")]


@pytest.mark.parametrize("out", ["in", "in/out", ".", "link"])
def test_folders_within_each_other_are_refused(tmp_path, out):
    touch(tmp_path / "in", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ArgumentError, match=r"within each other|same folder"):
        make_plan(tmp_path / "in", tmp_path / out, recursive=True, format=None, suffix="")


def test_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    touch(tmp_path / "in", "a/b.png", "c.png")
    scan = os.scandir

    def refuse(path):  # the right to read means nothing to root
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    plan = plan_of(tmp_path)
    assert plan.unreadable == [(str(tmp_path / "in" / "a"), "Permission denied")]
    assert [item.name for item in plan.items] == ["c.png"]
