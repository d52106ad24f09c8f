"""The rules of OCPI 2.2.1 for a CDR (release-2.2.1-bugfixes, mod_cdrs, mod_tariffs, types).

`faults(cdr)` is what the product holds each CDR against before it is let out.
"""

import base64
import binascii
import re
from datetime import datetime
from decimal import Decimal

AUTH_METHODS = ("AUTH_REQUEST", "COMMAND", "WHITELIST")
TOKEN_TYPES = ("AD_HOC_USER", "APP_USER", "OTHER", "RFID")
DIMENSIONS = ("CURRENT", "ENERGY", "ENERGY_EXPORT", "ENERGY_IMPORT", "MAX_CURRENT", "MIN_CURRENT",
              "MAX_POWER", "MIN_POWER", "PARKING_TIME", "POWER", "RESERVATION_TIME",
              "STATE_OF_CHARGE", "TIME")
POWER_TYPES = ("AC_1_PHASE", "AC_2_PHASE", "AC_2_PHASE_SPLIT", "AC_3_PHASE", "DC")
CONNECTORS = (
    "CHADEMO CHAOJI DOMESTIC_A DOMESTIC_B DOMESTIC_C DOMESTIC_D DOMESTIC_E DOMESTIC_F DOMESTIC_G "
    "DOMESTIC_H DOMESTIC_I DOMESTIC_J DOMESTIC_K DOMESTIC_L DOMESTIC_M DOMESTIC_N DOMESTIC_O "
    "GBT_AC GBT_DC IEC_60309_2_single_16 IEC_60309_2_three_16 IEC_60309_2_three_32 "
    "IEC_60309_2_three_64 IEC_62196_T1 IEC_62196_T1_COMBO IEC_62196_T2 IEC_62196_T2_COMBO "
    "IEC_62196_T3A IEC_62196_T3C NEMA_5_20 NEMA_6_30 NEMA_6_50 NEMA_10_30 NEMA_10_50 NEMA_14_30 "
    "NEMA_14_50 PANTOGRAPH_BOTTOM_UP PANTOGRAPH_TOP_DOWN TESLA_R TESLA_S").split()
DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?", re.ASCII)


def _ci(longest):
    def check(value):
        return (isinstance(value, str) and 0 < len(value) <= longest
                and all(" " <= one <= "~" for one in value)) or (
                    "no ASCII text of 1 to %d characters" % longest)
    return check


def _text(longest):
    def check(value):
        return (isinstance(value, str) and len(value) <= longest and value.isprintable()) or (
            "no printable text of at most %d characters" % longest)
    return check


def _match(pattern, says):
    def check(value):
        return (isinstance(value, str)
                and re.fullmatch(pattern, value, re.ASCII) is not None) or says
    return check


def _one_of(values):
    return lambda value: (isinstance(value, str) and value in values) or "not defined"


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return "no exact number"
    return value == round(Decimal(value), 4) or "more than four decimals"


def _whole(value):
    return type(value) is int or "no whole number"


def _flag(value):
    return isinstance(value, bool) or "neither true nor false"


def _time(value):
    if not isinstance(value, str) or len(value) > 25 or not _TIME.fullmatch(value):
        return "no UTC time as 2026-03-29T01:00:00Z"
    try:
        return bool(datetime.fromisoformat(value))
    except ValueError:
        return "no time of the calendar"


def _base64(value):
    try:
        return bool(base64.b64decode(value, validate=True)) or "empty"
    except (binascii.Error, ValueError, TypeError):
        return "not base64"


def _both(*checks):
    def check(value):
        for one in checks:
            found = one(value)
            if found is not True:
                return found
        return True
    return check


_PRICE = {"excl_vat": (1, _number), "incl_vat": (0, _number)}
_CURRENCY = _match("[A-Z]{3}", "no ISO 4217 code")
_COUNTRY = _match("[A-Za-z]{2}", "no ISO 3166 alpha-2 code")
_LOCATION = {
    "id": (1, _ci(36)), "name": (0, _text(255)), "address": (1, _text(45)),
    "city": (1, _text(45)), "postal_code": (0, _text(10)), "state": (0, _text(20)),
    "country": (1, _match("[A-Z]{3}", "no ISO 3166 alpha-3 code")),
    "coordinates": (1, {
        "latitude": (1, _match(
            r"-?[0-9]{1,2}\.[0-9]{5,7}", "no latitude as 51.047599, with 5 to 7 decimals")),
        "longitude": (1, _match(
            r"-?[0-9]{1,3}\.[0-9]{5,7}", "no longitude as 3.729944, with 5 to 7 decimals"))}),
    "evse_uid": (1, _ci(36)), "evse_id": (1, _ci(48)), "connector_id": (1, _ci(36)),
    "connector_standard": (1, _one_of(CONNECTORS)),
    "connector_format": (1, _one_of(("SOCKET", "CABLE"))),
    "connector_power_type": (1, _one_of(POWER_TYPES))}
_TOKEN = {"country_code": (1, _COUNTRY), "party_id": (1, _ci(3)), "uid": (1, _ci(36)),
          "type": (1, _one_of(TOKEN_TYPES)), "contract_id": (1, _ci(36))}
_PERIOD = {
    "start_date_time": (1, _time), "tariff_id": (0, _ci(36)),
    "dimensions": (1, [{"type": (1, _one_of(DIMENSIONS)), "volume": (1, _number)}])}
_CLOCK = _match("([0-1][0-9]|2[0-3]):[0-5][0-9]", "no time as 13:30")
_DATE = _match("([12][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", "no date")
_TARIFF = {
    "country_code": (1, _COUNTRY), "party_id": (1, _ci(3)), "id": (1, _ci(36)),
    "currency": (1, _CURRENCY), "last_updated": (1, _time),
    "elements": (1, [{
        "price_components": (1, [{
            "type": (1, _one_of(("ENERGY", "FLAT", "PARKING_TIME", "TIME"))),
            "price": (1, _number), "vat": (0, _number), "step_size": (1, _whole)}]),
        "restrictions": (0, {
            "start_time": (0, _CLOCK), "end_time": (0, _CLOCK), "start_date": (0, _DATE),
            "end_date": (0, _DATE), "day_of_week": (0, [_one_of(DAYS)])})}])}
_SIGNED = {
    "encoding_method": (1, _ci(36)), "encoding_method_version": (0, _whole),
    "public_key": (0, _both(_text(512), _base64)),
    "signed_values": (1, [{
        "nature": (1, _one_of(("Start", "End", "Intermediate"))), "plain_data": (1, _text(5000)),
        "signed_data": (1, _both(_text(5000), _base64))}]),
    "url": (0, _text(512))}
CDR = {
    "country_code": (1, _COUNTRY), "party_id": (1, _ci(3)), "id": (1, _ci(39)),
    "start_date_time": (1, _time), "end_date_time": (1, _time), "session_id": (0, _ci(36)),
    "cdr_token": (1, _TOKEN), "auth_method": (1, _one_of(AUTH_METHODS)),
    "authorization_reference": (0, _ci(36)), "cdr_location": (1, _LOCATION),
    "meter_id": (0, _text(255)), "currency": (1, _CURRENCY), "tariffs": (0, [_TARIFF]),
    "charging_periods": (1, [_PERIOD]), "signed_data": (0, _SIGNED), "total_cost": (1, _PRICE),
    "total_fixed_cost": (0, _PRICE), "total_energy": (1, _number),
    "total_energy_cost": (0, _PRICE), "total_time": (1, _number), "total_time_cost": (0, _PRICE),
    "total_parking_time": (0, _number), "total_parking_cost": (0, _PRICE),
    "total_reservation_cost": (0, _PRICE), "remark": (0, _text(255)),
    "invoice_reference_id": (0, _ci(39)), "credit": (0, _flag),
    "credit_reference_id": (0, _ci(39)), "home_charging_compensation": (0, _flag),
    "last_updated": (1, _time)}


def _check(name, value, rule):
    """Yield what is wrong with a value: `rule` is a function, a dict of fields or a list of one
    rule for the elements of a list that is not empty."""
    if isinstance(rule, dict):
        if not isinstance(value, dict):
            yield "%s: no object" % name
            return
        for field in value:
            if field not in rule:
                yield "%s.%s is not defined" % (name, field)
        for field, (needed, own) in rule.items():
            if field in value:
                yield from _check("%s.%s" % (name, field), value[field], own)
            elif needed:
                yield "%s.%s is missing" % (name, field)
    elif isinstance(rule, list):
        if not isinstance(value, list) or not value:
            yield "%s: no list with something in it" % name
            return
        for at, item in enumerate(value):
            yield from _check("%s[%d]" % (name, at), item, rule[0])
    else:
        found = rule(value)
        if found is not True:
            yield "%s: %s" % (name, found)


def _sum(cdr, kind):
    return sum(dimension["volume"] for period in cdr["charging_periods"]
               for dimension in period["dimensions"] if dimension["type"] == kind)


def _whole_faults(cdr):
    """Yield what the fields say against each other."""
    starts = [period["start_date_time"] for period in cdr["charging_periods"]]
    if starts != sorted(starts) or starts[0] != cdr["start_date_time"]:
        yield "cdr.charging_periods: do not begin with the session and go on in order"
    if starts[-1] > cdr["end_date_time"]:
        yield "cdr.end_date_time: before a charging period"
    if _sum(cdr, "ENERGY") != cdr["total_energy"]:
        yield "cdr.total_energy: not the sum of the periods"
    if _sum(cdr, "TIME") + _sum(cdr, "PARKING_TIME") != cdr["total_time"]:
        yield "cdr.total_time: not the sum of the periods"
    if _sum(cdr, "PARKING_TIME") != cdr.get("total_parking_time", 0):
        yield "cdr.total_parking_time: not the sum of the periods"
    credit = cdr.get("credit", False)
    if credit != ("credit_reference_id" in cdr):
        yield "cdr.credit_reference_id: belongs to a credit CDR, and to no other"
    if not credit and len(cdr["id"]) > 36:
        yield "cdr.id: longer than 36 characters, which only a credit CDR's may be"
    if (cdr["total_cost"]["excl_vat"] > 0 if credit else cdr["total_cost"]["excl_vat"] < 0):
        yield "cdr.total_cost: has the wrong sign"


def faults(cdr):
    """What is wrong with a CDR, as a list of texts; empty where nothing is."""
    found = list(_check("cdr", cdr, CDR))
    return found or list(_whole_faults(cdr))


def tariff_faults(tariff):
    """What is wrong with a Tariff object."""
    return list(_check("tariff", tariff, _TARIFF))
