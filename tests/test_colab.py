"""A rehearsal of Colab: a notebook alone in an empty folder, an environment without the toolbox, *Run all*.

The install cell runs unchanged: git is told that the repository's address means a bare clone of the present tree
(uncommitted changes included), and nothing but loopback can be reached.
"""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"colab_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool, offline = load("notebooks"), load("offline")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]

LIST = "import importlib.metadata as m; print(*sorted({f'{d.name} {d.version}' for d in m.distributions()}), sep='\\n')"


def run(words, **settings):
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900, **settings)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Return a bare clone of the tree as it stands now, on the branch that _config.yml names."""
    folder = tmp_path_factory.mktemp("git")
    words = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the tree is unknown")
    tree = folder / "tree"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # deleted, but not committed yet
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    git = ["git", "-C", tree, "-c", "user.name=rehearsal", "-c", "user.email=rehearsal@localhost", "-c", "gc.auto=0"]
    run([*git, "init", "-q", "-b", tool.address()[1]])
    run([*git, "add", "-A"])
    run([*git, "-c", "commit.gpgsign=false", "commit", "-q", "-m", "The present tree"])
    run(["git", "clone", "-q", "--bare", tree, folder / "bare.git"])
    return folder / "bare.git"


def colab_python(folder: Path) -> Path:
    """Make an environment with all dependencies, without course_utils, and with a stand-in for google.colab."""
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "course_utils" not in entry.name:  # the editable install: its finder, its .pth, its metadata
            (dependencies / entry.name).symlink_to(entry)
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    python = folder / "environment" / "bin" / "python"
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").write_text('"""A stand-in."""\n')
    # As on Colab, it is loaded before the notebook's first cell. Lines of a .pth file that name a folder extend the
    # path; pip takes what lies there as installed, but outside of this environment, and would never remove it.
    (packages / "colab.pth").write_text(f"{dependencies}\nimport google.colab\n")
    return python


class Rehearsal:
    """An empty folder, the environment, and what happened there."""

    def __init__(self, folder: Path, repository: Path):
        self.content = folder / "content"
        self.content.mkdir()
        self.python = colab_python(folder)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ}
        self.environment = kept | {
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": tool.address()[0],
            # An isolated build would fetch setuptools; pip reads the negative of this name: 0 switches it off.
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def packages(self) -> set[str]:
        return set(run([self.python, "-c", LIST], env=self.environment).splitlines())

    def run_all(self, notebook: Path):
        """Execute a copy of the notebook, alone in the folder; return it with its outputs."""
        shutil.copy(notebook, self.content)
        words = [self.python, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", notebook.name]
        words.insert(-1, f"--ExecutePreprocessor.timeout={tool.CELL_SECONDS}")
        run(offline.command(words), cwd=self.content, env=self.environment)
        return tool.read(self.content / notebook.name)


@pytest.fixture
def rehearsal(tmp_path, repository) -> Rehearsal:
    return Rehearsal(tmp_path, repository)


def chosen() -> list:
    """Return chapter 00, or all notebooks as long as it does not exist."""
    found = tool.chapters()
    missing = pytest.param(Path("none"), marks=pytest.mark.skip(reason="there is no notebook in notebooks/ yet"))
    return [path for path in found if path.stem.startswith("00_")] or found or [missing]


def own_package() -> str:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    return f"{project['name']} {project['version']}"


def small(folder: Path, *sources: str) -> Path:
    """Write a stamped notebook with these code cells."""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Small")])
    nb.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    tool.stamp(nb, "small", *tool.address())
    path = folder / "small.ipynb"
    tool.write(path, tool.dump(nb))
    return path


@pytest.mark.parametrize("path", chosen(), ids=lambda path: path.stem)
def test_run_all_passes_and_installs_one_package(path, rehearsal):
    before = rehearsal.packages()
    rehearsal.run_all(path)
    assert rehearsal.packages() ^ before == {own_package()}


def test_the_install_cell_brings_the_toolbox_of_this_tree(rehearsal, tmp_path):
    before = rehearsal.packages()
    assert not any(name.startswith("course") for name in before)
    path = small(tmp_path, "import course_utils\nprint(course_utils.__file__)", "from course_utils import session")
    nb = rehearsal.run_all(path)
    place = Path(tool.code_cells(nb)[1].outputs[0].text.strip())
    assert place.is_relative_to(tmp_path / "environment")
    # Every module of the package arrived, as it stands here.
    installed = {file.name: file.read_bytes() for file in place.parent.glob("*.py")}
    assert installed == {file.name: file.read_bytes() for file in (ROOT / "course_utils").glob("*.py")}
    assert rehearsal.packages() ^ before == {own_package()}


def test_planted_without_the_install_cell_the_toolbox_is_missing(rehearsal, tmp_path):
    path = small(tmp_path, "import course_utils")
    nb = tool.read(path)
    nb.cells = [cell for cell in nb.cells if not tool.has_tag(cell, "install")]
    tool.write(path, tool.dump(nb))
    with pytest.raises(AssertionError, match="No module named 'course_utils'"):
        rehearsal.run_all(path)


def test_planted_a_second_package_shows_in_the_list(rehearsal, tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "extra"\nversion = "1"\n'
    )
    before = rehearsal.packages()
    rehearsal.run_all(small(tmp_path, f"%pip install -q --no-deps {tmp_path / 'extra'}"))
    assert rehearsal.packages() ^ before == {own_package(), "extra 1"}
