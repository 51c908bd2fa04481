"""Certificate authorities for tests, made by the openssl program."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from node.config import TlsSection

CURVE = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
BOTH_WAYS = "serverAuth,clientAuth"


@dataclass(frozen=True)
class Certified:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder; every certificate is for 127.0.0.1 unless told."""

    def __init__(self, folder: Path, openssl: str, name: str = "authority") -> None:
        self.folder, self.openssl = folder, openssl
        self.folder.mkdir(parents=True, exist_ok=True)
        own = self.self_signed(name)
        self.certificate, self.key = own.certificate, own.key

    def run(self, *arguments: str | Path) -> str:
        answer = subprocess.run(
            [self.openssl, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def self_signed(self, name: str) -> Certified:
        made = Certified(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        self.run(
            "req", "-x509", "-newkey", *CURVE, "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-keyout", made.key, "-out", made.certificate,
        )  # fmt: skip
        return made

    def issue(
        self,
        name: str,
        *,
        days: int = 60,
        usage: str = BOTH_WAYS,
        hosts: str = "IP:127.0.0.1,DNS:localhost",
        new_key: tuple[str, ...] = CURVE,
        digest: str = "sha256",
    ) -> Certified:
        """Return a new certificate; fewer than 0 days make it expired."""
        made = Certified(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(
            f"basicConstraints=critical,CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName={hosts}\n"
        )
        self.run(
            "req", "-new", "-newkey", *new_key, "-nodes", "-subj", f"/CN={name}",
            "-keyout", made.key, "-out", request,
        )  # fmt: skip
        self.run(
            "x509", "-req", "-in", request, "-days", str(days), f"-{digest}",
            "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
            "-extfile", extensions, "-out", made.certificate,
        )  # fmt: skip
        return made

    def fingerprint(self, certificate: Path) -> str:
        """Return the SHA-256 fingerprint as openssl prints it: pairs of digits and colons."""
        told = self.run("x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
        return told.strip().partition("=")[2]

    def der(self, certificate: Path) -> bytes:
        path = certificate.with_suffix(".der")
        self.run("x509", "-in", certificate, "-outform", "der", "-out", path)
        return path.read_bytes()

    def dates(self, certificate: Path) -> tuple[str, str]:
        """Return notBefore and notAfter, in ISO 8601."""
        told = self.run("x509", "-in", certificate, "-noout", "-dates", "-dateopt", "iso_8601")
        first, last = re.findall(r"=(\S+) (\S+)", told)
        return f"{first[0]}T{first[1]}", f"{last[0]}T{last[1]}"

    def settings(self, own: Certified, **changes: object) -> TlsSection:
        """Return `[tls]` with this certificate, that trusts this authority."""
        usual = {"certificate": own.certificate, "key": own.key, "port": 0}
        return TlsSection.model_validate({**usual, "peer_authorities": self.certificate, **changes})
