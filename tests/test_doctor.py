"""Planted faults: each is named, with what to do; a healthy machine is called healthy."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_utils import doctor
from course_utils.__main__ import main

ROOT = Path(__file__).resolve().parents[1]


def the(check, level):
    """Return the texts of one level that a check reports."""
    return [finding.text for finding in doctor.examine(check) if finding.level == level]


def test_this_machine_is_well_and_every_line_has_a_level(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert all(line.split()[0] in ("ok", "note") for line in lines), lines
    assert lines[-1].split(maxsplit=1) == ["ok", "all well"]


def test_one_fault_gives_status_one_and_a_count(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.data_folder,))
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "gone"))
    assert main(["doctor"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("fault") and "gone" in first and "mkdir" in first
    assert last.startswith("fault") and "1 to repair" in last


def test_unknown_command_is_refused_and_help_is_not(capsys):
    assert main(["nurse"]) == 2 and main([]) == 2
    assert "doctor" in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_a_check_that_breaks_does_not_hide_the_others():
    def unlucky():
        yield doctor.Finding("ok", "before")
        raise RuntimeError("boom")

    before, broken = doctor.examine(unlucky)
    assert before.level == "ok"
    assert broken.level == "fault" and "unlucky" in broken.text and "boom" in broken.text


@pytest.mark.parametrize(
    ("bounds", "version", "expected"),
    [
        (">=2.6", "2.6", True),
        (">=2.6", "2.6.0", True),
        (">=2.6", "2.10", True),  # compared as numbers, not as text
        (">=2.6", "2.5.9", False),
        (">=2.6.1", "2.6", False),
        (">=2.6", "2.11.0+cu128", True),
        (">=3.11,<3.14", "3.13.15", True),
        (">=3.11,<3.14", "3.14.0", False),
        ("<2", "2.0", False),
        ("", "1", True),
    ],
)
def test_bounds(bounds, version, expected):
    assert doctor.admits(bounds, version) is expected


def test_unknown_bounds_and_versions_are_refused():
    with pytest.raises(ValueError, match="~=1"):
        doctor.admits("~=1", "1")
    with pytest.raises(ValueError, match="'unknown'"):
        doctor.release("unknown")


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_unsupported_python(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    (fault,) = the(doctor.python, "fault")
    assert ".".join(map(str, version)) in fault and "3.11, 3.12 or 3.13" in fault


def plant(monkeypatch, **versions):
    """Let the metadata name these versions; None means that the distribution is missing."""
    real = importlib.metadata.version

    def version(name):
        key = name.replace("-", "_")
        if key not in versions:
            return real(name)
        if versions[key] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[key]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_missing_dependency(monkeypatch):
    plant(monkeypatch, seaborn=None)
    (fault,) = the(doctor.dependencies, "fault")
    assert fault.startswith("seaborn is missing") and "pip install 'seaborn>=" in fault
    assert "seaborn" not in the(doctor.dependencies, "ok")[0]


def test_old_dependency(monkeypatch):
    plant(monkeypatch, scikit_learn="0.24.2")
    (fault,) = the(doctor.dependencies, "fault")
    assert "scikit-learn 0.24.2 is too old" in fault and "pip install" in fault


def test_files_gone(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else real(name))
    (fault,) = the(doctor.dependencies, "fault")
    assert "scipy" in fault and "gone" in fault


def test_a_file_that_hides_a_package(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("")
    monkeypatch.chdir(tmp_path)
    (fault,) = the(doctor.dependencies, "fault")
    assert "torch.py" in fault and "rename" in fault


def test_package_not_installed(monkeypatch):
    plant(monkeypatch, course_utils=None)
    (fault,) = the(doctor.package, "fault")
    assert "not installed" in fault and "make book" in fault


def test_dependencies_are_known_even_when_not_installed(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    installed = sorted(name for name, _ in doctor.base_requirements())
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert sorted(name for name, _ in doctor.base_requirements()) == installed
    assert "torch" in installed and "pytest" not in installed


def test_stale_version(monkeypatch):
    plant(monkeypatch, course_utils="0.0.1")
    (fault,) = the(doctor.package, "fault")
    assert "0.0.1" in fault and "stale" in fault


def test_foreign_copy(monkeypatch, tmp_path):
    """We stand in one repository, and the environment imports from another."""
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf8"), encoding="utf8")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    (fault,) = the(doctor.package, "fault")
    assert str(tmp_path) in fault and str(ROOT) in fault and "pip uninstall" in fault


def test_another_project_is_not_mistaken_for_the_course(monkeypatch, tmp_path):
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "1"\n')
    assert doctor.repository_above(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert the(doctor.package, "fault") == []


@pytest.mark.parametrize("error", [OSError("libtorch.so: cannot open"), ImportError("no module")])
def test_broken_torch(monkeypatch, error):
    def ones(*size):
        raise error

    monkeypatch.setattr(torch, "ones", ones)
    (fault,) = the(doctor.torch_works, "fault")
    assert "torch does not work" in fault and str(error) in fault and "reinstall" in fault


def test_torch_that_computes_wrongly(monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *size: torch.zeros(*size))
    (fault,) = the(doctor.torch_works, "fault")
    assert "27 came out as 0" in fault


def test_gpu_lines(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (finding,) = doctor.gpu(torch)
    assert finding.level == "note" and "no CUDA device" in finding.text
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = doctor.gpu(torch)
    assert "without CUDA" in finding.text
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    (finding,) = doctor.gpu(torch)
    assert "sees no device" in finding.text and "nvidia-smi" in finding.text


def test_missing_tools_are_notes(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path=None: None)
    notes = the(doctor.tools, "note")
    assert [note.split()[0] for note in notes] == ["jupyter", "jupyter-book", "chromium"]
    assert the(doctor.tools, "fault") == []


def test_jupyter_book_2(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path=None: f"bin/{name}")
    plant(monkeypatch, jupyter_book="2.1.0")
    (fault,) = the(doctor.tools, "fault")
    assert "2.1.0" in fault and "<2" in fault


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    (note,) = the(doctor.data_folder, "note")
    assert "not set" in note
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert the(doctor.data_folder, "ok") == [f"COURSE_DATA {tmp_path}"]
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("COURSE_DATA", str(file))
    (fault,) = the(doctor.data_folder, "fault")
    assert "not a folder" in fault


def test_folders_without_permission(monkeypatch, tmp_path):
    """Planted through the functions that ask the system: permissions do not stop an administrator."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))

    def refuse(*words, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (note,) = the(doctor.data_folder, "note")
    assert "not written" in note
    (fault,) = the(doctor.results_folder, "fault")
    assert "cannot be stored" in fault and "COURSE_RESULTS" in fault
    monkeypatch.setattr(doctor.os, "access", lambda *words: False)
    (fault,) = the(doctor.data_folder, "fault")
    assert "cannot be read" in fault


def test_results_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "a" / "b"))  # made later, its parent can be written
    (text,) = the(doctor.results_folder, "ok")
    assert str(tmp_path / "a" / "b") in text
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").write_text("")
    (fault,) = the(doctor.results_folder, "fault")
    assert "not a folder" in fault


@pytest.mark.parametrize(("free", "level"), [(0.1, "fault"), (1.0, "note"), (50.0, "ok")])
def test_disk(monkeypatch, free, level):
    usage = type("Usage", (), {"free": free * 10**9})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    assert len(the(doctor.disk, level)) == 1


@pytest.mark.parametrize(("free", "level"), [(None, "note"), (10**9, "fault"), (8 * 10**9, "ok")])
def test_memory(monkeypatch, free, level):
    monkeypatch.setattr(doctor, "available_memory", lambda: free)
    assert len(the(doctor.memory, level)) == 1


def test_the_doctor_speaks_without_torch(tmp_path):
    """In a fresh process where torch and NumPy cannot be imported, the report still comes and names them."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from course_utils.__main__ import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "torch does not work" in done.stdout and "reinstall" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys; before = set(sys.modules); import course_utils; print(sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    assert done.stdout.strip() == "['course_utils']"
