"""Channels of notifications: Prefect blocks that are made from environment variables, or by hand in Prefect's UI.

An address such as that of a webhook is a secret: who has it can send messages. Prefect stores blocks encrypted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flows.prefect_api import PrefectApi


class ChannelError(Exception):
    """A variable has an invalid value; the message names it without its value, and what is expected."""


@dataclass(frozen=True)
class Channel:
    """A way to send messages.

    Attributes:
        variable: the environment variable with its address.
        block_type: the slug of the type of its Prefect block.
        expected: what the variable's value is, for messages.
        is_valid: whether a value can be right.
    """

    variable: str
    block_type: str
    expected: str
    is_valid: Callable[[str], bool]

    @property
    def is_webhook(self) -> bool:
        """Whether a JSON object is sent, not a text."""
        return self.block_type == "webhook"


def _has_scheme(*schemes: str) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            parts = urlsplit(value)
        except ValueError:
            return False
        return parts.scheme in schemes and bool(parts.netloc)

    return check


# Prefect has no block for SMTP. Its Slack block passes addresses that are not Slack's to Apprise, which sends e-mail.
CHANNELS = {
    "webhook": Channel("CLIPBERT_NOTIFY_WEBHOOK", "webhook", "an http(s):// address", _has_scheme("http", "https")),
    "slack": Channel(
        "CLIPBERT_NOTIFY_SLACK",
        "slack-webhook",
        "the https:// address of an incoming webhook of Slack",
        _has_scheme("https"),
    ),
    "email": Channel(
        "CLIPBERT_NOTIFY_EMAIL",
        "slack-webhook",
        "an address of Apprise such as mailtos://USER:PASSWORD@SMTP_HOST?from=ADDRESS&to=ADDRESS",
        _has_scheme("mailto", "mailtos"),
    ),
}


def block_name(channel: str) -> str:
    """Return the name of a channel's block."""
    return f"clipbert-{channel}"


def save_blocks(api: PrefectApi, environment: Mapping[str, str]) -> list[str]:
    """Create or update the block of each channel with a variable in `environment`.

    Returns:
        A line for each block that was created or updated.

    Raises:
        ChannelError: a variable has an invalid value; nothing was changed.
        PrefectApiError: the server rejected a request.
    """
    given = {name: value for name, channel in CHANNELS.items() if (value := environment.get(channel.variable))}
    for name, value in given.items():
        if not CHANNELS[name].is_valid(value):
            raise ChannelError(f"{CHANNELS[name].variable}: expected {CHANNELS[name].expected}")
    done = []
    for name, value in given.items():
        slug, data = CHANNELS[name].block_type, {"url": value}
        block_type = api.call("GET", f"/block_types/slug/{slug}")
        path = f"/block_types/slug/{slug}/block_documents/name/{block_name(name)}"
        found = api.find(f"{path}?include_secrets=true")
        if found is None:
            body = _block(api, block_type, block_name(name), data)
            api.call("POST", "/block_documents/", body)
        elif found["data"].get("url") != value:
            api.call("PATCH", f"/block_documents/{found['id']}", {"data": data, "merge_existing_data": True})
        else:
            continue
        done.append(f"{'created' if found is None else 'updated'} the block {slug}/{block_name(name)}")
    return done


def find_blocks(api: PrefectApi) -> dict[str, str]:
    """Return the ids of the blocks of channels that the server has."""
    found = {}
    for name, channel in CHANNELS.items():
        path = f"/block_types/slug/{channel.block_type}/block_documents/name/{block_name(name)}"
        if (block := api.find(path)) is not None:
            found[name] = str(block["id"])
    return found


def _block(api: PrefectApi, block_type: Any, name: str, data: dict[str, Any]) -> dict[str, Any]:
    wanted = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}, "limit": 1}
    schema = api.call("POST", "/block_schemas/filter", wanted)[0]
    return {"name": name, "data": data, "block_type_id": block_type["id"], "block_schema_id": schema["id"]}
