"""Uploads to a stand-in for the hub of Hugging Face, in processes of their own, since the library reads its settings
when it is imported."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.helpers.hub import Hub, hub
from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.sharing import check_push

TOKEN = "hf_averysecrettoken"
PUSH = """
import sys
from pathlib import Path
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.inference.sharing import check_push, push

name, public, folder = sys.argv[1], sys.argv[2] == "public", Path(sys.argv[3])
try:
    check_push(name, public)
    print(push(folder, name, public))
except (ConfigError, RunFailed) as err:
    print(type(err).__name__, err)
assert "torch" not in sys.modules
"""


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as state:
        yield state


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("---\nlicense: mit\n---\n\n# A card\n")
    (tmp_path / "export" / "student.safetensors").write_bytes(bytes(range(256)))
    return tmp_path / "export"


@pytest.fixture
def settings(tmp_path) -> dict[str, str]:
    """The environment of a process, without anything of the user's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {**own, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": TOKEN}


def pushed(folder: Path, settings: dict[str, str], name: str = "me/mine", public: bool = False) -> str:
    command = [sys.executable, "-c", PUSH, name, "public" if public else "private", str(folder)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and TOKEN not in done.stdout + done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("public", [False, True])
def test_an_upload_makes_the_repository_and_brings_all_files(there, folder, settings, public):
    assert pushed(folder, {**settings, "HF_ENDPOINT": there.address}, public=public) == f"{there.address}/me/mine"
    assert there.private == {"me/mine": not public}
    assert there.files == {each.name: each.read_bytes() for each in folder.iterdir()}
    assert f"Bearer {TOKEN}" in there.tokens


def test_a_token_that_was_stored_by_the_library_is_found_and_stays_where_it_is(there, folder, settings, tmp_path):
    del settings["HF_TOKEN"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    pushed(folder, {**settings, "HF_ENDPOINT": there.address})
    assert f"Bearer {TOKEN}" in there.tokens
    having = [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert having == [tmp_path / "home" / "token"]


def test_a_repository_that_is_there_gets_another_commit(there, folder, settings):
    there.private["me/mine"] = True
    pushed(folder, {**settings, "HF_ENDPOINT": there.address})
    assert there.files and not [asked for asked in there.asked if "repos/create" in asked]


@pytest.mark.parametrize(
    "private, said", [(True, "is private, not public; leave --public out"), (False, "is public, not private; give")]
)
def test_nobody_sees_more_or_less_than_was_said(there, folder, settings, private, said):
    there.private["me/mine"] = private
    answer = pushed(folder, {**settings, "HF_ENDPOINT": there.address}, public=private)
    assert answer.startswith("ConfigError --push me/mine: is there already and ") and said in answer
    assert not there.files


def test_what_is_offline_is_refused_before_anything_is_asked(there, folder, settings):
    answer = pushed(folder, {**settings, "HF_ENDPOINT": there.address, "HF_HUB_OFFLINE": "1"})
    assert answer == "ConfigError --push me/mine: HF_HUB_OFFLINE is set, so the hub can't be reached; unset it"
    assert not there.asked


@pytest.mark.parametrize(
    "name, public, said",
    [
        ("me/mine", False, "--push me/mine: nobody is logged in on the hub; do so by `hf auth login`, or set HF_TOKEN"),
        ("mine", False, "--push mine: expected OWNER/NAME, with the name of a user"),
        ("me/a/b", False, "--push me/a/b: expected OWNER/NAME ("),
        ("me/a b", True, "--push me/a b: expected OWNER/NAME ("),
        (None, True, "--public: has no effect without --push OWNER/NAME"),
    ],
)
def test_what_cannot_go_well_is_refused(monkeypatch, name, public, said):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigError) as raised:
        check_push(name, public)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("status", [0, 403])
def test_a_hub_that_cannot_be_reached_or_refuses_is_one_line(there, folder, settings, status):
    address = there.address if status else "http://127.0.0.1:9"
    there.refuses = status
    answer = pushed(folder, {**settings, "HF_ENDPOINT": address})
    assert len(answer.splitlines()) == 1 and answer.startswith("RunFailed --push me/mine: ")
    assert f"the export lies in {folder}, and `hf upload me/mine {folder}` tries again" in answer
    assert str(status or "refused") in answer


def test_the_command_exports_and_uploads(of_digits, there, settings, tmp_path):
    out = tmp_path / "mine"
    command = [
        sys.executable,
        "-m",
        "tgt_ray",
        "export",
        of_digits.folder,
        "--format",
        "safetensors",
        "--out",
        str(out),
    ]
    more = ["--license", "mit", "--push", "me/mine"]
    environment = {**settings, "HF_ENDPOINT": there.address}
    done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{there.address}/me/mine\n" and "student: " in done.stderr
    assert there.files == {each.name: each.read_bytes() for each in out.iterdir()}
    assert b"license: mit" in there.files["README.md"] and there.private == {"me/mine": True}
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and TOKEN.encode() in each.read_bytes()]
