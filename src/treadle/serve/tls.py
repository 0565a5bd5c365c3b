"""TLS with a certificate of one's own."""

from __future__ import annotations

import ssl
from pathlib import Path

from treadle.core.errors import UserError
from treadle.spec.access import Tls


def tls_context(folder: Path, files: Tls) -> ssl.SSLContext:
    """TLS as Python sets it up (1.2 or later) with ``files``, whose relative paths are of ``folder``.

    Raises ``UserError`` where they do not serve.
    """
    certificate, key = folder / files.certificate, folder / files.key
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            text = path.read_bytes()
        except OSError as error:
            message = f"serve.tls.{name}: cannot read {path}: {error.strerror}"
            raise UserError(message, cure="give the path of a PEM file that this user may read") from None
        wanted = b"CERTIFICATE-----" if name == "certificate" else b"PRIVATE KEY-----"
        if wanted not in text:
            held = "the other of the two" if b"-----BEGIN" in text else "no PEM"
            what = "certificate" if name == "certificate" else "private key"
            raise UserError(f"serve.tls.{name}: {path} holds no {what}, but {held}", cure=f"give the PEM file with the {what}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL would ask for one at the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            cure = "give the certificate that was made for this key, before those that vouch for it"
            raise UserError(f"serve.tls: {certificate} is not the certificate of {key}", cure=cure) from None
        cure = "the certificate is PEM; so is the key, without a password: 'openssl pkey -in OLD -out NEW' takes it away"
        why = error.reason or "not as it should be"
        raise UserError(f"serve.tls: cannot use {certificate} with {key}: {why}", cure=cure) from None
    return context
