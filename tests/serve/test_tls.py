"""TLS with a certificate of one's own: real https, nothing by http, and files that do not serve are said."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_server import Process

from treadle.core.errors import UserError
from treadle.core.project import load_project
from treadle.serve.server import run_server
from treadle.serve.tls import tls_context
from treadle.spec.access import Tls

Serve = Callable[..., Any]
FILES = ("serve.tls={certificate: cert.pem, key: key.pem}",)


def openssl(*words: str) -> None:
    if not shutil.which("openssl"):
        assert os.environ.get("CI") != "true", "CI must have openssl"
        pytest.skip("needs the openssl command")
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_certificate(folder: Path, name: str = "") -> None:
    """cert.pem and key.pem for 127.0.0.1 and localhost."""
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(folder / f"{name}key.pem"),
        "-out", str(folder / f"{name}cert.pem"),
    )


@pytest.fixture
def files(site: Any) -> Path:
    folder: Path = site.project.folder
    make_certificate(folder)
    return folder


def test_a_client_that_trusts_the_certificate_is_answered(serve: Serve, files: Path) -> None:
    running = serve(*FILES)
    assert running.url.startswith("https://")
    assert running.complete("x", max_tokens=2).status_code == 200
    body = {"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}
    with running.client.stream("POST", "/v1/completions", json=body) as stream:
        assert [line for line in stream.iter_lines() if line][-1] == "data: [DONE]"
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(running.url + "/healthz")


def test_http_is_not_answered_and_disturbs_nothing(serve: Serve, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = serve(*FILES)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(running.url.replace("https://", "http://") + "/healthz")
    assert running.client.get("/healthz").status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_old_tls_is_refused(serve: Serve, files: Path) -> None:
    port = int(serve(*FILES).url.rpartition(":")[2])
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
        old.wrap_socket(plain)


def test_browsers_are_told_to_stay_with_https_except_on_this_machine(serve: Serve, files: Path, site: Any) -> None:
    site.ledger.add_key("a")
    running = serve(*FILES, host="0.0.0.0")
    for path in ("/", "/healthz", "/nowhere", "/v1/models"):
        elsewhere = running.client.get(path, headers={"host": "models.example.com:8443"})
        assert elsewhere.headers["strict-transport-security"] == "max-age=31536000"
        for name in ("localhost", "127.0.0.1:8443"):
            assert "strict-transport-security" not in running.client.get(path, headers={"host": name}).headers


def test_a_client_that_leaves_by_half_frees_its_slot(serve: Serve, files: Path, until: Callable[..., None]) -> None:
    running = serve("serve.slots=1", "serve.queue=0", *FILES)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 1000, "temperature": 0, "stream": True})
    trusting = ssl.create_default_context(cafile=str(files / "cert.pem"))
    plain = socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])))
    with plain, trusting.wrap_socket(plain, server_hostname="localhost") as client:
        head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        until(lambda: running.live.worker.active)
        client.shutdown(socket.SHUT_WR)
        until(lambda: running.complete("x", max_tokens=1).status_code == 200, seconds=10)


def test_the_whole_server_says_https_and_stops(files: Path, site: Any) -> None:
    server = Process(files, 0.0, FILES)
    assert server.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(files / "cert.pem"))
    assert httpx.get(f"{server.url}/readyz", verify=trusting).json()["status"] == "ready"
    server.popen.send_signal(signal.SIGTERM)
    code, out, err = server.end()
    assert (code, out) == (0, "ended well\n"), err
    assert [row["detail"].get("url") for row in site.ledger.audit()][1:] == [server.url, server.url]


def test_files_that_do_not_serve_are_said_before_anything_starts(site: Any, files: Path) -> None:
    make_certificate(files, "other-")
    openssl("pkey", "-in", str(files / "key.pem"), "-aes256", "-passout", "pass:secret", "-out", str(files / "locked.pem"))
    (files / "words.pem").write_text("no certificate\n")
    (files / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for certificate, key, said, cure in (
        ("absent.pem", "key.pem", r"serve\.tls\.certificate: cannot read .*absent\.pem: No such file", "PEM file"),
        ("cert.pem", "absent.pem", r"serve\.tls\.key: cannot read .*absent\.pem: No such file", "PEM file"),
        ("key.pem", "cert.pem", r"serve\.tls\.certificate: .*key\.pem holds no certificate, but the other", "with the certificate"),
        ("cert.pem", "cert.pem", r"serve\.tls\.key: .*holds no private key", "with the private key"),
        ("words.pem", "key.pem", "holds no certificate, but no PEM", "with the certificate"),
        ("other-cert.pem", "key.pem", r"other-cert\.pem is not the certificate of .*key\.pem", "made for this key"),
        ("cert.pem", "locked.pem", "cannot use", "without a password"),
        ("broken.pem", "key.pem", "cannot use", "PEM"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            tls_context(files, Tls(certificate=certificate, key=key))
        assert cure in caught.value.cure
        assert caught.value.exit_code == 2
    project = load_project(files, ("serve.tls={certificate: absent.pem, key: key.pem}",))
    with pytest.raises(UserError, match=r"serve\.tls"):
        run_server(project, site.store, site.ledger, "127.0.0.1", 0)
