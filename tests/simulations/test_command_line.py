"""`dewfall` as a new user meets it: what it offers, how it refuses, and that looking around costs nothing."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protos.certificates import CertificateFiles, ensure_certificate

DOCS = Path(__file__).parents[2] / "docs"
PACKAGES = ("simulations", "edge_agent", "fog_aggregator", "cloud_server")
COMMANDS = {
    "": ("demo", "doctor", "edge", "fog", "cloud", "simulate", "bench"),
    "edge": ("run", "enroll", "status", "infer", "pause", "resume", "config"),
    "fog": ("run", "enroll-token", "status", "ledger", "config"),
    "cloud": ("init", "serve", "enroll-token", "releases", "status", "config"),
    "simulate": ("forgetting", "healing"),
    "bench": ("rounds", "continual", "offload"),
}
WRONG = (
    ("nonsense",),
    ("demo", "--sed", "1"),
    ("demo", "--seed", "one"),
    ("simulate", "forgetting", "--backend", "dask"),
    ("simulate", "forgetting", "--devices", "0"),
    ("bench", "rounds", "--rounds", "1"),
    ("edge", "run"),
    ("edge", "status"),
    ("edge", "infer", "--config", "x"),
    ("fog", "status"),
    ("fog", "enroll-token", "--state", "a", "--config", "b"),
    ("cloud", "init", "--data", "nonsense"),
    ("cloud", "enroll-token"),
)
NOW_S = 1_800_000_000.0


def dewfall(*words, package="simulations"):
    return subprocess.run(
        [sys.executable, "-m", package, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"},
    )


@pytest.mark.parametrize("group", COMMANDS)
def test_the_help_lists_every_command(group):
    done = dewfall(*([group] if group else []), "--help")
    assert done.returncode == 0
    listed = re.findall(r"^. (\S+)", done.stdout.partition("Commands")[2], re.MULTILINE)
    assert set(COMMANDS[group]) <= set(listed)


def test_the_readme_names_every_command():
    text = (DOCS.parent / "README.md").read_text()
    for group, names in COMMANDS.items():
        lines = [line for line in text.splitlines() if line.strip().startswith(f"dewfall {group}".strip())]
        assert all(any(name in line for line in lines) for name in names), group


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_called_without_words_shows_its_help(package):
    done = dewfall(package=package)
    assert f"python -m {package}" in done.stdout + done.stderr


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_words_are_refused_at_once_with_code_2(words):
    done = dewfall(*words)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [("--help",), ("edge", "--help"), ("fog", "--help"), ("cloud", "init", "--help")])
def test_help_imports_nothing_that_learns_and_nothing_that_talks(words):
    code = (
        "import sys\nsys.argv[0] = 'dewfall'\nfrom simulations.command_line import main\n"
        "try:\n    main()\nfinally:\n    print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "typer" in loaded
    assert not {"torch", "flwr", "grpc", "onnxruntime", "matplotlib", "sklearn", "psutil"} & set(loaded)


def test_help_takes_little_time():
    before, began = os.times(), time.perf_counter()
    dewfall("--help")
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert used_s < 1.5, f"{used_s:.2f} s of CPU, {time.perf_counter() - began:.2f} s in all"  # 0.5 s when undisturbed


def test_the_doctor_names_every_role_and_what_lacks():
    done = dewfall("doctor")
    assert done.returncode == 0
    for word in ("Python", "role edge", "role train", "role fog", "role cloud", "role sim", "disk", "memory", "cores"):
        assert word in done.stdout


def test_the_doctor_works_where_only_the_base_is_installed():
    code = (
        "import sys\n"
        "for name in ('torch', 'flwr', 'psutil', 'grpc', 'onnxruntime'):\n    sys.modules[name] = None\n"
        "from simulations.doctor import examine\nexamine()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "role edge" in done.stdout


@pytest.mark.parametrize(
    ("package", "title"), [("fog_aggregator", "A fog"), ("edge_agent", "A device"), ("cloud_server", "The cloud")]
)
def test_the_settings_in_the_documents_are_right_once_the_blanks_are_filled(tmp_path, package, title):
    names = ("ca.crt", "ca.key", "leaf.crt", "leaf.key")
    ensure_certificate(CertificateFiles(*(tmp_path / name for name in names)), "t", ("localhost",), NOW_S)
    section = (DOCS / "configuration.md").read_text().partition(f"## {title}\n")[2]
    text = section.partition("```toml\n")[2].partition("```")[0]
    text = text.replace("…64 hex digits…", "ab" * 32).replace('"…"', '"token"')
    settings = tmp_path / "settings.toml"
    settings.write_text(re.sub(r'ca = "[^"]*"', f'ca = "{tmp_path / "ca.crt"}"', text))
    done = dewfall("config", "check", "--config", settings, package=package)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_json():
    assert json.loads(dewfall("cloud", "config", "check", "--json").stdout)["listen"]["port"] == 9443


def test_the_environment_counts_without_a_settings_file_too(monkeypatch):
    monkeypatch.setenv("DEWFALL_CLOUD__LISTEN__PORT", "7")
    assert json.loads(dewfall("cloud", "config", "check", "--json").stdout)["listen"]["port"] == 7
    monkeypatch.setenv("DEWFALL_CLOUD__LISTEN__PORT", "70000")
    done = dewfall("cloud", "config", "check")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'listen.port' does not fit" in done.stderr
