"""Importing installed packages of the host's environment in an agent."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import textwrap
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.given import packages as given_packages
from sandbox.given.packages import find_packages

pytestmark = pytest.mark.usefixtures("alone")
"""Each set of packages has its own zygote, which would otherwise stay alive for more runs."""

IMPORTS = """
def run(input_dict):
    import importlib, importlib.metadata
    said = {}
    for name in input_dict["names"]:
        try:
            said[name] = importlib.import_module(name).__name__
        except ImportError as error:
            said[name] = type(error).__name__
    try:
        said["version"] = importlib.metadata.version("orjson")
    except importlib.metadata.PackageNotFoundError:
        said["version"] = None
    return said
"""


def test_no_package_by_default(run: Any) -> None:
    output = run(IMPORTS, {"names": ["orjson", "redis", "yaml", "pytest"]}).check()
    assert output == dict.fromkeys(["orjson", "redis", "yaml", "pytest"], "ModuleNotFoundError") | {"version": None}


def test_packages_come_with_only_their_dependencies(run: Any) -> None:
    import orjson

    output = run(
        IMPORTS,
        {"names": ["orjson", "rich.text", "markdown_it", "pygments", "redis", "pytest"]},
        packages=["rich", "OrJSON"],
    ).check()
    assert output == {
        "orjson": "orjson",
        "rich.text": "rich.text",
        "markdown_it": "markdown_it",
        "pygments": "pygments",
        "redis": "ModuleNotFoundError",
        "pytest": "ModuleNotFoundError",
        "version": orjson.__version__,
    }


def test_extras_of_packages(run: Any) -> None:
    names = {"names": ["redis", "hiredis"]}
    assert run(IMPORTS, names, packages=["redis"]).check()["hiredis"] == "ModuleNotFoundError"
    assert run(IMPORTS, names, packages=["redis[hiredis]"]).check()["hiredis"] == "hiredis"


def test_editable_package(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed as a link to a folder, as by `pip install --editable`."""
    (tmp_path / "code" / "linked_one").mkdir(parents=True)
    (tmp_path / "code" / "linked_one" / "__init__.py").write_text("VALUE = 5\n")
    info = tmp_path / "site" / "linked_one-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linked-one\nVersion: 1.0\n")
    (info / "RECORD").write_text("__editable__.linked_one-1.0.pth,,\nlinked_one-1.0.dist-info/METADATA,,\n")
    (tmp_path / "site" / "__editable__.linked_one-1.0.pth").write_text(str(tmp_path / "code"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    result = run("import linked_one\ndef run(): return {'v': linked_one.VALUE}", packages=["linked-one"])
    assert result.check() == {"v": 5}


def test_a_requirement_for_another_system_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = {
        "asking": ["here; python_version>'3'", "there; python_version<'3'", "more; extra == 'big'", "no such name!"],
        **dict.fromkeys(("here", "there", "more"), ()),
    }
    for name, requires in requirements.items():
        (tmp_path / f"{name}-1.dist-info").mkdir()
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {one}" for one in requires)]
        (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
        (tmp_path / f"{name}.py").touch()
        (tmp_path / f"{name}-1.dist-info" / "RECORD").write_text(f"{name}.py,,\n{name}-1.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_packages(["asking"]).modules.keys() == {"asking", "here"}
    assert find_packages(["Asking[BIG]"]).modules.keys() == {"asking", "here", "more"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, which agents that run as another user may read."""
    site = tmp_path / "site"
    site.mkdir()
    for folder in (site, *site.parents):
        if folder != folder.parent and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode | stat.S_IROTH | stat.S_IXOTH)
    monkeypatch.syspath_prepend(str(site))
    return site


def install(site: Path, name: str, files: dict[str, str], rows: tuple[str, ...] = (), metadata: str = "") -> None:
    """Install a distribution with these files, and further rows in its RECORD."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    files = files | {f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}"}
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{row},,\n" for row in (*files, *rows)))
    (info / "direct_url.json").write_text('{"url": "file:///home/somebody"}')


def checksum(text: str) -> str:
    """Return a text's checksum as a RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def shown(names: list[str], site: Path) -> set[str]:
    return {str(Path(path).relative_to(site)) for path, _ in find_packages(names).paths}


def test_only_rows_below_the_folder_of_packages_count(site: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key.py").write_text("KEY = 1\n")
    (site / "linked").symlink_to(tmp_path / "outside")
    (site / "linked_file.py").symlink_to(tmp_path / "outside" / "key.py")
    rows = (
        "/",
        "/x",
        "//x",
        "../outside/key.py",
        "alpha/../../outside/key.py",
        "linked/key.py",
        "linked_file.py",
        ".",
        "",
    )
    install(site, "alpha", {"alpha/__init__.py": ""}, rows)
    assert shown(["alpha"], site) == {"alpha", "alpha-1.0.dist-info/METADATA"}


def test_a_row_gives_nothing_of_another_distribution(site: Path) -> None:
    install(site, "private", {"private/__init__.py": "", "private/key.py": "", "private_one.py": ""})
    rows = (
        "private/key.py",
        "private",
        "private_one.py",
        "private-1.0.dist-info/METADATA",
        "private-1.0.dist-info/RECORD",
    )
    install(site, "alpha", {"alpha/__init__.py": ""}, rows)
    assert shown(["alpha"], site) == {"alpha", "alpha-1.0.dist-info/METADATA"}
    install(site, "beta", {}, ("private/key.py",))
    with pytest.raises(sandbox.InvalidInput, match="'beta' lists only files that 'alpha' and 'private' list as well"):
        find_packages(["beta"])
    assert "private" in shown(["alpha", "private", "beta"], site)


def test_a_list_of_the_files_of_a_good_package_does_not_stop_it(site: Path) -> None:
    """A file that several list belongs to those with its checksum; it is no secret to its authors."""
    code = {"good/__init__.py": "", "good/core.py": "CORE = 1\n", "good_one.py": "ONE = 1\n"}
    install(site, "good", code)
    (site / "good-1.0.dist-info" / "RECORD").write_text(
        "".join(f"{path},{checksum(text)},{len(text)}\n" for path, text in code.items())
    )
    whole = {"good", "good_one.py", "good-1.0.dist-info/METADATA"}
    assert shown(["good"], site) == whole
    wrong = f"good/core.py,{checksum('CORE = 2')}"
    install(site, "evil", {"evil.py": ""}, ("good/__init__.py", wrong, "good_one.py,md5=x", "good"))
    assert shown(["good"], site) == whole
    assert find_packages(["good.core"]) == find_packages(["good_one"]) == find_packages(["good"])
    assert find_packages(["good"]).modules.keys() == {"good", "good_one"}
    assert shown(["evil"], site) == {"evil.py", "evil-1.0.dist-info/METADATA"}
    install(site, "evil", {"evil.py": ""}, tuple(f"{path},{checksum(text)}" for path, text in code.items()))
    assert shown(["good"], site) == whole, "whatever another one knows"
    (site / "good/core.py").write_text("KEY = 's3cret'\n")  # by the host
    assert shown(["evil"], site) == {"evil.py", "good_one.py", "good/__init__.py", "evil-1.0.dist-info/METADATA"}


def test_a_module_belongs_to_the_owner_of_its_file(site: Path) -> None:
    install(site, "PyGood", {"good/__init__.py": "", "good/core.py": ""})
    install(site, "beside", {"good/beside.py": ""})
    assert find_packages(["good"]) == find_packages(["pygood"])
    assert "good/beside.py" not in shown(["good"], site)


def test_names_of_modules_that_no_package_can_have(site: Path) -> None:
    install(
        site, "alpha", {"alpha/__init__.py": "", "_alpha/__init__.py": "", "_one.py": "", "two_.py": "", "ä.py": ""}
    )
    for name in ("_alpha", "_one", "two_", "ä", "_alpha.inner"):
        if name == "_alpha.inner":
            install(site, "alpha", {"alpha/__init__.py": "", "_alpha/inner.py": ""})
        assert find_packages([name]) == find_packages(["alpha"])
    for name, said in {
        "_socket": "is a module of the standard library",
        "_zzz": "No package in the host's environment has a module '_zzz'",
        "_": "has a module '_'",
        "_alpha[extra]": "'_alpha[extra]' is not a package name",
        "_alpha/inner": "is not a package name",
        "._alpha": "is not a package name",
        "": "is not a package name",
        "..": "is not a package name",
    }.items():
        with pytest.raises(sandbox.InvalidInput) as caught:
            find_packages([name])
        assert said in str(caught.value)


def test_a_folder_with_files_of_others_is_shown_file_by_file(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        site,
        "alpha",
        {"alpha/__init__.py": "", "alpha/inner/__init__.py": "", "alpha/data.json": "{}", "notes.pth": ""},
    )
    (site / "alpha" / "__pycache__").mkdir()
    (site / "alpha" / "__pycache__" / "inner.cpython-311.pyc").touch()
    assert shown(["alpha"], site) == {"alpha", "alpha-1.0.dist-info/METADATA"}
    (site / "alpha" / "unlisted.env").touch()
    pieces = {"alpha/__init__.py", "alpha/data.json", "alpha/inner", "alpha-1.0.dist-info/METADATA"}
    assert shown(["alpha"], site) == pieces
    monkeypatch.setattr(given_packages, "MOST_PATHS", len(pieces) - 1)
    with pytest.raises(sandbox.InvalidInput, match="have 4 files and folders among those of others, and at most 3"):
        find_packages(["alpha"])


@pytest.mark.parametrize("name", ["private", "os", "host_app", "private.key"])
def test_a_listed_name_gives_no_module_of_others(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(site, "private", {"private/__init__.py": "", "private/key.py": ""})
    (tmp_path / "app" / "host_app").mkdir(parents=True)
    (tmp_path / "app" / "host_app" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "app"))
    install(site, "alpha", {})
    (site / "alpha-1.0.dist-info" / "top_level.txt").write_text(name)
    assert find_packages(["alpha"]).modules == {}
    (site / "alpha-1.0.dist-info" / "RECORD").unlink()
    assert find_packages(["alpha"]).modules == {}


@pytest.mark.parametrize("content", ["/\n", "{host}\n", "import os\n{host}\n"])
def test_a_path_file_gives_no_folder_that_is_no_package(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """The names in top_level.txt are looked up where the package's own files say, and only real modules count."""
    host, app = tmp_path / "host", tmp_path / "app"
    (host / "private").mkdir(parents=True)
    (host / "private" / "keys.txt").write_text("secret")
    (app / "host_app").mkdir(parents=True)
    (app / "host_app" / "__init__.py").touch()
    (host / "linked").symlink_to(app / "host_app")
    for folder in ("/", str(host), str(app)):
        monkeypatch.syspath_prepend(folder)
    install(site, "alpha", {"alpha.pth": ""})
    (site / "alpha.pth").write_text(content.format(host=host))
    (site / "alpha-1.0.dist-info" / "top_level.txt").write_text("etc proc root home tmp private linked host_app")
    assert find_packages(["alpha"]).modules == {}
    shown = {pair[0] for pair in find_packages(["alpha"]).paths}
    assert all(path.startswith(f"{site}/") for path in shown)


def test_the_mapping_of_a_finder_is_followed(site: Path, tmp_path: Path) -> None:
    """As setuptools installs a package whose folder is not named as it is."""
    (tmp_path / "src" / "mapped").mkdir(parents=True)
    (tmp_path / "src" / "mapped" / "__init__.py").touch()
    install(site, "mapped", {"__editable__.mapped-1.0.pth": "", "__editable___mapped_1_0_finder.py": ""})
    finder = f"MAPPING: dict[str, str] = {{'mapped': {str(tmp_path / 'src' / 'mapped')!r}}}\n"
    (site / "__editable___mapped_1_0_finder.py").write_text(finder)
    assert find_packages(["mapped"]).modules.keys() == {"mapped"}


def test_a_package_without_a_list_of_files_is_found_by_name(site: Path) -> None:
    """As in the packages of some Linux distributions."""
    install(site, "Alpha-Beta", {"alpha_beta/__init__.py": ""})
    (site / "Alpha_Beta-1.0.dist-info" / "RECORD").unlink()
    assert find_packages(["alpha.beta"]).modules.keys() == {"alpha_beta"}


@pytest.mark.parametrize("tier", sandbox.isolation.TIERS)
def test_parts_of_a_namespace_package(run: Any, site: Path, tier: str) -> None:
    """A part alone is given, importable and with its data; its siblings and what lies beside it are out of reach."""
    given = {"acme/public/__init__.py": "", "acme/public/data.txt": "42", "acme/tools.py": "X = 1"}
    install(site, "acme-public", given)
    install(site, "acme-private", {"acme/private/__init__.py": "KEY = 1", "acme/key.py": ""})
    source = f"""
        def run():
            import importlib, importlib.metadata, importlib.resources
            import acme.public, acme.tools
            out = {{"data": importlib.resources.files(acme.public).joinpath("data.txt").read_text(), "x": acme.tools.X}}
            out["missing"] = []
            for name in ("acme.private", "acme.key"):
                try:
                    importlib.import_module(name)
                except ModuleNotFoundError as error:
                    out["missing"].append(error.name)
            folder, beside = acme.public.__path__[0], []
            for path in ("{site}/acme/private/__init__.py", folder + "/../private/__init__.py", folder + "/../key.py",
                         "{site}/acme_public-1.0.dist-info/RECORD", "{site}/acme_public-1.0.dist-info/direct_url.json"):
                try:
                    beside.append(open(path).read())
                except OSError:
                    pass
            return out | {{"beside": beside, "dist": importlib.metadata.version("acme-public")}}
    """
    try:
        result = run(textwrap.dedent(source), packages=["acme-public"], isolation=tier)
    except sandbox.IsolationUnavailable as error:
        pytest.skip(str(error))
    missing = ["acme.private", "acme.key"]
    assert result.check() == {"data": "42", "x": 1, "missing": missing, "beside": [], "dist": "1.0"}


def test_a_package_is_found_by_the_name_of_its_module(site: Path) -> None:
    install(site, "PyAlpha", {"alpha/__init__.py": "", "acme/one.py": ""})
    install(site, "acme-two", {"acme/two.py": "", "lonely.py": ""})
    assert find_packages(["alpha"]).modules.keys() == {"alpha", "acme", "acme.one"}
    assert find_packages(["lonely"]) == find_packages(["acme-two"]) == find_packages(["acme.two"])
    with pytest.raises(sandbox.InvalidInput, match=r"'acme' is in 2 packages .*: 'acme-two', 'pyalpha'\."):
        find_packages(["acme"])
    for name, said in {
        "pyalpa": "did you mean 'pyalpha'",
        "zzz": "by the name of a module: run `pip install zzz`",
    }.items():
        with pytest.raises(sandbox.InvalidInput, match="is not installed") as caught:
            find_packages([name])
        assert said in str(caught.value)
