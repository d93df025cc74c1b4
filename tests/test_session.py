"""session: profiles, seeds, records."""

import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from course_utils import data, parallel, session

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    monkeypatch.delenv("COURSE_DATA", raising=False)


def test_profile_comes_from_argument_then_variable_then_live(monkeypatch):
    assert session.start("demo").profile == "live"
    monkeypatch.setenv("COURSE_PROFILE", "full")
    assert session.start("demo").profile == "full"
    assert session.start("demo", profile="live").profile == "live"
    assert session.start("demo", profile="live").pick(live=24, full=64) == 24
    assert session.start("demo", profile="full").pick(live=24, full=64) == 64


def test_start_says_in_one_line_what_runs_where_on_which_data(capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "some/folder")
    session.start("demo")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    for word in ("demo", "live", "some/folder", "minute"):
        assert word in printed


def test_full_without_cuda_says_that_it_runs_on_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    started = session.start("demo", profile="full")
    assert started.device.type == "cpu"
    assert "no CUDA" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [{"profile": "fast"}, {"seed": -1}, {"seed": 1.5}, {"seed": True}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        session.start("demo", **bad)


@pytest.mark.parametrize("chapter", ["", "a/b", None])
def test_bad_chapter_names(chapter):
    with pytest.raises(ValueError, match="chapter"):
        session.start(chapter)


def test_generators_live_where_they_should_and_repeat():
    one, two = session.start("demo", seed=3), session.start("demo", seed=3)
    assert one.rng.device.type == "cpu"
    assert one.device_rng.device.type == one.device.type
    assert torch.equal(torch.rand(5, generator=one.rng), torch.rand(5, generator=two.rng))


def test_reseed_sets_every_global_generator():
    course = session.start("demo")

    def draws(seed):
        rng = course.reseed(seed)
        return torch.rand(3, generator=rng), torch.rand(3), torch.from_numpy(np.random.rand(3))

    first, again, other = draws(1), draws(1), draws(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert course.seeds == [1, 2]


def test_live_profile_records_nothing(tmp_path):
    session.start("demo").record("a", {"x": 1.0})
    assert not (tmp_path / "results").exists()


def test_only_the_first_of_several_processes_records(tmp_path, monkeypatch):
    course = session.start("demo", profile="full")
    monkeypatch.setattr(parallel, "place", lambda: (1, 2))
    course.record("a", {"b": 1})
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(parallel, "place", lambda: (0, 2))
    course.record("a", {"b": 1})
    assert (tmp_path / "results").exists()


def test_record_merges_and_tells_where_it_comes_from(tmp_path):
    course = session.start("demo", profile="full")
    data.load("digits")
    course.reseed(7)
    ax = plt.subplots()[1]
    course.record("a", {"x": torch.tensor(1.5), "deep": {"y": np.arange(2)}}, figure=ax)
    course.record("b", {"x": 2})
    course.record("a", {"x": 3})
    stored = json.loads((tmp_path / "results" / "demo.json").read_text())
    assert sorted(stored) == ["a", "b"]
    assert course.recorded("a")["x"] == 3
    assert course.recorded("b")["metrics"] == {"x": 2}
    assert course.recorded("c") is None
    assert stored["a"]["seeds"] == [7]
    assert "digits" in stored["a"]["data"]
    assert {"commit", "hardware", "device", "seconds", "versions", "date", "figure"} <= set(stored["a"])
    assert (tmp_path / "results" / "demo-a.png").is_file()
    assert [p.name for p in (tmp_path / "results").glob("*.part")] == []


@pytest.fixture
def card(monkeypatch):
    """A GPU as far as a session sees it: its name, and a count of how often its memory was asked for."""
    asked = {"allocation.all.allocated": 3}  # something was there before the chapter began
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some card")
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: asked)
    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": real())
    return asked


def test_a_record_names_the_gpu_only_where_its_work_ran_there(card, capsys):
    course = session.start("demo", profile="full")
    assert "Some card" in capsys.readouterr().out
    course.record("rule", {"x": 1})
    card["allocation.all.allocated"] += 40
    course.record("net", {"x": 1})
    course.record("table", {"x": 1})  # nothing new was computed on the card since
    where = {name: tuple(course.recorded(name)[key] for key in ("device", "offered")) for name in ("rule", "net")}
    assert where == {"rule": ("cpu", "cuda"), "net": ("cuda", "cuda")}
    assert course.recorded("net")["hardware"] == "Some card"
    for name in ("rule", "table"):
        assert course.recorded(name)["device"] == "cpu" and course.recorded(name)["hardware"].startswith("CPU ")


def test_a_record_on_the_cpu_never_asks_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: pytest.fail("asked"))
    course = session.start("demo", profile="full")
    course.record("a", {"x": 1})
    assert [course.recorded("a")[key] for key in ("device", "offered")] == ["cpu", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_count_of_a_real_gpu_rises_with_its_work():
    course = session.start("demo", profile="full")
    torch.ones(3).sum()
    course.record("cpu", {"x": 1})
    torch.ones(3, device="cuda").sum()
    course.record("gpu", {"x": 1})
    assert [course.recorded(name)["device"] for name in ("cpu", "gpu")] == ["cpu", "cuda"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), torch.tensor([1.0, float("nan")])])
def test_what_cannot_be_recorded_is_refused_in_both_profiles(value):
    for profile in session.PROFILES:
        with pytest.raises(ValueError, match=r"metric a\.x"):
            session.start("demo", profile=profile).record("a", {"x": value})


def test_an_unreadable_record_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo.json").write_text("{half")
    with pytest.raises(ValueError, match=r"demo\.json"):
        session.start("demo")


def test_autocast_follows_the_hardware(monkeypatch):
    course = session.start("demo")
    monkeypatch.setattr(session, "_has_bf16", lambda device: True)
    with course.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    monkeypatch.setattr(session, "_has_bf16", lambda device: False)
    with course.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
