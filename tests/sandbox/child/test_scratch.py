"""A run's folder on disk is measured and removed, whatever the agent did to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.child.scratch import folder_bytes, remove_folder


def deep(folder: Path, levels: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_folder_too_deep_for_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    deep(folder, 2500)
    assert folder_bytes(str(folder), 10**12) > 10**12
    remove_folder(str(folder))
    assert not folder.exists()


def test_links_and_unreadable_folders(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    folder = tmp_path / "run"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "a" / "link").symlink_to(outside / "kept")
    (folder / "a" / "b" / "up").symlink_to("../..")
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0)
    remove_folder(str(folder))
    assert not folder.exists()
    assert (outside / "kept").read_text() == "x"
    remove_folder(str(folder))  # it may already be gone


@pytest.mark.parametrize(
    ("size", "enough", "over"), [(0, 10_000, False), (100_000, 50_000, True), (100_000, 500_000, False)]
)
def test_folder_size(tmp_path: Path, size: int, enough: int, over: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(bytes(size))
    assert (folder_bytes(str(tmp_path), enough) > enough) is over


@pytest.mark.parametrize("tier", ["restricted", sandbox.isolation.UNSAFE])
def test_the_folder_of_a_run_is_closed_to_other_users(run: Any, tier: str) -> None:
    """Where it is on the host's disk, that is: else it is in the memory of a namespace of the run's own."""
    source = (
        "import os\ndef run():\n    return {'mode': os.stat('.').st_mode & 0o7777, 'mine': os.access('.', os.W_OK)}\n"
    )
    try:
        result = run(source, isolation=tier)
    except sandbox.IsolationUnavailable as error:
        pytest.skip(str(error))
    assert result.check() == {"mode": 0o700, "mine": True}
