"""SSH signatures (`ssh-keygen -Y`), by the program that everybody has: nothing of ours does
cryptography."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from local_shutdown.bundle.layout import SIGNATURE, TAG_MANIFEST, Finding, failed, ok, unknown
from local_shutdown.errors import CannotRunError, UsageError

NAMESPACE = "local-shutdown"
_TIMEOUT_S = 120  # a key on a token may wait for a touch
_PUBLIC_KEY = re.compile(r"(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]{40,}")
_CLAIM = "signature"


def sign(bag: Path, key: Path) -> None:
    """Write the signature of a bag's tag manifest beside it.

    Args:
        key: a private key, or the public one of a key that ssh-agent holds.

    Raises:
        UsageError: the key cannot be read or used.
        CannotRunError: there is no ssh-keygen.
    """
    if not key.is_file():
        raise UsageError(f"--sign {key}: no such file", "for example --sign ~/.ssh/id_ed25519")
    done = _keygen("sign", "-f", str(key.absolute()), "-n", NAMESPACE, str(bag / TAG_MANIFEST))
    if done.returncode or not (bag / SIGNATURE).is_file():
        raise UsageError(
            f"--sign {key}: ssh-keygen cannot sign with it: {_said(done)}",
            "give a private key; one with a passphrase asks for it, or add it to ssh-agent first",
        )


def check(bag: Path, allowed: Path | None) -> Finding:
    """The signature of a bag.

    Args:
        allowed: an allowed_signers file of ssh-keygen, or a public key; None to check only that
            the signature is one.

    Raises:
        UsageError: `allowed` cannot be read.
        CannotRunError: it is to be checked, and there is no ssh-keygen.
    """
    if allowed is not None and not allowed.is_file():
        raise UsageError(f"--allowed-signers {allowed}: no such file")
    signature = bag / SIGNATURE
    if not signature.is_file():
        said = "unsigned: whoever had the file can have written it anew"
        return unknown(_CLAIM, said) if allowed is None else failed(_CLAIM, said)
    if allowed is None and shutil.which("ssh-keygen") is None:
        return unknown(_CLAIM, "signed; ssh-keygen, which checks it, is not installed")
    manifest = (bag / TAG_MANIFEST).read_bytes()
    done = _keygen("check-novalidate", "-n", NAMESPACE, "-s", str(signature), said=manifest)
    if done.returncode:
        return failed(_CLAIM, f"{SIGNATURE} is not a signature of {TAG_MANIFEST}: {_said(done)}")
    by = _key(done)
    if allowed is None:
        return unknown(_CLAIM, f"by the key {by}; --allowed-signers FILE checks whose it is")
    with tempfile.TemporaryDirectory(prefix="local-shutdown-") as folder:
        signers = _signers(allowed, Path(folder))
        found = _keygen("find-principals", "-s", str(signature), "-f", str(signers))
        who = found.stdout.decode("utf-8", "replace").splitlines()
        if found.returncode or not who:
            return failed(_CLAIM, f"by the key {by}, which {allowed} does not allow")
        done = _keygen(
            *("verify", "-n", NAMESPACE, "-s", str(signature), "-f", str(signers), "-I", who[0]),
            said=manifest,
        )
    if done.returncode:
        return failed(_CLAIM, f"by the key {by}: {_said(done)}")
    return ok(_CLAIM, f"by {'the key given' if who[0] == '*' else who[0]}, {by}")


def _signers(allowed: Path, folder: Path) -> Path:
    """The allowed signers; a public key alone is made into such a file."""
    text = allowed.read_text(encoding="utf-8", errors="replace")
    lines = [one.strip() for one in text.splitlines() if one.strip() and one.strip()[0] != "#"]
    if not any(_PUBLIC_KEY.match(one) for one in lines):
        return allowed.absolute()
    made = folder / "allowed_signers"
    made.write_text(
        "".join(f'* namespaces="{NAMESPACE}" {one}\n' for one in lines if _PUBLIC_KEY.match(one)),
        encoding="utf-8",
    )
    return made


def _keygen(action: str, *words: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CannotRunError(
            "ssh-keygen is not installed, and signatures are made and checked with it",
            "install openssh-client, or leave --sign and --allowed-signers out",
        )
    # Signing may ask for a passphrase: it does so on the terminal, not on these streams.
    return subprocess.run(
        [program, "-Y", action, *words], input=said, capture_output=True, timeout=_TIMEOUT_S
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
    return text.splitlines()[0][:200] if text else f"exit status {done.returncode}"


def _key(done: subprocess.CompletedProcess[bytes]) -> str:
    found = re.search(rb"(\S+) key (SHA256:\S+)", done.stdout + done.stderr)
    return found[2].decode() if found else "of an unknown kind"
