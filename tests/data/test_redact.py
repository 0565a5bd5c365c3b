import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.data.steps.redact import redact

WORD = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0fG3hJ6kL9n"  # 40 letters and digits; the tokens below are made of it, so none is real

SECRET = [
    (f"key = {'AKIA'}IOSFODNN7EXAMPLE", "key = <AWS_KEY>"),
    (f"aws_secret_access_key = '{WORD}'", "aws_secret_access_key = '<AWS_KEY>'"),
    (f"ghp_{WORD[:36]}", "<TOKEN>"),
    (f"use github_pat_{WORD}_{WORD} here", "use <TOKEN> here"),
    (f"glpat-{WORD[:20]}", "<TOKEN>"),
    (f"xoxb-{'1234567890'}-{WORD[:24]}", "<TOKEN>"),
    (f"sk_live_{WORD[:24]}", "<TOKEN>"),
    (f"OPENAI: sk-proj-{WORD}", "OPENAI: <TOKEN>"),
    (f"AIza{WORD[:35]}", "<TOKEN>"),
    (f"eyJ{WORD[:20]}.eyJ{WORD[:30]}.{WORD}", "<TOKEN>"),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{WORD}\n{WORD}\n-----END RSA PRIVATE KEY-----\nx", "<PRIVATE_KEY>\nx"),
    (f"-----BEGIN OPENSSH PRIVATE KEY-----\n{WORD}\n{WORD}\n", "<PRIVATE_KEY>\n"),
    ("postgres://anna:s3cretpw@db.local/x", "postgres://anna:<PASSWORD>@db.local/x"),
    ("password = 'Tr0ub4dor&3'", "password = '<PASSWORD>'"),
    (f'"api_key": "{WORD[:24]}"', '"api_key": "<SECRET>"'),
    (f"API_TOKEN={WORD[:32]}\n", "API_TOKEN=<SECRET>\n"),
    (f"self.client_secret: str = '{WORD[:30]}'", "self.client_secret: str = '<SECRET>'"),
]

PERSONAL = [
    ("write to ada.lovelace+x@example.co.uk.", "write to <EMAIL>."),
    ("<mail@example.org>", "<<EMAIL>>"),
    ("card 4111 1111 1111 1111 expires", "card <CARD> expires"),
    ("4111-1111-1111-1111", "<CARD>"),
    ("378282246310005", "<CARD>"),
    ("My card 4652943034623769885 is lost", "My card <CARD> is lost"),
    ("tel:+31641044153", "tel:<PHONE>"),
    ("pay to DE89 3704 0044 0532 0130 00 now", "pay to <IBAN> now"),
    ("GB82WEST12345698765432", "<IBAN>"),
    ("call +44 20 7946 0958 today", "call <PHONE> today"),
    ("+1 (212) 555-0123", "<PHONE>"),
    ("(212) 555-0123", "<PHONE>"),
    ("212-555-0123 x12", "<PHONE>"),
    ("Phone: 0171 234 56 78", "Phone: <PHONE>"),
    ("tel. no: 030 123456", "tel. no: <PHONE>"),
]

ORDINARY = [
    "4111 1111 1111 1112",                      # Luhn fails
    "x = 1234567890123456",                     # no network begins with 1
    "DE89 3704 0044 0532 0130 01",              # mod 97 fails
    "GB82WEST1234569876543",                    # too short for its country
    "t = 3.14159265358979", "0x7fffffffffffffff", "1_000_000_000", "(1, 2, 3, 4, 5, 6, 7)", "2024-01-31 12:34:56.123456",
    "127.0.0.1:8000", "version 3.11.7.20240101", "-1234567890", "1e10", "d41d8cd98f00b204e9800998ecf8427e",
    "+35236450.6", "1000 2000 3000 4000", "range(1000000, 2000000)", "550e8400-e29b-41d4-a716-446655440000",
    "@functools.wraps", "result = a@b.transpose(0, 1)", "git@", "def f(self, token=None):", "token = tokens[index]",
    "password = getpass.getpass('Password: ')", "api_key = os.environ['SERVICE_API_KEY']", "secret = 'the quick brown fox'",
    "token: str = 'left_parenthesis_token'", "http://example.org:8080/a@b", "eyJust a word", "sk-learn", "ghp_short",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "AKIAshort", "password = '********'",
    "[0.40824829046386357] * 4", "5913075*x2 + 371438283744*x3", "[-678966196, 573763426263223372]",  # Luhn holds for these
    "format(1234, '+b') == '+10011010010'", "673=655502>>655502 cell phones", "Drive to work:200-120=80",
    "'-----BEGIN RSA PRIVATE KEY-----' and '-----END RSA PRIVATE KEY-----' markers, as in the other case above",
    "https://user:password@host/", '"AWS::MSK::BatchScramSecret": "ff2b807a577495b0"',
    "<EMAIL> <PHONE> <CARD> password = '<PASSWORD>'",
]


@pytest.mark.parametrize(("text", "expected"), SECRET)
def test_secrets_are_replaced(text: str, expected: str) -> None:
    assert redact(text, secrets=True, pii=False)[0] == expected
    assert redact(text, secrets=False, pii=False) == (text, {})


@pytest.mark.parametrize(("text", "expected"), PERSONAL)
def test_personal_data_is_replaced(text: str, expected: str) -> None:
    assert redact(text, secrets=False, pii=True)[0] == expected
    assert redact(text, secrets=False, pii=False) == (text, {})


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == (text, {})


def test_kinds_are_counted() -> None:
    text, counts = redact("a@example.org, b@example.org, 4111111111111111")
    assert text == "<EMAIL>, <EMAIL>, <CARD>"
    assert counts == {"EMAIL": 2, "CARD": 1}


PIECES = [part for text, _ in SECRET + PERSONAL for part in (text, text[: len(text) // 2], text[len(text) // 2 :])]
BITS = ["@", "+", "-", " ", "\n", ".", "x", "=", "'", ":", "//", "(", ")", "12", "4111", "password", "<EMAIL>", "a.bc"]


@given(st.lists(st.sampled_from(PIECES + BITS) | st.text(max_size=6), max_size=12).map("".join))
@settings(deadline=None, max_examples=500)
def test_a_second_pass_finds_nothing_more(text: str) -> None:
    once, counts = redact(text)
    assert redact(once) == (once, {})
    assert (once == text) == (not counts)


@pytest.mark.parametrize("filler", ["1 ", "0", "a@", "A1", "+1(", "eyJ", "-----BEGIN ", "password='", "://a:", "9-", "sk-a-", "a."])
def test_hostile_text_takes_time_in_proportion_to_its_length(filler: str) -> None:
    def seconds(size: int) -> float:
        text = filler * (size // len(filler))
        start = time.process_time()
        redact(text)
        return time.process_time() - start

    assert seconds(200_000) < 20 * max(seconds(20_000), 0.02)


@pytest.mark.parametrize("name", ["pii-presidio-synth/synth_dataset_v2.json", "pii-presidio-generated-large/generated_large.json"])
def test_recall_on_labelled_sentences(name: str) -> None:
    file = Path(os.environ.get("TREADLE_DATA", "../shared/data")) / name
    if not file.exists():
        pytest.skip(f"{file} is not here")
    labelled, found = 0, 0
    for example in json.loads(file.read_text(encoding="utf-8")):
        for span in example["spans"]:
            if span["entity_type"] in ("EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER"):
                labelled += 1
                found += span["entity_value"] not in redact(example["full_text"])[0]
    assert labelled > 200
    assert found >= 0.98 * labelled
