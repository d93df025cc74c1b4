"""The project's own files agree with each other; each rule is a function that is shown to catch a planted violation."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
SUPPORTED = ("3.11", "3.12", "3.13")

# What Colab's GPU runtime has, from the public repository googlecolab/backend-info, commit a724079 of 2026-08-19.
COLAB_PYTHON = "3.13.15"
COLAB = {
    "torch": "2.11.0+cu128",
    "torchvision": "0.26.0+cu128",
    "numpy": "2.1.3",
    "scipy": "1.16.3",
    "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "tqdm": "4.67.3",
    "pandas": "2.2.3",
}


def read(name):
    return (ROOT / name).read_text(encoding="utf8")


def load_tool(name):
    """Return a script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup = load_tool("setup")
tasks = load_tool("tasks")


# --- One list of dependencies -----------------------------------------------------------------------------------------


def not_on_colab(requirements):
    """Return the requirements that Colab does not meet as it is."""
    faults = []
    for line in requirements:
        requirement = Requirement(line)
        have = COLAB.get(canonicalize_name(requirement.name))
        if have is None or not requirement.specifier.contains(have):
            faults.append(f"{line}: Colab has {have}")
    return faults


def test_installing_on_colab_replaces_nothing():
    assert not_on_colab(PROJECT["dependencies"]) == []
    assert SpecifierSet(PROJECT["requires-python"]).contains(COLAB_PYTHON)


def test_what_colab_lacks_is_caught():
    assert not_on_colab(["torch>=2.12"]) == ["torch>=2.12: Colab has 2.11.0+cu128"]
    assert not_on_colab(["polars>=1"]) == ["polars>=1: Colab has None"]
    assert not_on_colab(["numpy<2"]) and not not_on_colab(["numpy>=2.1.3", "Scikit_Learn>=1.6"])


def not_base(requirements):
    """Return the requirements that belong to an extra: nothing of Jupyter, IPython or widgets is needed to import."""
    forbidden = re.compile(r"jupyter|ipython|ipykernel|ipywidgets|notebook|nb(client|format|convert|val)|pytest")
    return [line for line in requirements if forbidden.search(canonicalize_name(Requirement(line).name))]


def test_base_dependencies_hold_no_notebook_software():
    assert not_base(PROJECT["dependencies"]) == []
    assert not_base(["torch>=2", "ipywidgets>=8", "IPython", "jupyterlab>=4"]) == [
        "ipywidgets>=8",
        "IPython",
        "jupyterlab>=4",
    ]


OWNERS = importlib.metadata.packages_distributions()


def third_party(text):
    """Return the top-level modules that a source imports, anywhere in it, beyond the standard library and itself."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"course_utils"}


def undeclared(text, requirements):
    """Return the modules that a source imports and that no requirement brings by its distribution's name."""
    declared = {canonicalize_name(Requirement(line).name) for line in requirements}
    return sorted(
        module
        for module in third_party(text)
        if not declared & {canonicalize_name(name) for name in OWNERS.get(module, [module])}
    )


SOURCES = sorted((ROOT / "course_utils").glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_import_is_declared(path):
    assert undeclared(path.read_text(encoding="utf8"), PROJECT["dependencies"]) == []


def test_an_undeclared_import_is_caught():
    text = "import os, numpy\nfrom . import data\ndef f():\n    import pandas.io\n    from sklearn.svm import SVC\n"
    assert third_party(text) == {"numpy", "pandas", "sklearn"}
    assert undeclared(text, ["numpy>=2", "scikit-learn>=1"]) == ["pandas"]
    assert undeclared(text, ["numpy>=2", "pandas", "sklearn>=1"]) == ["sklearn"]  # a module's name is not the project's


def lock_entries(text):
    """Return (name, version, marker, hashes) of every entry of a lock file."""
    entries = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        head, *hashes = re.split(r"\s+--hash=", line)
        if found := re.fullmatch(r"([A-Za-z0-9_.-]+)==([^\s;]+)\s*(?:;\s*(.*?))?\s*", head):
            whole = [digest for digest in hashes if re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest)]
            entries.append((canonicalize_name(found[1]), found[2], found[3] or "", whole))
    return entries


def not_locked(requirements, text):
    """Return the requirements for which the lock has no entry, or one outside their bounds."""
    versions = {}
    for name, version, _, _ in lock_entries(text):
        versions.setdefault(name, []).append(version)
    faults = []
    for line in requirements:
        requirement = Requirement(line)
        have = versions.get(canonicalize_name(requirement.name), [])
        if not have or not all(requirement.specifier.contains(version) for version in have):
            faults.append(f"{line}: locked {have}")
    return faults


def without_hash(text):
    """Return the names of the entries of a lock that carry no hash, and lines that are neither entry nor comment."""
    logical = re.sub(r"\\\n", " ", text)
    strange = [
        line
        for line in logical.splitlines()
        if line.strip() and not line.lstrip().startswith("#") and not re.match(r"[A-Za-z0-9_.-]+==", line)
    ]
    return [name for name, _, _, hashes in lock_entries(text) if not hashes] + strange


def all_requirements(project):
    return [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]


def test_the_lock_holds_every_requirement():
    lock = read("requirements.lock")
    assert len(lock_entries(lock)) == len(re.findall(r"(?m)^\S+==", lock)) > 100
    assert not_locked([*all_requirements(PROJECT), "setuptools>=70"], lock) == []
    assert without_hash(lock) == []


def test_faults_of_a_lock_are_caught():
    digest = "0" * 64
    good = f"# made by\nnumpy==2.1 ; python_version < '3.12' \\\n    --hash=sha256:{digest}\n    # via x\n"
    assert lock_entries(good) == [("numpy", "2.1", "python_version < '3.12'", [f"sha256:{digest}"])]
    assert not_locked(["numpy>=2"], good) == [] == without_hash(good)
    assert not_locked(["numpy>=2.2"], good) == ["numpy>=2.2: locked ['2.1']"]
    assert not_locked(["scipy"], good) == ["scipy: locked []"]
    assert without_hash(good + "scipy==1.0\n") == ["scipy"]
    assert without_hash(good + "scipy==1.0 \\\n    --hash=sha256:12\n") == ["scipy"]
    assert without_hash("-e .\n" + good) == ["-e ."]


def environment_faults(text, project):
    """Return what is wrong with an environment.yml: it holds Python, pip and the editable install with all extras."""
    wanted = set(project["optional-dependencies"]) - {"lock"}
    faults = []
    entries = yaml.safe_load(text)["dependencies"]
    plain = [entry for entry in entries if isinstance(entry, str)]
    pip = [line for entry in entries if isinstance(entry, dict) for line in entry.get("pip", [])]
    python = [entry for entry in plain if entry.startswith("python")]
    if [SpecifierSet(entry.removeprefix("python")) for entry in python] != [SpecifierSet(project["requires-python"])]:
        faults.append(f"python {python} is not {project['requires-python']}")
    if {entry for entry in plain if entry not in python} != {"pip"}:
        faults.append(f"more than python and pip: {plain}")
    found = re.fullmatch(r"-e \.\[([\w,]+)\]", pip[0]) if len(pip) == 1 else None
    if not found or set(found.group(1).split(",")) != wanted:
        faults.append(f"{pip} is not the editable install with {sorted(wanted)}")
    return faults


def test_conda_gets_the_same():
    assert environment_faults(read("environment.yml"), PROJECT) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lab,book,test", "lab,test"),
        (">=3.11", ">=3.10"),
        ("  - pip\n", "  - pip\n  - numpy=2.1\n"),
        ("      - -e", "      - torch==2.6\n      - -e"),
        ("-e .", "."),
    ],
)
def test_a_disagreeing_environment_is_caught(old, new):
    text = read("environment.yml")
    assert old in text
    assert environment_faults(text.replace(old, new), PROJECT)


def test_the_supported_pythons_are_the_same_everywhere():
    admitted = SpecifierSet(PROJECT["requires-python"])
    known = [f"3.{minor}" for minor in range(8, 20)]
    assert tuple(version for version in known if admitted.contains(version)) == SUPPORTED
    assert tuple(version for version in known if not setup.judge([int(p) for p in version.split(".")])) == SUPPORTED
    assert all(f"python{version}" in setup.CANDIDATES for version in SUPPORTED)
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        text = path.read_text(encoding="utf8")
        named = re.findall(r"(?:python-version: |python:)\"?(3\.\d+)", text) + re.findall(r"\"(3\.\d+)\"", text)
        assert named and set(named) <= set(SUPPORTED), path.name


# --- What no file may hold --------------------------------------------------------------------------------------------


def project_files():
    """Return the files that are in the repository or would be added to it."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
    else:  # an unpacked archive
        skip = {".venv", "_build", "build", "data", "checkpoints", "__pycache__"}
        names = [
            str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not skip & set(path.relative_to(ROOT).parts)
        ]
    return sorted({ROOT / name for name in names if (ROOT / name).is_file()})


# Put together from pieces, so that this file does not hold what it forbids.
_DOT = r"\."
INDEX_HOSTS = re.compile(
    "|".join(
        _DOT.join(parts)
        for parts in (
            ("py" + "pi", "org"),
            ("python" + "hosted", "org"),
            ("py" + "pi", "python", "org"),
            ("ana" + "conda", "(?:org|com)"),
            ("registry", "npm" + "js", "org"),
            ("download", "py" + "torch", "org"),
        )
    ),
    re.IGNORECASE,
)
# Colab's own /content is no secret of a machine; "me", "you" and "x" stand for anybody.
MACHINE_PATHS = re.compile(
    r"(?<![\w.:~-])(?<![\w.:~-]/)/(?:home|Users|root|work|mnt|media)/(?!(?:me|you|x)\b)\w|\b[A-Z]:\\+Users\\+(?!(?:me|you|x)\b)\w"
)


def forbidden(text):
    """Return the package index hosts and machine paths in a text."""
    return [found.group() for pattern in (INDEX_HOSTS, MACHINE_PATHS) for found in pattern.finditer(text)]


def test_no_index_host_and_no_machine_path_in_any_file():
    files = project_files()
    assert {"Makefile", "requirements.lock", "pyproject.toml"} <= {path.name for path in files}
    faults = []
    for path in files:
        try:
            found = forbidden(path.read_text(encoding="utf8"))
        except UnicodeDecodeError:
            continue  # a picture
        faults += [f"{path.relative_to(ROOT)}: {text}" for text in found]
    assert faults == []


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://" + "py" + "pi.org/simple",
        "https://files.python" + "hosted.org/packages/x.whl",
        "conda install -c https://conda.ana" + "conda.org/x",
        "open('" + "/home" + "/ann/data')",
        "File " + "/Users" + "/ann/x.py, line 3",
        "see " + "/work" + "/main/x",
        "C:" + "\\Users\\ann",
    ],
)
def test_hosts_and_paths_are_caught(text):
    assert forbidden(text)


def test_ordinary_text_passes():
    assert not forbidden(
        "https://example.org/work/x, /content/data, ~/data, docs/home/x, a/work/b, `/home`, pypi, /data"
    )


# --- Documents --------------------------------------------------------------------------------------------------------


def targets(makefile):
    """Return the targets of a Makefile."""
    return set(re.findall(r"(?m)^([a-z][\w-]*):(?!=)", makefile))


def unknown_commands(text, makefile):
    """Return the `make` commands of a document, in code spans and blocks, that are no targets."""
    blocks = re.findall(r"(?ms)^```.*?^```", text)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"(?ms)^```.*?^```", "", text))
    named = {name for code in blocks + spans for name in re.findall(r"\bmake ([a-z][\w-]*)", code)}
    return sorted(named - targets(makefile))


DOCUMENTS = [path for path in project_files() if path.suffix == ".md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path):
    assert unknown_commands(path.read_text(encoding="utf8"), read("Makefile")) == []


def test_an_unknown_command_is_caught():
    makefile = "X := 1\nbook: setup ## build\n\t@true\n"
    assert unknown_commands("Run `make book`, make sure that `make tea` works:\n```\nmake coffee\n```\n", makefile) == [
        "coffee",
        "tea",
    ]


def test_readme_shows_the_two_commands_first():
    assert re.findall(r"(?m)^make (\w+)", read("README.md"))[:2] == ["book", "test"]


WANTED = "help book test quick notebooks records lab serve lock bench clean"


def undocumented(makefile):
    """Return the targets that `make help` would not list."""
    return sorted(targets(makefile) - set(re.findall(r"(?m)^([a-z]+):.*## \S", makefile)))


def test_make_has_the_promised_targets_and_lists_them():
    makefile = read("Makefile")
    assert set(WANTED.split()) <= targets(makefile)
    assert undocumented(makefile) == []
    assert undocumented("book: setup ## build\nsecret: setup\n") == ["secret"]
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(f"make {name} " in shown for name in WANTED.split())


def citation_faults(text, project):
    """Return what is wrong with a CITATION.cff."""
    content = yaml.safe_load(text)
    faults = [
        f"{key} is missing"
        for key in ("cff-version", "message", "title", "authors", "version", "license", "type")
        if not content.get(key)
    ]
    if str(content.get("version")) != project["version"]:
        faults.append(f"version {content.get('version')} is not {project['version']}")
    if not all(author.get("name") or author.get("family-names") for author in content.get("authors") or []):
        faults.append("an author has no name")
    return faults


def test_citation():
    text = read("CITATION.cff")
    assert citation_faults(text, PROJECT) == []
    assert citation_faults(text.replace("title:", "headline:"), PROJECT) == ["title is missing"]
    assert citation_faults(text.replace("version: 0.1.0", "version: 0.0.9"), PROJECT)
    assert citation_faults(text.replace("- name:", "- nom:"), PROJECT) == ["an author has no name"]


# --- Continuous integration -------------------------------------------------------------------------------------------


def workflow_faults(text):
    """Return what is wrong with a workflow: minimal rights, a time limit, actions of a stated version."""
    content = yaml.safe_load(text)
    faults = []
    if content.get("permissions") != {"contents": "read"}:
        faults.append(f"permissions are {content.get('permissions')}, not contents: read")
    for name, job in content["jobs"].items():
        writes = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        if writes - {"pages", "id-token"}:
            faults.append(f"job {name} may write {sorted(writes)}")
        for step in job["steps"]:
            if "uses" in step and not re.search(r"@v\d+", step["uses"]):
                faults.append(f"{step['uses']} names no version")
    return faults


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows(path):
    assert workflow_faults(path.read_text(encoding="utf8")) == []


def test_faults_of_a_workflow_are_caught():
    good = read(".github/workflows/pages.yml")
    assert len(WORKFLOWS) == 3
    assert workflow_faults(good.replace("contents: read", "contents: write"))
    assert workflow_faults(good.replace("pages: write", "packages: write"))
    assert workflow_faults(good.replace("checkout@v4", "checkout"))


def test_ci_runs_make_test():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf8")
    assert "set -euo pipefail" in text and re.search(r"(?m)^make test", text)
    assert ".ci/run" in read(".github/workflows/test.yml")


# --- Set-up: the parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "verdict"),
    [((3, 10, 9), "too old"), ((2, 7), "too old"), ((3, 11, 0), ""), ((3, 13, 9), ""), ((3, 14, 0), "too new")],
)
def test_python_is_judged(version, verdict):
    assert setup.judge(version) == verdict


def test_the_first_suitable_python_is_chosen():
    machine = {
        "python3.13": None,  # listed, does not start
        "python3.12": ((3, 12, 1), False),  # without venv
        "python3.11": ((3, 11, 7), True),
        "python3": ((3, 9, 2), True),
    }
    assert setup.choose(machine, ask=machine.get) == ("python3.11", (3, 11, 7))


def test_no_suitable_python_is_told_in_words():
    machine = {"python3": ((3, 9, 2), True), "python3.14": ((3, 14, 0), True), "python3.12": ((3, 12, 1), False)}
    with pytest.raises(setup.SetupError) as caught:
        setup.choose([*machine, "python"], ask=machine.get)
    text = str(caught.value)
    assert "Python 3.11 to 3.13" in text
    assert "python3 is Python 3.9.2, which is too old" in text
    assert "python3.14 is Python 3.14.0, which is too new" in text
    assert "apt install python3.12-venv" in text
    assert "What to do" in text
    with pytest.raises(setup.SetupError, match="None of these starts: python3"):
        setup.choose(["python3"], ask=lambda command: None)


def test_probe_asks_a_real_interpreter(tmp_path):
    assert setup.probe(sys.executable) == (tuple(sys.version_info[:3]), True)
    assert setup.probe(str(tmp_path / "python9")) is None
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho 'version not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    assert setup.probe(str(broken)) is None


def test_disk_space():
    giga = 10**9
    setup.check_disk(free=10 * giga, present=0, needed=9 * giga)
    setup.check_disk(free=4 * giga, present=6 * giga, needed=9 * giga)  # a set-up that is nearly complete
    with pytest.raises(setup.SetupError) as caught:
        setup.check_disk(free=2 * giga, present=giga, needed=9 * giga)
    assert "needs about 9 GB" in str(caught.value) and "2.0 GB are free" in str(caught.value)
    assert "make 6.0 GB of room" in str(caught.value)


@pytest.mark.parametrize(
    ("log", "meaning"),
    [
        ("OSError: [Errno 28] No space left on device", "disk became full"),
        ("NewConnectionError('<x>: Failed to establish: [Errno 111] Connection refused')", "No network"),
        (
            "[Errno -3] Temporary failure in name resolution')': /simple/x/\nERROR: No matching distribution",
            "No network",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "requirements.lock names"),
        ("ssl.SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED", "certificate"),
        ("ERROR: No matching distribution found for torch==2.15.0", "no build for this machine"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "cannot be written"),
    ],
)
def test_failures_are_explained(log, meaning):
    text = setup.explain(log)
    assert meaning in text and "What to do" in text


def test_an_unknown_failure_shows_its_last_words():
    assert "  the end" in setup.explain("start\n" * 50 + "the end\n")
    assert setup.explain("start\n" * 50).count("start") == 8


def test_progress_is_read_from_the_output_of_pip():
    counts = {"collected": 0, "total": 200, "writing": False}
    assert "1 of about 200: torch==2.15.0" in setup.describe("Collecting torch==2.15.0 (from -r x)", counts)
    assert "torch (800.1 MB)" in setup.describe("  Downloading torch-2.15.0-cp311.whl (800.1 MB)", counts)
    assert "is here" in setup.describe("Installing collected packages: torch", counts) and counts["writing"]
    assert "network" in setup.describe("WARNING: Retrying (Retry(total=4", counts)
    assert setup.describe("  Using cached x.whl", counts) is None


def fake_environment(root, version="3.11.7"):
    """Make a folder that looks like a repository with a complete `.venv`."""
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "pyvenv.cfg").write_text(f"home = x\nversion = {version}\n")
    setup.venv_python(root).parent.mkdir(exist_ok=True)
    setup.venv_python(root).write_text("")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "requirements.lock").write_text("a==1\n")
    setup.write_stamp(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "pyproject.toml").write_text("[project]\nname = 'x'\n"),
        lambda root: (root / "requirements.lock").write_text("a==2\n"),
        lambda root: (root / ".venv" / "pyvenv.cfg").write_text("version = 3.12.1\n"),
        lambda root: (root / ".venv" / "pyvenv.cfg").write_text("nothing\n"),
        lambda root: setup.venv_python(root).unlink(),
        lambda root: setup.stamp_path(root).unlink(),
        lambda root: setup.stamp_path(root).write_text("half"),
    ],
)
def test_the_stamp_notices_every_change(tmp_path, change):
    fake_environment(tmp_path)
    assert setup.is_current(tmp_path)
    change(tmp_path)
    assert not setup.is_current(tmp_path)


def test_the_stamp_notices_a_move(tmp_path):
    fake_environment(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert not setup.is_current(tmp_path / "new")


def test_an_environment_made_elsewhere_is_noticed(tmp_path):
    fake_environment(tmp_path / "old")
    pip = setup.venv_python(tmp_path / "old").with_name("pip")
    pip.write_text(f"#!{setup.venv_python(tmp_path / 'old')}\nimport pip\n")
    assert not setup.moved(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert setup.moved(tmp_path / "new")


def test_line_ends_between_files_do_not_confuse_the_stamp(tmp_path):
    """Text that moves from the end of one file to the start of the next is a change."""
    fake_environment(tmp_path)
    before = setup.fingerprint(tmp_path, (3, 11, 7))
    (tmp_path / "pyproject.toml").write_text("[project]\na==1\n")
    (tmp_path / "requirements.lock").write_text("")
    assert setup.fingerprint(tmp_path, (3, 11, 7)) != before


def fake_package(site, name, content=b"x = 1\n"):
    """Put an installed package into a folder, as pip leaves it."""
    (site / f"{name}.py").write_bytes(content)
    info = site / f"{name}-1.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(f"{name}.py,sha256=x,{len(content)}\n{name}-1.dist-info/RECORD,,\n")
    return info


def test_half_written_packages_are_found(tmp_path):
    for name in ("whole", "unmarked", "lost", "cut"):
        fake_package(tmp_path, name)
    (tmp_path / "unmarked-1.dist-info" / "INSTALLER").unlink()
    (tmp_path / "lost.py").unlink()
    (tmp_path / "cut.py").write_text("x")
    assert [info.name.split("-")[0] for info in setup.damaged(tmp_path)] == ["cut", "lost", "unmarked"]


# --- Set-up: the whole, with a lock of one small package --------------------------------------------------------------

BACKEND = """
import zipfile, pathlib
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tiny_course-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        info = "tiny_course-1.dist-info/"
        wheel.writestr("tiny_course.pth", str(pathlib.Path.cwd()) + "\\n")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tiny-course\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A repository whose lock names one package of one line, found in a folder; no network is used."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "onepack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("onepack.py", "x = 1\n")
        info = "onepack-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: onepack\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"onepack.py,,6\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    root = tmp_path / "repository"
    root.mkdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (root / "requirements.lock").write_text(f"onepack==1.0 --hash=sha256:{digest}\n")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny-course"\nversion = "1"\n'
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(setup, "CANDIDATES", (sys.executable,))
    return root


def imports(root, module):
    return subprocess.run([str(setup.venv_python(root)), "-c", f"import {module}"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_setup_is_complete_then_idle_then_repairs(small):
    said = []
    assert setup.set_up(small, say=said.append, needed=0) is True
    assert imports(small, "onepack") and imports(small, "backend")
    assert "complete" in said[-1]

    said.clear()
    assert setup.set_up(small, say=said.append, needed=0) is False
    assert said == []

    # Interrupted: no stamp, one package without its files, one half-made folder of pip's.
    setup.stamp_path(small).unlink()
    site = setup.site_packages(small)
    (site / "onepack.py").unlink()
    (site / "~nepack").mkdir()
    assert not imports(small, "onepack")
    assert setup.set_up(small, say=said.append, needed=0) is True
    assert imports(small, "onepack") and not (site / "~nepack").exists()
    assert "did not finish" in said[0] and "onepack" in said[1]

    # Interrupted earlier: the environment itself is half-made.
    setup.stamp_path(small).unlink()
    (site / "pip" / "__main__.py").unlink()
    assert setup.set_up(small, say=said.append, needed=0) is True
    assert setup.is_current(small) and imports(small, "onepack")


@pytest.mark.slow
def test_setup_names_what_stopped_it(small, monkeypatch):
    with pytest.raises(setup.SetupError, match="Not enough disk space"):
        setup.set_up(small, say=lambda text: None, needed=10**18)
    assert not (small / ".venv").exists()

    lock = small / "requirements.lock"
    good = lock.read_text()
    lock.write_text(re.sub(r"sha256:.*", "sha256:" + "0" * 64, good))
    with pytest.raises(setup.SetupError, match=r"requirements\.lock names"):
        setup.set_up(small, say=lambda text: None, needed=0)
    assert not setup.is_current(small)

    lock.write_text(good)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(setup.SetupError, match="No network"):
        setup.set_up(small, say=lambda text: None, needed=0)
    assert not setup.is_current(small)
    assert "onepack" in (small / ".venv" / "setup.log").read_text()


def test_a_wrong_python_on_the_command_line_is_refused(small, tmp_path):
    with pytest.raises(setup.SetupError, match="None of these starts"):
        setup.set_up(small, wanted=str(tmp_path / "python9"), say=lambda text: None, needed=0)
    assert not (small / ".venv").exists()


# --- The steps of make ------------------------------------------------------------------------------------------------


def with_steps(monkeypatch, *steps):
    monkeypatch.setattr(tasks, "steps_of", lambda task, chapters, report: [*steps])


def python_step(name, code, **more):
    return tasks.Step(name, [sys.executable, "-c", code], **more)


def test_the_last_line_is_the_verdict(monkeypatch, capfd):
    monkeypatch.delenv("CI", raising=False)
    with_steps(monkeypatch, python_step("one", ""), python_step("two", ""))
    assert tasks.run("test", []) == 0
    assert re.fullmatch(r"make test: all 2 steps passed in .*\.", capfd.readouterr().out.splitlines()[-1])


def test_the_first_fault_stops_and_is_named(monkeypatch, capfd):
    with_steps(
        monkeypatch,
        python_step("one", ""),
        python_step("two", "import sys; sys.exit(3)", hint="Try this."),
        python_step("three", "print('never')"),
    )
    assert tasks.run("test", []) == 1
    out = capfd.readouterr().out
    assert out.splitlines()[-2:] == ["Try this.", "make test: FAILED at “two”: it ended with status 3."]
    assert "never" not in out


def test_no_collected_test_is_a_fault(monkeypatch, capfd, tmp_path):
    (tmp_path / "test_nothing.py").write_text("x = 1\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    with_steps(monkeypatch, tasks.Step("empty", tasks.pytest("-p", "no:cacheprovider", str(tmp_path))))
    assert tasks.run("test", []) == 1
    assert "no test was collected" in capfd.readouterr().out.splitlines()[-1]


def test_what_is_left_out_is_said_and_fails_in_ci(monkeypatch, capfd):
    with_steps(monkeypatch, python_step("one", ""), python_step("two", "", needs="tests/not_there.py"))
    monkeypatch.delenv("CI", raising=False)
    assert tasks.run("test", []) == 0
    assert "Left out: two (tests/not_there.py is not there)" in capfd.readouterr().out.splitlines()[-1]
    monkeypatch.setenv("CI", "true")
    assert tasks.run("test", []) == 1
    assert "FAILED: left out: two" in capfd.readouterr().out.splitlines()[-1]


def test_browser_tests_may_be_skipped_at_home_but_not_in_ci(monkeypatch, capfd, tmp_path):
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite name="pytest" failures="0" skipped="1" tests="2"/></testsuites>')
    assert tasks.skipped(str(report)) == 1 and tasks.skipped(str(tmp_path / "none.xml")) == 0
    with_steps(monkeypatch, python_step("pages in a browser", ""))
    monkeypatch.setattr(tasks, "skipped", lambda path, real=tasks.skipped: real(report))
    monkeypatch.setattr(tasks.shutil, "which", lambda name: name)
    monkeypatch.delenv("CI", raising=False)
    assert tasks.run("test", []) == 0
    assert "Left out: 1 of the pages in a browser" in capfd.readouterr().out.splitlines()[-1]
    monkeypatch.setenv("CI", "true")
    assert tasks.run("test", []) == 1
    assert "1 tests were skipped" in capfd.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(tasks.shutil, "which", lambda name: None)
    assert tasks.run("test", []) == 1
    assert "no chromium" in capfd.readouterr().out.splitlines()[-1]


def test_steps_are_cheap_first_and_chapters_reach_the_notebooks():
    steps = {step.name: step for step in tasks.steps_of("test", ["00", "03"], "report.xml")}
    assert next(iter(steps)) == "lint"
    assert list(steps).index("book") < list(steps).index("pages in a browser")
    assert steps["chapters, every cell"].command[-3:] == ["check", "00", "03"]
    quick = tasks.steps_of("quick", [], "")
    assert [step.name for step in quick] == ["lint", "format", "unit tests, file rules, doctests"]
    assert "not slow and not browser" in quick[-1].command
    with pytest.raises(ValueError, match="'tea'"):
        tasks.steps_of("tea", [], "")


def test_every_step_has_one_thread(monkeypatch, capfd):
    code = "import os, json; print(json.dumps(os.environ['OMP_NUM_THREADS']))"
    with_steps(monkeypatch, python_step("threads", code))
    assert tasks.run("quick", []) == 0
    assert json.dumps("1") in capfd.readouterr().out.splitlines()
