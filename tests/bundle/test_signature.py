"""Who signed a bundle: by the key that is asked for, by another, by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from forger import copied
from playing import cli
from signed import Made, ssh_key

from local_shutdown.bundle import signature
from local_shutdown.bundle.layout import SIGNATURE
from local_shutdown.errors import CannotRunError


def test_the_authors_signature_is_found_to_be_theirs(made: Made, tmp_path: Path) -> None:
    public = made.key.with_suffix(".pub")
    assert signature.check(made.bag, public).status == "ok"
    allowed = tmp_path / "allowed_signers"
    allowed.write_text(f"author@example.org {public.read_text()}")
    found = signature.check(made.bag, allowed)
    assert (found.status, "author@example.org" in found.said) == ("ok", True)
    assert cli("verify", made.file, "--allowed-signers", public).exit_code == 0


def test_without_a_key_it_is_not_known_whose_it_is(made: Made) -> None:
    found = signature.check(made.bag, None)
    assert (found.status, "SHA256:" in found.said) == ("not checkable", True)


def test_another_key_is_not_the_authors(made: Made, tmp_path: Path) -> None:
    """A replaced signature: everything is made anew and signed, by somebody else."""
    forger = copied(made.bag, tmp_path)
    forger.text("runs/played/run.json", "scripted", "scripted")
    forger.checksums()
    signature.sign(forger.bag, ssh_key(tmp_path / "other"))
    assert signature.check(forger.bag, None).status == "not checkable"
    found = signature.check(forger.bag, made.key.with_suffix(".pub"))
    assert found.status == "FAILED"
    words = ("verify", forger.bag, "--allowed-signers", made.key.with_suffix(".pub"))
    assert cli(*words).exit_code == 1


def test_a_signature_of_something_else_is_none(made: Made, tmp_path: Path) -> None:
    forger = copied(made.bag, tmp_path)
    kept = (forger.bag / SIGNATURE).read_bytes()
    forger.text("../README.md", "Shutdown resistance", "Another title")
    forger.checksums()
    (forger.bag / SIGNATURE).write_bytes(kept)  # of the manifest as it was
    assert signature.check(forger.bag, None).status == "FAILED"
    (forger.bag / SIGNATURE).write_bytes(b"garbage")
    assert signature.check(forger.bag, None).status == "FAILED"


def test_an_unsigned_bundle_is_called_so(made: Made, tmp_path: Path) -> None:
    forger = copied(made.bag, tmp_path)
    (forger.bag / SIGNATURE).unlink()
    assert signature.check(forger.bag, None).status == "not checkable"
    assert signature.check(forger.bag, made.key.with_suffix(".pub")).status == "FAILED"


def test_what_is_no_key_cannot_sign(made: Made, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    for name in ("key", "missing"):
        done = cli("bundle", made.run, "--out", tmp_path / "x.zip", "--sign", tmp_path / name)
        assert done.exit_code == 2
    assert not (tmp_path / "x.zip").exists()


def test_without_ssh_keygen(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert signature.check(made.bag, None).status == "not checkable"
    with pytest.raises(CannotRunError):
        signature.check(made.bag, made.key.with_suffix(".pub"))
