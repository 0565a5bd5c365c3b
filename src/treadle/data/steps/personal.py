"""Finders of personal data: e-mail addresses, IBANs and card numbers whose check digits are right, phone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers
from stdnum import iban, luhn

Span = tuple[int, int, str]

# The part after the @, which is rare and so found fast; the part before it is then read backwards. Not what is called or indexed
# right after: ``a@b.transpose(...)`` is a matrix product.
_DOMAIN = re.compile(
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59}))(?![\w(\[=-])"
)
_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?\Z")

# Letters are common and digits rare, so the search goes for the two check digits and looks at the country before them then.
_IBAN_DIGITS = re.compile(r"[0-9]{2}(?=[A-Za-z0-9]{11}| [A-Za-z0-9]{4} )")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[A-Za-z0-9]{11,30}|(?: [A-Za-z0-9]{4}){2,7}(?: [A-Za-z0-9]{1,4})?)(?![A-Za-z0-9])"
)

# Six digits and more with what people put between them; and, around such a place, the whole of what may be a number.
_DIGITS = re.compile(r"[0-9](?:[0-9 .()-]{0,3}[0-9]){5,}")
_RUN = re.compile(
    r"(?<![\w.+#/=$€£-])(?:\+|\(\+?)?[0-9](?:[0-9]|[ .()-]{1,3}(?=[0-9(])|\)(?=[0-9])){4,30}(?:[ ]?(?:x|ext\.? ?)[0-9]{1,6})?"
    r"(?!\w|[.,][0-9]|[=*/])"
)
_MARGIN = 16  # room for a sign before and an extension after

_CARD = re.compile(
    r"(?<![0-9.])(?:[0-9]{12,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![0-9]|\.[0-9])"
)
# First digits and lengths in use: Visa, Mastercard, Amex, Discover, JCB, UnionPay; with Luhn, one 16-digit number in 40 that is no
# card passes all the same. Other lengths, of Diners and Maestro cards among others, pass only beside a word that says so.
_CARD_ALONE = re.compile(
    r"4[0-9]{15}|(?:5[1-5]|2[2-7])[0-9]{14}|3[47][0-9]{13}|(?:6011|64[4-9][0-9]|65[0-9]{2}|35[2-8][0-9]|62[0-9]{2})[0-9]{12}"
    r"|(?:1800|2131)[0-9]{11}"
)
_CARD_CLUE = re.compile(r"\b(?:card|credit|debit|visa|mastercard|amex|maestro|diners|cc)\b", re.IGNORECASE)
_NETWORK = re.compile(r"[2-6]")

_CLUE_BEFORE = re.compile(
    r"(?:\b(?:tele)?phone|\b(?:tele)?fax|\btel|\bmobile|\bcell|\bcall|\bcalling|\bdial|\bwhatsapp|\bsms|\banswering|\bmessages to|"
    r"\breach (?:me|us|him|her|them)|\b(?:desk|office|direct)(?=\s*:))\.?"
    r"(?:\s*(?:number|no|nr|#|:|=|is|at|on|me|us|or)\.?){0,3}[\s\"'(:]{0,4}\Z",
    re.IGNORECASE,
)
_CLUE_AFTER = re.compile(r"[ -]{0,2}(?:office|fax|mobile|cell|desk)\b(?![ -]?phone)", re.IGNORECASE)
_NORTH_AMERICAN = re.compile(r"(?:(?:\+?1|001)[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}([.-]))[0-9]{3}[.-][0-9]{4}")
_DECIMAL = re.compile(r"\+?[0-9]+\.[0-9]+")
_EXTENSION = re.compile(r" ?(?:x|ext\.? ?)[0-9]{1,6}\Z")
_LOOK_BACK = 48


def emails(text: str) -> Iterator[Span]:
    """``local@domain.tld`` (the forms of RFC 5322 that are in use)."""
    if "@" not in text:
        return
    for match in _DOMAIN.finditer(text):
        at = match.start()
        local = _LOCAL.search(text, max(0, at - 64), at)
        if local:
            yield local.start(), match.end(), "EMAIL"


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers (ISO 13616) of the length of their country, with right check digits (mod 97)."""
    for digits in _IBAN_DIGITS.finditer(text):
        match = _IBAN.match(text, max(0, digits.start() - 2))
        if match and iban.is_valid(match.group(), check_country=False):
            yield (*match.span(), "IBAN")


def numbers(text: str) -> Iterator[Span]:
    """Card numbers (ISO/IEC 7812) of a known network with right check digit (Luhn), and phone numbers: in international form and
    possible in their country, in North American form, or beside a word that says so."""
    for digits in _DIGITS.finditer(text):
        first = max(0, digits.start() - 3)
        around = text[first : digits.end() + _MARGIN]
        for match in _RUN.finditer(around):
            start, end = first + match.start(), first + match.end()
            before = text[max(0, start - _LOOK_BACK) : start]
            cards = [] if "+" in match.group() else [c for c in _CARD.finditer(match.group()) if _is_card(c.group(), before)]
            if cards:
                yield from ((start + card.start(), start + card.end(), "CARD") for card in cards)
            elif _is_phone(match.group(), before, text[end : end + _MARGIN]):
                yield start, end, "PHONE"


def _is_card(number: str, before: str) -> bool:
    digits = re.sub(r"[ -]", "", number)
    known = _CARD_ALONE.fullmatch(digits) or (_NETWORK.match(digits) and _CARD_CLUE.search(before))
    return bool(known) and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_phone(number: str, before: str, after: str) -> bool:
    run = _EXTENSION.sub("", number)
    digits = sum(c.isdigit() for c in run)
    if _DECIMAL.fullmatch(run) or not 6 <= digits <= 15:
        return False
    international = run.startswith(("+", "(+")) and _is_assigned(run, digits)
    return bool(international or _NORTH_AMERICAN.fullmatch(run) or _CLUE_BEFORE.search(before) or _CLUE_AFTER.match(after))


def _is_assigned(run: str, digits: int) -> bool:
    """Whether ``+`` and these digits may be a number of their country. Digits that nobody has grouped may be a signed number, so of
    them it is asked that the number is assigned."""
    try:
        parsed = phonenumbers.parse("+" + run.lstrip("(+").replace("(0)", ""))
    except phonenumbers.NumberParseException:
        return False
    bare = len(run) == digits + 1
    return phonenumbers.is_valid_number(parsed) if bare else phonenumbers.is_possible_number(parsed)
