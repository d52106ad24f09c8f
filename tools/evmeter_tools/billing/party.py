"""The operator's file: who bills, where the devices are, what energy costs, whose the tokens are.

    {"country_code": "DE", "party_id": "EVM",
     "tariffs": [{"id": "day-night", "vat_permille": 190, "currency": "EUR", "zone": .., ..}],
     "places": {"demo-0001": {"rated_w": 11000, "tariff": "day-night", "site": "yard",
                              "location": {OCPI CdrLocation}}},
     "tokens": {"04AABBCC": {"country_code": "NL", "party_id": "TNM", "contract_id": "NL-TNM-1"}}}

`tariff` is a name, or a list of {"from_s": Unix s, "id": name} in order. `site` groups devices.
"""

import json
from copy import deepcopy
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from evmeter_tools.billing import ocpi
from evmeter_tools.billing.price import Held, OperatorTariff
from evmeter_tools.errors import UserError

_TOKEN_TYPES = {"ISO14443": "RFID", "ISO15693": "RFID", "CENTRAL": "APP_USER",
                "CENTRAL_1": "APP_USER", "CENTRAL_2": "APP_USER", "EMAID": "OTHER"}
_LONGEST_UID = 36


class Operator:
    """The file's contents as a dict. Raises UserError, one line."""

    def __init__(self, config):
        if not isinstance(config, dict):
            raise UserError("the operator's file must hold a JSON object")
        for name, rule in (("country_code", ocpi.CDR["country_code"][1]),
                           ("party_id", ocpi.CDR["party_id"][1])):
            found = rule(config.get(name))
            if found is not True:
                raise UserError("%s: %s" % (name, found))
        self.country_code = config["country_code"]
        self.party_id = config["party_id"]
        tariffs = [OperatorTariff(each) for each in _part(config, "tariffs", list)]
        self.tariffs = {tariff.id: tariff for tariff in tariffs}
        self.places = _part(config, "places", dict)
        self.tokens = _part(config, "tokens", dict)
        for device, place in self.places.items():
            self._check(device, place)
        for uid, token in self.tokens.items():
            if not isinstance(token, dict):
                raise UserError("tokens.%.40s: an object expected" % uid)

    def _check(self, device, place):
        if not isinstance(place, dict) or type(place.get("rated_w")) is not int:
            raise UserError("places.%.40s: needs rated_w, a whole number of W" % device)
        named = place.get("tariff")
        changes = named if isinstance(named, list) else [{"from_s": 0, "id": named}]
        for change in changes:
            if not isinstance(change, dict) or change.get("id") not in self.tariffs or (
                    type(change.get("from_s")) is not int):
                raise UserError("places.%.40s.tariff: allowed: %s, or a list of from_s and id"
                                % (device, ", ".join(self.tariffs) or "none is defined"))
        if any(before["from_s"] >= after["from_s"] for before, after in pairwise(changes)):
            raise UserError("places.%.40s.tariff: the oldest first, each from_s once" % device)

    def place(self, device):
        """{"location": OCPI CdrLocation, "rated_mw": mW, "site": name}. Raises Held."""
        place = self.places.get(device)
        if place is None:
            raise Held("%s has no place in the operator's file" % device)
        return {"location": deepcopy(place.get("location")), "rated_mw": place["rated_w"] * 1000,
                "site": place.get("site", device)}

    def rated_mw(self):
        """{device: rated power, mW}."""
        return {device: place["rated_w"] * 1000 for device, place in self.places.items()}

    def tariff(self, device, unix_s):
        """The OperatorTariff that held at a place when a session began. Raises Held."""
        named = self.places[device].get("tariff")
        if isinstance(named, list):
            found = [change["id"] for change in named if change["from_s"] <= unix_s]
            if not found:
                raise Held("%s had no tariff then" % device)
            named = found[-1]
        return self.tariffs[named]

    def token(self, session):
        """The OCPI CdrToken of a session. Raises Held for an identity that OCPI has no room for.
        """
        user = session.user or {}
        uid = user.get("ID") or session.sid
        if len(uid) > _LONGEST_UID:
            raise Held("the user's identity is longer than %d characters" % _LONGEST_UID)
        known = self.tokens.get(uid, {})
        kind = _TOKEN_TYPES.get(user.get("IT"), "OTHER") if user.get("ID") else "AD_HOC_USER"
        return {"country_code": known.get("country_code", self.country_code),
                "party_id": known.get("party_id", self.party_id), "uid": uid,
                "type": known.get("type", kind), "contract_id": known.get("contract_id", uid)}


def _part(config, name, kind):
    value = config.get(name, kind())
    if not isinstance(value, kind):
        raise UserError("%s: %s expected" % (name, "a list" if kind is list else "an object"))
    return value


def read_operator(path):
    """The Operator of a file. Raises UserError, one line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        config = json.loads(text, parse_float=Decimal)
    except OSError as error:
        raise UserError("%s: %s" % (path, error.strerror)) from None
    except ValueError as error:
        raise UserError("%s: not JSON (%s)" % (path, error)) from None
    try:
        return Operator(config)
    except UserError as error:
        raise UserError("%s: %s" % (path, error)) from None
