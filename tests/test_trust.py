"""Files that should hold certificates: what is wrong with them is one line that names the setting."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from streams.errors import WrongSettings
from streams.trust import tls

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl here to issue certificates")


def issue(folder: Path, name: str, *encryption: str) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, *(encryption or ["-nodes"])]
    words = ["req", "-x509", *new, "-subj", f"/CN={name}", "-days", "2", "-out", certificate]
    subprocess.run([str(OPENSSL), *map(str, words)], check=True, capture_output=True)
    return certificate, key


def line(ca: Path | None, certificate: Path | None, key: Path | None) -> str:
    with pytest.raises(WrongSettings) as caught:
        tls(ca, certificate, key, "TIDEMARK_KAFKA")
    (said,) = caught.value.lines
    return said


def test_a_context_checks_certificate_and_host_name(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "one")
    context = tls(certificate, certificate, key, "TIDEMARK_KAFKA")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "one"),),)]


def test_a_key_may_be_in_the_file_of_its_certificate(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path, "one")
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    tls(certificate, both, None, "TIDEMARK_KAFKA")


def test_a_file_without_certificates_is_told_by_its_setting(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    assert line(empty, None, None).startswith(f"TIDEMARK_KAFKA_CA: {empty} holds no certificates")


def test_a_key_that_does_not_fit_or_is_encrypted_is_told_and_nobody_is_asked(tmp_path: Path) -> None:
    certificate, _ = issue(tmp_path, "one")
    _, other = issue(tmp_path, "other")
    locked, key = issue(tmp_path, "locked", "-passout", "pass:secret")
    for pair in ((certificate, other), (certificate, None), (locked, key)):
        assert line(None, *pair).startswith(f"TIDEMARK_KAFKA_CERTIFICATE: {pair[0]} and ")
