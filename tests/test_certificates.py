"""Certificates in PEM files: what is read agrees with openssl, and files that change count."""

import logging
import os
from pathlib import Path

import pytest

from node.certificates import (
    CertificateError,
    ReloadedFiles,
    fingerprint,
    pinned_fingerprints,
    read_certificates,
    validity,
)
from node.config import Peer, Role
from tests.authority import Authority


@pytest.mark.peers
def test_certificate_when_read_agrees_with_openssl(authority: Authority) -> None:
    """Fingerprint and time of validity, also behind the year 2049 (another form of time)."""
    for path in (
        authority.certificate,
        authority.issue("short").certificate,
        authority.issue("long", days=365 * 40).certificate,
        authority.issue("rsa", new_key=("rsa:2048",)).certificate,
    ):
        (der,) = read_certificates(path)
        assert der == authority.der(path)
        assert fingerprint(der) == authority.fingerprint(path).replace(":", "").lower()
        found = validity(der)
        told = tuple(
            moment.isoformat().replace("+00:00", "Z")
            for moment in (found.not_before, found.not_after)
        )
        assert told == authority.dates(path)


@pytest.mark.peers
def test_bundle_when_read_gives_every_certificate(authority: Authority, tmp_path: Path) -> None:
    """Text between the certificates, as openssl writes it, is passed over."""
    paths = [authority.certificate, authority.issue("a").certificate]
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("\n\nsubject=é\n".join(path.read_text() for path in paths), encoding="utf-8")
    assert read_certificates(bundle) == tuple(authority.der(path) for path in paths)


@pytest.mark.peers
@pytest.mark.parametrize("size", [0, 1, 2, 40, 100, -1])
def test_certificate_when_cut_off_is_refused(authority: Authority, size: int) -> None:
    """Bytes that are no certificate end in one kind of error."""
    with pytest.raises(ValueError, match=r"."):
        validity(authority.der(authority.certificate)[:size])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "holds no certificate"),
        (b"\x30\x82\x01\x0a", "holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "damaged"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "damaged"),
    ],
)
def test_file_without_certificates_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """The error names the file."""
    path = tmp_path / "peer.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateError, match=words) as refused:
        read_certificates(path)
    assert str(path) in str(refused.value)


@pytest.mark.peers
def test_pinned_certificates_when_given_as_file_or_fingerprint_are_the_same(
    authority: Authority, tmp_path: Path
) -> None:
    """Either form of `certificate`; a file may hold the old and the new one."""

    def pinned(certificate: str | None) -> frozenset[str]:
        return pinned_fingerprints(
            Peer(name="a", ae_title="A", host="a", roles=(Role.SEND,), certificate=certificate)
        )

    old, new = authority.issue("old").certificate, authority.issue("new").certificate
    both = tmp_path / "both.pem"
    both.write_text(old.read_text() + new.read_text())
    assert pinned(None) == frozenset()
    assert pinned(str(old)) == pinned(f"sha256:{authority.fingerprint(old)}")
    assert pinned(str(both)) == pinned(str(old)) | pinned(str(new))
    assert len(pinned(str(both))) == 2


def test_changed_file_counts_from_the_next_look_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken state is logged once and the last good one stays; a mended one counts again."""
    path, loads = tmp_path / "file", []

    def load() -> str:
        loads.append(path)
        text = path.read_text() if path.exists() else "broken"
        if text == "broken":
            raise CertificateError("broken", hint="mend it")
        return text

    path.write_text("first")
    watched = ReloadedFiles([path], load)
    assert [watched.current() for _ in range(3)] == ["first"] * 3
    assert len(loads) == 1
    with caplog.at_level(logging.INFO):
        for content, expected in (
            ("second!", "second!"),
            ("broken", "second!"),
            (None, "second!"),
            ("third", "third"),
        ):
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
            assert [watched.current() for _ in range(3)] == [expected] * 3
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert said == [
        ("INFO", "certificates.reloaded"),
        ("ERROR", "certificates.not_reloaded"),
        ("ERROR", "certificates.not_reloaded"),
        ("INFO", "certificates.reloaded"),
    ]
    assert len(loads) == 5


def test_file_replaced_by_one_of_the_same_size_and_time_counts(tmp_path: Path) -> None:
    """A rename over the old file, as every careful program writes, is seen in any case."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("1")
    watched = ReloadedFiles([path], path.read_text)
    other.write_text("2")
    state = path.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)
    assert watched.current() == "2"


def test_unusable_files_at_the_start_are_an_error(tmp_path: Path) -> None:
    """Nothing starts with them."""
    with pytest.raises(CertificateError):
        ReloadedFiles([tmp_path], lambda: read_certificates(tmp_path))
