"""Secrets are hidden in every form in which they reach a text, and harmless text stays as it was."""

import logging
import subprocess
import sys

import pytest

from clipbert.redact import contains_secret, redact, redact_values, register_secrets

SECRET = "hunter2-Xy"

MASK = [
    ("postgresql://me:{}@host/db", "postgresql://***@host/db"),
    ("postgresql://host/db?user=me&password={}", "postgresql://host/db?user=me&password=***"),
    (
        "postgresql+psycopg2://host/db?PASSWORD={}&sslmode=require",
        "postgresql+psycopg2://host/db?PASSWORD=***&sslmode=require",
    ),
    ("https://{}@host/path", "https://***@host/path"),
    ("https://{}:@host/path", "https://***@host/path"),
    ("https://{}:x-oauth-basic@github.com/a.git", "https://***@github.com/a.git"),
    ("s3://AKID:{}@bucket/key", "s3://***@bucket/key"),
    ("http://me:{}@[::1]:5000/a", "http://***@[::1]:5000/a"),
    ("http://me:a@{}@host:1/", "http://***@host:1/"),
    ("mysql://me:a/{}@host/db", "mysql://***@host/db"),
    ("mysql://me:a/b@{}@host/db", "mysql://***@host/db"),
    ("mysql://me:a?{}#b@host/db", "mysql://***@host/db"),
    ("http://me:%40{}%2F@host", "http://***@host"),
    ("uri=postgresql%3A%2F%2Fme%3A{}%40host%2Fdb", "uri=postgresql%3A%2F%2F***%40host%2Fdb"),
    ("https://b.blob.core.windows.net/c?sv=2020&sig={}", "https://b.blob.core.windows.net/c?sv=2020&sig=***"),
    ("s3://b?X-Amz-Credential={}&X-Amz-Date=1", "s3://b?X-Amz-Credential=***&X-Amz-Date=1"),
    ("https://b/k?X-Amz-Signature={}", "https://b/k?X-Amz-Signature=***"),
    ("https://b/k?X-Amz-Security-Token={}", "https://b/k?X-Amz-Security-Token=***"),
    ("https://b/k?AWSAccessKeyId={}&Expires=1", "https://b/k?AWSAccessKeyId=***&Expires=1"),
    ("https://b/k?key={}", "https://b/k?key=***"),
    ("https://b/k%3Ftoken%3D{}%26a%3D1", "https://b/k%3Ftoken%3D***%26a%3D1"),
    ("jdbc:sqlserver://h:1433;user=sa;password={};x=1", "jdbc:sqlserver://h:1433;user=sa;password=***;x=1"),
    ("host=h user=me password='{} a' dbname=d", "host=h user=me password='***' dbname=d"),
    ("--set frames.media_url=s3://k:{}@b", "--set frames.media_url=s3://***@b"),
    ("--set a.password={}", "--set a.password=***"),
    ('--set x={{"password": "{}", "b": 1}}', '--set x={{"password": "***", "b": 1}}'),
    (r'"{{\"token\": \"{}\"}}"', r'"{{\"token\": \"***\"}}"'),
    ("{{'secret_key': '{}'}}", "{{'secret_key': '***'}}"),
    ("['--token', '{}', '--port', '1']", "['--token', '***', '--port', '1']"),
    ("prefect --api-key {} x", "prefect --api-key *** x"),
    ("['http://me:{0}@a', 'http://me:{0}@b']", "['http://***@a', 'http://***@b']"),
    ("http://me:{0}@a,http://me:{0}@b", "http://***@a,http://***@b"),
    ("password: {}\nnext: 1", "password: ***\nnext: 1"),
    ("Authorization: Bearer {}", "Authorization: Bearer ***"),
    ("{{'Authorization': 'Basic {}'}}", "{{'Authorization': 'Basic ***'}}"),
    ("MLFLOW_TRACKING_PASSWORD={}", "MLFLOW_TRACKING_PASSWORD=***"),
    (r"C:\x\y.exe -password={}", r"C:\x\y.exe -password=***"),
    (r"https:\/\/me:{}@host\/x", r"https:\/\/***@host\/x"),
    ("-----BEGIN RSA PRIVATE KEY-----\n{}\nabc\n-----END RSA PRIVATE KEY-----", None),
    ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};Suffix=x", None),
]

HARMLESS = [
    'captions about a "token"',
    "a password: what is it?",
    "the key = a secret door",
    "expected KEY=VALUE, for example --set train.lr=0.001",
    "http://127.0.0.1:5000/#/models/clipbert-retrieval/versions/2",
    "http://[::1]:5000/@someone",
    "https://example.com/@user/video?page=2&keyframe=3",
    "https://example.com:8080/a@b",
    "http://HOST:PORT of a server or sqlite:////ABSOLUTE/PATH.db",
    "sqlite:////home/me@work/mlflow/mlflow.db",
    "file:///C:/Users/me@home/x.mp4",
    "ssh://git@github.com/a/b.git",
    "someone@example.org asked",
    "num_tokens=64 max_tokens: 3",
    "cls_token='[CLS]', pad_token=[PAD]",
    "{'cls_token': '[CLS]', 'tokenizer': 'bert'}",
    "tokens: 512\nsignature: yes, it has one",
    "evaluation.predictions = 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "clipbert-retrieval@champion models:/clipbert-retrieval@champion",
    r"C:\data\videos\a@b.mp4",
    "retrieval 2026-01-31 12:00:00: 120 values",
]


@pytest.mark.parametrize(("text", "expected"), MASK, ids=[text for text, _ in MASK])
def test_secrets_are_hidden(text: str, expected: str | None) -> None:
    hidden = redact(text.format(SECRET))
    assert SECRET not in hidden
    assert "***" in hidden
    if expected is not None:
        assert hidden == expected.format()
    assert redact(hidden) == hidden


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PREFECT_API_KEY", "HF_TOKEN"],
)
def test_values_of_the_environment_are_hidden_in_every_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wJalr/XUtn+FE %MI")
    text = "a wJalr/XUtn+FE %MI b wJalr%2FXUtn%2BFE%20%25MI c wJalr%2FXUtn%2BFE+%25MI"
    assert redact(text) == "a *** b *** c ***"


def test_the_password_of_an_address_is_hidden_apart_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:p%40ss-word@host/db")
    assert redact("password authentication failed: p@ss-word, p%40ss-word") == (
        "password authentication failed: ***, ***"
    )
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:an0ther-one")
    assert redact("admin and an0ther-one") == "admin and ***"
    register_secrets("s3://AKID:s3cr3t-of-params@bucket")
    assert redact("invalid secret s3cr3t-of-params") == "invalid secret ***"


def test_several_lines_of_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PRIVATE_KEY", "first-line-of-the-key\nsecond-line-of-the-key")
    assert redact("x first-line-of-the-key y\nsecond-line-of-the-key") == "x *** y\n***"


def test_ordinary_values_of_the_environment_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("A_TOKEN", "test"), ("B_SECRET", "false"), ("TOKENIZERS_PARALLELISM", "falsehood")):
        monkeypatch.setenv(name, value)
    assert redact("test false falsehood") == "test false falsehood"


def test_values_by_name() -> None:
    values = {"a": ["http://u:pw-pw-pw@h", 3], "password": "short", "n": {"token": "x", "cls_token": "[CLS]"}, "f": 1.5}
    assert redact_values(values) == {
        "a": ["http://***@h", 3],
        "password": "***",
        "n": {"token": "***", "cls_token": "[CLS]"},
        "f": 1.5,
    }


@pytest.mark.slow
def test_installed_in_a_process_it_covers_prints_logs_warnings_threads_and_tracebacks() -> None:
    program = f"""
import logging, sys, threading, warnings
from clipbert.redact import install_redaction
install_redaction(); install_redaction()
url = "postgresql://me:" + {SECRET!r} + "@host/db"
print("printed", url)
sys.stderr.write(f"written {{url}}\\n")
logging.basicConfig(level=logging.INFO)
logging.info("logged %s", url)
try:
    raise OSError(url)
except OSError:
    logging.exception("with its traceback")
warnings.warn(f"warned {{url}}")
thread = threading.Thread(target=lambda: open(url)); thread.start(); thread.join()
raise RuntimeError(f"line\\n{{url}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert SECRET not in (done.stdout + done.stderr).replace(f"+ {SECRET!r} +", "")
    for word in ("printed postgresql://***@host", "written postgresql", "logged postgresql", "warned", "RuntimeError"):
        assert word in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("postgresql://***@host/db") >= 6


def test_log_records_with_wrong_arguments_are_left_to_logging() -> None:
    record = logging.getLogRecordFactory()("n", logging.INFO, "f", 1, "%d", ("x",), None)
    assert record.msg == "%d"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("def sign(token: str, password: str = '') -> None: ...", False),
        ("token = make_token(secret=key)", False),
        ("url = f'http://{user}:{password}@{host}'", False),
        ("password = 'hunter2-and-more'", True),
        ("url = 's3://me:pa55word-x@bucket/data'", True),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", True),
    ],
)
def test_secrets_are_told_from_code_about_secrets(text: str, secret: bool) -> None:
    assert contains_secret(text, is_code=True) == secret
