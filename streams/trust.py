"""Certificates: whom a connection trusts, and by what it is known itself."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from streams.errors import WrongSettings

if TYPE_CHECKING:
    from pathlib import Path


def tls(ca: Path | None, certificate: Path | None, key: Path | None, names: str) -> ssl.SSLContext:
    """A context that checks the other side's certificate and host name, TLS 1.2 or later.

    `ca`: trust only these; None: those of the system. `certificate`: our own, its key in `key` or in the same file.
    `names`: how the settings begin that gave them, such as `TIDEMARK_KAFKA`. Raises `WrongSettings`.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as problem:
        raise WrongSettings((f"{names}_CA: {ca} holds no certificates in PEM form ({_why(problem)})",)) from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is None:
        return context
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key fails here instead of asking
    except OSError as problem:
        files = f"{certificate} and {key or 'the key in it'}"
        wanted = "a certificate and its key in PEM form, not encrypted"
        raise WrongSettings((f"{names}_CERTIFICATE: {files} are not {wanted} ({_why(problem)})",)) from problem
    return context


def _why(problem: OSError) -> str:
    return (isinstance(problem, ssl.SSLError) and problem.reason) or problem.strerror or type(problem).__name__
