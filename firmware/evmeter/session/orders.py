"""Orders to the open session: who charges, up to how much, and that it is to end.

They come from outside, by a command or from a reader beside the charger, are checked here, made
durable as an event, and only then applied; after a reboot the events apply again.
"""

_LEVELS = ("NONE", "HEARSAY", "TRUSTED", "VERIFIED", "CERTIFIED", "SECURE", "MISMATCH", "INVALID",
           "OUTDATED", "UNKNOWN")
_TYPES = ("NONE", "DENIED", "UNDEFINED", "ISO14443", "ISO15693", "EMAID", "EVCCID", "EVCOID",
          "ISO7812", "CARD_TXN_NR", "CENTRAL", "CENTRAL_1", "CENTRAL_2", "LOCAL", "LOCAL_1",
          "LOCAL_2", "PHONE_NUMBER", "KEY_CODE")
_FLAGS = ("RFID_NONE", "RFID_PLAIN", "RFID_RELATED", "RFID_PSK", "OCPP_NONE", "OCPP_RS",
          "OCPP_AUTH", "OCPP_RS_TLS", "OCPP_AUTH_TLS", "OCPP_CACHE", "OCPP_WHITELIST",
          "OCPP_CERTIFIED", "ISO15118_NONE", "ISO15118_PNC", "PLMN_NONE", "PLMN_RING", "PLMN_SMS")
_MOST_FLAGS = 4
_MOST = 1 << 40
_BY = {"local": "L", "remote": "R"}


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError("%s is %r; allowed: %s" % (name, value, ", ".join(sorted(allowed))))
    return value


def _user(given):
    flags = given.get("IF", ())
    if not isinstance(flags, (list, tuple)) or len(flags) > _MOST_FLAGS:
        raise ValueError("IF is %r; allowed: a list of at most %d" % (flags, _MOST_FLAGS))
    identity = given.get("ID", "")
    if (not isinstance(identity, str) or not 0 < len(identity) <= 40
            or not all(" " <= one <= "~" for one in identity)):
        raise ValueError("ID is %r; allowed: 1 to 40 characters of printable ASCII" % (identity,))
    return {"user": {"IS": True, "IL": _one_of("IL", given.get("IL"), _LEVELS),
                     "IF": [_one_of("IF", flag, _FLAGS) for flag in flags],
                     "IT": _one_of("IT", given.get("IT"), _TYPES), "ID": identity}}


def check(name, given):
    """The fields of the event for an order, from what was given as a dict:

    user     OCMF's IL, IT, ID and optionally IF (OCMF 1.3, table 5 to 7)
    target   target_mwh, or target_minor: minor units of the tariff's currency; 1 to 2**40
    stop     by: "local" or "remote"

    Raises ValueError, one line that names the field and what is allowed.
    """
    allowed = {"user": ("IL", "IT", "ID", "IF"), "target": ("target_mwh", "target_minor"),
               "stop": ("by",)}
    _one_of("the order", name, tuple(allowed))
    if not isinstance(given, dict):
        raise ValueError("%s must be a JSON object" % name)
    for field in given:
        _one_of("a field of " + name, field, allowed[name])
    if name == "user":
        return _user(given)
    if name == "stop":
        return {"by": _one_of("by", given.get("by"), tuple(_BY))}
    if len(given) != 1:
        raise ValueError("target; allowed: target_mwh or target_minor")
    field, value = next(iter(given.items()))
    if type(value) is not int or not 0 < value <= _MOST:
        raise ValueError("%s is %r; allowed: a whole number from 1 to %d" % (field, value, _MOST))
    return {field: value}


def apply(session, name, fields):
    """Let an order, or the event that it became, take effect on a session (session.py)."""
    if "user" in fields:
        session.user = fields["user"]
    elif name == "target":
        session.target_mwh = fields.get("target_mwh")
        session.target_minor = fields.get("target_minor")
    elif name == "stop":
        session.stop = _BY[fields["by"]]
