"""The MQTT contract v1, asyncapi.yaml, read by programs: which message a payload is, and whether
it keeps to its schema."""

import json
import re
from functools import lru_cache
from pathlib import Path

import yaml
from jsonschema import Draft7Validator

FILE = Path(__file__).resolve().parent / "asyncapi.yaml"
_KINDS = ("ev", "kind")  # tell the messages of one channel from each other
_ID = "[A-Za-z0-9-][A-Za-z0-9_-]{0,19}"
_PARAMETERS = {"device": _ID, "code": "[A-Z_]{1,32}"}


class Contract:
    """The document; `document` is the whole of it, as it stands in the file."""

    def __init__(self, path=FILE):
        self.document = yaml.safe_load(path.read_text(encoding="utf-8"))
        self._channels = [
            (re.compile(re.sub(r"\\{(\w+)\\}", lambda found: _PARAMETERS[found[1]],
                               re.escape(channel["address"])), re.ASCII), name)
            for name, channel in self.document["channels"].items()]

    def _resolve(self, reference):
        found = self.document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found

    def _flat(self, schema):
        """A schema without references, its `allOf` merged; objects take nothing else, so that
        what the contract does not name is noticed."""
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return self._flat(self._resolve(schema["$ref"]))
        merged = {}
        for part in [self._flat(part) for part in schema.get("allOf", ())] + [
                {key: value for key, value in schema.items() if key != "allOf"}]:
            for key, value in part.items():
                if key == "properties":
                    merged.setdefault(key, {}).update(
                        {name: self._flat(inner) for name, inner in value.items()})
                elif key == "required":
                    merged[key] = sorted({*merged.get(key, ()), *value})
                else:
                    merged[key] = self._flat(value) if key == "items" else value
        if "properties" in merged:
            merged.setdefault("additionalProperties", False)
        return merged

    @lru_cache  # noqa: B019 - one document a process
    def payload(self, message):
        """The closed JSON schema (draft 7) of a message's payload."""
        return self._flat(self.document["components"]["messages"][message]["payload"])

    def channel(self, topic):
        """The name of the channel that a topic is, or None."""
        return next((name for form, name in self._channels if form.fullmatch(topic)), None)

    def messages(self, channel):
        """Names of a channel's messages."""
        return list(self.document["channels"][channel]["messages"])

    def bindings(self, channel):
        """(QoS, whether retained) of what goes over a channel."""
        reference = "#/channels/" + channel
        for operation in self.document["operations"].values():
            if operation["channel"]["$ref"] == reference:
                binding = operation["bindings"]["mqtt"]
                return binding["qos"], binding["retain"]
        raise KeyError(channel)

    def _is(self, name, value):
        """Whether a value can be the message `name`, by what tells it from others."""
        if not isinstance(value, dict):
            return self.payload(name)["type"] == "string"
        properties = self.payload(name).get("properties", {})
        for key in _KINDS:
            allowed = properties.get(key)
            if allowed and value.get(key) not in allowed.get("enum", [allowed.get("const")]):
                return False
        return bool(properties)

    def check(self, topic, payload):
        """(message, value, faults) of a payload (bytes): `message` is None where the contract has
        none for it; `value` is the JSON object, or a text."""
        channel = self.channel(topic)
        if channel is None:
            return None, None, ["topic %s is not of the contract" % topic]
        text = payload.decode()
        value = json.loads(text) if text[:1] == "{" else text
        for name in self.messages(channel):
            if self._is(name, value):
                faults = ["%s: %s" % ("/".join(map(str, error.absolute_path)), error.message)
                          for error in Draft7Validator(self.payload(name)).iter_errors(value)]
                return name, value, faults
        return None, value, ["no message of channel %s" % channel]
