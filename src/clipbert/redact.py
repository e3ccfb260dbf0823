"""Redaction of passwords, tokens and keys in everything that is printed, logged or stored.

The command line and the flows call `install_redaction`, which redacts standard output, standard error, log records and
tracebacks. Values for MLflow and for files (run parameters, tags, model cards, reports, checkpoints) pass through
`redact` or `redact_values` where they are created. Redaction is idempotent.
"""

import functools
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORTEST = 6  # a shorter value from the environment is probably an ordinary word
SHORTEST_LINE = 16

# Segments of a name, between punctuation, that mark the value in `name=value` as a secret.
_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|sig|signature|credentials?|"
    r"api[-_.]?key|apikey|access[-_.]?key(?:[-_.]?id)?|accesskey(?:id)?|awsaccesskeyid|secret[-_.]?key|private[-_.]?key|"
    r"account[-_.]?key|accountkey|auth[-_.]?string|sslpassword|sharedaccess(?:key|signature)"
)
_NAME = rf"(?<![A-Za-z0-9])(?:[A-Za-z0-9]{{1,40}}[-_.]){{0,8}}(?:{_NAMES})(?:[-_.](?:value|string|id))?(?![A-Za-z0-9_])"
# Special tokens of a tokenizer are not secrets: cls_token=[CLS].
_HARMLESS = re.compile(r"(?:bos|eos|unk|sep|pad|cls|mask)_token$", re.IGNORECASE)
# Only for the query of a URL, in which a short name such as `key` is a parameter.
_QUERY_NAMES = rf"(?:[\w%-]*[-_.])?(?:{_NAMES}|key|auth|code)"

_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,30}:)(\\?/\\?/)((?:(?![,;|][A-Za-z][A-Za-z0-9+.-]{0,20}:\\?/)[^\s\"'<>`])+)"
)
_ENCODED_URL = re.compile(r"(%3A%2F%2F)((?:(?!%2F|%3F|%40|%23)[^\s\"'&])+)(%40)", re.IGNORECASE)
_QUERY = re.compile(rf"([?&;]|%3F|%26)({_QUERY_NAMES})(=|%3D)((?:(?!%26)[^&\s\"'<>`;])*)", re.IGNORECASE)
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_ASSIGNED = re.compile(rf"({_NAME})(\s*=\s*|%3D)({_QUOTED}|[^\s&;,\"'<>`)\]}}]+)", re.IGNORECASE)
_MAPPED = re.compile(
    rf"(\\?[\"'])({_NAME})(\\?[\"']\s*:\s*)(\\\"(?:[^\"\\]|\\\\.)*\\\"|{_QUOTED}|[^\s,}}\]\"'\\]+)", re.IGNORECASE
)
_YAML = re.compile(
    r"(?m)(^[ \t>|-]*|[{,][ \t]*)((?:[A-Za-z0-9]{1,40}[-_.]){0,8}"
    r"(?:password|passwd|api[-_]?key|(?:secret|access)[-_]?key|"
    r"(?:secret|access|auth)[-_]?token))([ \t]*:[ \t]+)(?!\*\*\*)([^\s\"',{}]+)(?=[ \t]*(?:$|[,}]))",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"(--?(?:[a-z0-9]{{1,40}}-){{0,8}}(?:{_NAMES})(?:[ \t]|[\"'],[ \t]*[\"']))(?!-)({_QUOTED}|[^\s\"',]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"\b((?:Proxy-)?Authorization[\"']?\s*[:=]\s*[\"']?\s*(?:Basic|Bearer|Token|AWS4\S*)\s+)([^\s\"',]+)", re.I
)
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_KNOWN_FORMS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}|pn[ub]_[A-Za-z0-9]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)(?![A-Za-z0-9])"
)

# Environment variables with a secret as value, and those with an address that may contain one.
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|PWD_SECRET|SECRET|TOKEN|CREDENTIALS?|SAS|SECRET_KEY|ACCESS_KEY|API_KEY|APIKEY|"
    r"ACCOUNT_KEY|PRIVATE_KEY|AUTH_STRING|CONNECTION_STRING|SECRET_ACCESS_KEY)$"
)
_ADDRESS_VARIABLE = re.compile(r"(?:^|_)(?:URI|URL|DSN)$")
_ORDINARY = re.compile(r"(?:true|false|none|null|\d{1,7}|/\S*|~\S*)$", re.IGNORECASE)

_RANDOM = re.compile(r"(?=[^\s{}<>$]*\d)[^\s{}<>$]{8,}")

_registered_secrets: set[str] = set()


def redact(text: str) -> str:
    """Return `text` with every secret replaced by `***`.

    Secrets are the user part of a URL (`user:password@`, `token@`), values with a telling name in query parameters and
    assignments (`password=`, `"token": "..."`, `X-Amz-Signature=`), authorization headers, private keys, tokens of
    well-known formats, and the values of secret environment variables anywhere in the text.
    """
    for form in _known_values():
        if form in text:
            edges = rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])"
            text = re.sub(edges, MASK, text)
    text = _PEM.sub(rf"\1{MASK}\2", text)
    text = _URL.sub(_without_user, text)
    text = _ENCODED_URL.sub(rf"\1{MASK}\3", text)
    text = _QUERY.sub(rf"\1\2\3{MASK}", text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _MAPPED.sub(_mapped, text)
    text = _ASSIGNED.sub(_assigned, text)
    text = _YAML.sub(rf"\1\2\3{MASK}", text)
    text = _OPTION.sub(rf"\1{MASK}", text)
    return _KNOWN_FORMS.sub(MASK, text)


def contains_secret(text: str, is_code: bool = False) -> bool:
    """Return whether `redact` would hide something in a text.

    Args:
        is_code: the text is code or prose, in which `token=token` and `password: str` are not secrets: a value with a
            telling name counts only if it is quoted and looks random (eight characters or more, among them a digit).
    """
    if not is_code:
        return redact(text) != text
    if any(form in text for form in _known_values()) or _PEM.search(text) or _KNOWN_FORMS.search(text):
        return True
    if any(_without_user(url) != url[0] and _RANDOM.search(url[3]) for url in _URL.finditer(text)):
        return True
    values = [found[3] for found in _ASSIGNED.finditer(text)] + [found[4] for found in _MAPPED.finditer(text)]
    quoted = [value[1:-1] for value in values if value[0] in "\"'"]
    return any(map(_RANDOM.search, [*quoted, *(found[4] for found in _YAML.finditer(text))]))


def redact_values(value: Any, name: str = "") -> Any:
    """Return `value` with every string redacted, also in mappings, lists and tuples.

    Args:
        value: the value.
        name: its name; a string named `password` or `token` is replaced as a whole.
    """
    if isinstance(value, str):
        whole = value and name and re.fullmatch(_NAME, name, re.IGNORECASE) and not _HARMLESS.search(name)
        return MASK if whole else redact(value)
    if isinstance(value, Mapping):
        return {key: redact_values(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact_values(inner, name) for inner in value)
    return value


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Return a command's arguments, each redacted separately, so that a secret with spaces is hidden as a whole."""
    hidden: list[str] = []
    follows = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if follows:
            hidden.append(MASK)
        elif equals and re.fullmatch(_NAME, name.lstrip("-"), re.IGNORECASE) and not _HARMLESS.search(name):
            hidden.append(f"{name}={MASK}")
        else:
            hidden.append(redact(argument))
        follows = argument.startswith("-") and re.fullmatch(_NAME, argument.lstrip("-"), re.IGNORECASE) is not None
    return hidden


def register_secrets(address: str | None) -> None:
    """Redact the secrets of this address in all texts from now on.

    A library may report the password of an address without the address itself.
    """
    if address:
        _registered_secrets.update(_secrets_of(address))


def install_redaction() -> None:
    """Redact the output of this process: standard output and error, log records, warnings and tracebacks.

    Secrets in the command line are redacted in all other texts too.
    """
    for argument in sys.argv[1:]:
        register_secrets(argument)
    redact_logs()
    sys.stdout, sys.stderr = RedactedStream.wrap(sys.stdout), RedactedStream.wrap(sys.stderr)
    sys.excepthook = _print_exception
    threading.excepthook = lambda hook: _print_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)


def redact_logs() -> None:
    """Redact the messages and tracebacks of all log records, for every handler."""
    make_record = logging.getLogRecordFactory()
    if not hasattr(make_record, "redacts"):

        @functools.wraps(make_record)
        def make(*arguments: Any, **options: Any) -> logging.LogRecord:
            record = make_record(*arguments, **options)
            try:
                message = record.getMessage()
            except (TypeError, ValueError):  # logging reports this error itself
                return record
            record.msg, record.args = redact(message), ()
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
            return record

        make.redacts = True  # type: ignore[attr-defined]
        logging.setLogRecordFactory(make)


class RedactedStream:
    """Text stream that redacts what is written to it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    @classmethod
    def wrap(cls, stream: Any) -> Any:
        """Return a redacting stream; `stream` itself if it already redacts or is None."""
        return stream if stream is None or isinstance(stream, cls) else cls(stream)

    def write(self, text: str) -> int:
        """Write `text` redacted; return the length of `text`."""
        self.stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each text redacted."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)


def _print_exception(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    """Print a traceback in one write, because a secret may extend over several lines."""
    if kind is SystemExit:  # raised in a thread
        return
    print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="", flush=True)


def _without_user(found: re.Match[str]) -> str:
    scheme, slashes, rest = found[1], found[2], found[3]
    host = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in host:
        end = host.rindex("@")
        # The password may contain an unescaped / ? or #.
    elif "@" in rest and _holds_password(host) and scheme.lower() != "file:":
        end = rest.rindex("@")
    else:
        return found[0]
    if rest[:end] in ("git", MASK):
        return found[0]
    return f"{scheme}{slashes}{MASK}{rest[end:]}"


def _holds_password(host: str) -> bool:
    """Return whether the text before the first slash is `user:part of a password` rather than `host:port`."""
    _, colon, port = host.partition(":")
    return bool(colon) and not host.startswith("[") and not port.isdigit() and port not in ("", "PORT", "port")


def _assigned(found: re.Match[str]) -> str:
    return found[0] if _HARMLESS.search(found[1]) else f"{found[1]}{found[2]}{_hide(found[3])}"


def _mapped(found: re.Match[str]) -> str:
    if _HARMLESS.search(found[2]) or found[4] in ("null", "None"):
        return found[0]
    return f"{found[1]}{found[2]}{found[3]}{_hide(found[4])}"


def _hide(value: str) -> str:
    """Return `***` in the quotation marks of `value`."""
    mark = '\\"' if value.startswith('\\"') else value[0] if value[0] in "\"'" else ""
    return f"{mark}{MASK}{mark}"


def _known_values() -> tuple[str, ...]:
    chosen = tuple(
        (name, value)
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name.upper()) or (("@" in value or "=" in value) and _ADDRESS_VARIABLE.search(name))
    )
    return _forms(chosen, frozenset(_registered_secrets))


@functools.lru_cache(maxsize=16)
def _forms(variables: tuple[tuple[str, str], ...], remembered: frozenset[str]) -> tuple[str, ...]:
    """Return all encodings of the secrets that may occur in a text, the longest first."""
    secrets = set(remembered)
    for name, value in variables:
        if _ADDRESS_VARIABLE.search(name):
            secrets |= _secrets_of(value)
        else:
            secrets.add(value)
            if ":" in value:  # a Prefect authentication string is USER:PASSWORD
                secrets.add(value.partition(":")[2])
            secrets |= {line for line in value.split("\n") if len(line) >= SHORTEST_LINE and "-----" not in line}
    forms: set[str] = set()
    for secret in {some.strip() for some in secrets}:
        if len(secret) >= SHORTEST and not _ORDINARY.match(secret):
            forms |= {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}
            forms |= {repr(secret)[1:-1], unquote(secret)}
    return tuple(sorted(forms, key=len, reverse=True))


def _secrets_of(address: str) -> set[str]:
    """Return the password of an address, or its user if there is no password, and the secrets of its query."""
    found: set[str] = set()
    for match in _URL.finditer(address):
        hidden = _without_user(match)
        if hidden == match[0]:
            continue
        user = match[3][: len(match[3]) - (len(hidden) - hidden.rindex(f"{MASK}@") - len(MASK))]
        name, _, password = user.partition(":")
        secret = password or name
        found |= {secret, unquote(secret)}
    try:
        query = parse_qsl(urlsplit(address).query)
    except ValueError:
        query = []
    found |= {value for name, value in query if re.fullmatch(_QUERY_NAMES, name, re.IGNORECASE)}
    return {secret for secret in found if len(secret) >= SHORTEST}
