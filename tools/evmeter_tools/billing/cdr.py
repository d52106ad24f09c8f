"""OCPI 2.2.1 CDRs of verified sessions, and the credit CDRs that correct them.

Energy is signed end less signed begin, never telemetry; what is not verified, not billable or not
confirmed is in none. A CDR is never changed: a correction is a credit CDR and a new one.
"""

import base64
import json
import re
from datetime import UTC, datetime
from decimal import Decimal

from evmeter_tools.billing import ocpi
from evmeter_tools.billing.gaps import CONFIRMED, PENDING, GapDecisions
from evmeter_tools.billing.price import Held, half_up
from evmeter_tools.errors import UserError
from evmeter_tools.insight.session import CHARGING

_HOUR_MS = 3_600_000
LEAST_S = 60
_TOO_FAST_PERMILLE = 1100
_OPTIONS = {"gap": ("leave_out", "hold"), "unsplit": ("hold", "cheapest")}


def rfc3339(unix_ms):
    """A Unix time in ms as OCPI has it."""
    at = datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return "%s.%03dZ" % (at, unix_ms % 1000)


def suspicions(session, rated_mw, now_ms, least_s=LEAST_S):
    """What a person should look at before such a session is billed, as a list of texts."""
    found = []
    seconds = (session.stop_ms - session.start_ms) // 1000
    if not session.energy_mwh:
        found.append("no energy")
    if seconds < least_s:
        found.append("%d s long" % seconds)
    if session.stop_ms > now_ms + 60_000:
        found.append("ends in the future")
    if rated_mw and seconds and (
            session.energy_mwh * 3600 * 1000 > rated_mw * seconds * _TOO_FAST_PERMILLE):
        found.append("faster than the charger can")
    return found


class Billing:
    """Makes CDRs.

    operator   party.Operator or the like: country_code, party_id, place(device),
               tariff(device, unix_s), token(session)
    decisions  gaps.GapDecisions or the like
    gap        "leave_out": pending gap energy is not billed, the rest is; "hold": the session
               waits for the decision
    unsplit    "hold" or "cheapest", price.OperatorTariff.parts
    receipt    None, or gives the address of a session's receipt: receipt(device, sid)
    least_s    a shorter session is suspicious
    accepted   ids of suspicious sessions that a person has looked at
    """

    def __init__(self, operator, decisions=None, gap="leave_out", unsplit="hold", receipt=None,
                 least_s=LEAST_S, accepted=()):
        for name, value in (("gap", gap), ("unsplit", unsplit)):
            if value not in _OPTIONS[name]:
                raise UserError("--%s %.20s; allowed: %s"
                                % (name, value, ", ".join(_OPTIONS[name])))
        self._operator = operator
        self._decisions = decisions or GapDecisions()
        self._gap = gap
        self._unsplit = unsplit
        self._receipt = receipt
        self._least_s = least_s
        self._accepted = frozenset(accepted)

    def _refuse(self, session, now_ms):
        """Raise Held where a session has no CDR."""
        if not session.billable:
            raise Held("; ".join(session.why_not) or "not billable")
        if not re.fullmatch(re.escape(session.device) + r"-[0-9]{6,10}", session.sid, re.ASCII):
            raise Held("its id %.36r is none that %s gives" % (session.sid, session.device))
        if not (session.start.known and session.stop.known):
            raise Held("its time is not known")
        place = self._operator.place(session.device)
        if not isinstance(place["location"], dict):
            raise Held("%s has no location in the operator's file" % session.device)
        found = suspicions(session, place["rated_mw"], now_ms, self._least_s)
        if found and session.sid not in self._accepted:
            raise Held("suspicious: " + ", ".join(found))
        named = {record.get("CI") for record in session.records} - {None}
        if named and named != {place["location"].get("evse_id")}:
            raise Held("its records name the EVSE %s, the operator's file %s"
                       % (", ".join(sorted(map(str, named))), place["location"].get("evse_id")))
        if session.gap_mwh and self._gap == "hold" and self._decision(session) == PENDING:
            raise Held("%d mWh of gap energy wait for the operator" % session.gap_mwh)

        if session.gap_mwh and session.gap_mwh == session.energy_mwh and (
                self._decision(session) != CONFIRMED):
            # there is nothing to bill then, and a fee for the session alone is nobody's to pay
            raise Held("all of its energy is gap energy that the operator has not confirmed")

    def _decision(self, session):
        return self._decisions.decision(session.device, session.sid, session.gap_mwh)

    def cdr(self, session, now_ms, number=1):
        """The CDR of a ChargingSession, with Decimals for its numbers; `number` above 1 is that
        of a corrected one. Raises Held, also where it would break OCPI's rules: what is wrong
        with one session or place keeps no other from its CDR."""
        self._refuse(session, now_ms)
        operator = self._operator
        start_ms, stop_ms = session.start_ms, session.stop_ms
        tariff = operator.tariff(session.device, session.start.best_ms // 1000)
        with_gap = not session.gap_mwh or self._decision(session) == CONFIRMED
        parts = tariff.parts(session, with_gap, self._unsplit)
        shift_ms = start_ms - session.start.unix_ms
        whole, energy, fee = tariff.cost(parts)
        updated = rfc3339(now_ms)
        years = tariff.years(start_ms // 1000, stop_ms // 1000)
        periods, total, parking = _periods(session, parts, tariff.id, start_ms, stop_ms, shift_ms)
        name = session.sid if number == 1 else "%s-%d" % (session.sid, number)
        result = {
            "country_code": operator.country_code, "party_id": operator.party_id, "id": name,
            "start_date_time": rfc3339(start_ms), "end_date_time": rfc3339(stop_ms),
            "session_id": session.sid, "cdr_token": operator.token(session),
            "auth_method": _auth_method(session.user),
            "cdr_location": operator.place(session.device)["location"],
            "meter_id": str(session.records[-1].get("MS")), "currency": tariff.currency,
            "tariffs": [tariff.ocpi(operator.country_code, operator.party_id, years, updated)],
            "charging_periods": periods, "signed_data": self._signed(session),
            "total_cost": _price(tariff, whole),
            "total_energy": sum(_kwh(part.energy_wh) for part in parts),
            "total_energy_cost": _price(tariff, energy), "total_time": total,
            "total_parking_time": parking, "last_updated": updated}
        if tariff.session_minor:
            result["total_fixed_cost"] = _price(tariff, fee)
        remarks = list(self._remarks(session, with_gap, parts))
        if remarks:
            result["remark"] = "; ".join(remarks)[:255]
        found = ocpi.faults(result)
        if found:
            raise Held("OCPI's rules: " + "; ".join(found[:3]))
        return result

    def _remarks(self, session, with_gap, parts):
        if session.gap_mwh:
            yes = "confirmed by the operator" if with_gap else "not billed"
            yield "%d Wh flowed while the device was off: %s" % (session.gap_mwh // 1000, yes)
        if session.start.true or session.stop.true:
            yield "times corrected after the session; the signed ones say clock not set"
        if len(parts) == 1 and parts[0].name.startswith("("):
            yield "not split by tariff: all at the lowest price"

    def _signed(self, session):
        """signed_data: the begin, tariff and complete records as they were signed, those of the
        key that signed the end: OCPI has room for one, and the complete record proves it all."""
        natures = {"begin": "Start", "complete": "End", "tariff": "Intermediate"}
        data = {
            "encoding_method": "OCMF",
            "public_key": base64.b64encode(session.records[-1].key).decode(),
            "signed_values": [
                {"nature": natures[record.kind], "plain_data": record.text,
                 "signed_data": base64.b64encode(record.text.encode()).decode()}
                for record in session.records if record.key == session.records[-1].key]}
        if self._receipt:
            data["url"] = self._receipt(session.device, session.sid)
        return data


def checked(cdr):
    """The CDR itself, if it keeps the rules of OCPI. Raises UserError."""
    found = ocpi.faults(cdr)
    if found:
        raise UserError("the CDR %s would break OCPI's rules: %s"
                        % (cdr.get("id"), "; ".join(found[:3])))
    return cdr


def _kwh(energy_wh):
    return Decimal(energy_wh).scaleb(-3)


def _price(tariff, cost):
    price = {"excl_vat": tariff.money(cost.excl_minor)}
    if cost.incl_minor is not None:
        price["incl_vat"] = tariff.money(cost.incl_minor)
    return price


def _auth_method(user):
    flags = (user or {}).get("IF") or ()
    if "OCPP_RS" in flags or "OCPP_RS_TLS" in flags:
        return "COMMAND"
    return "AUTH_REQUEST" if "OCPP_AUTH" in flags or "OCPP_AUTH_TLS" in flags else "WHITELIST"


class _Hours:
    """Times in hours with four decimals that add up to the rounded sum."""

    def __init__(self):
        self._ms = 0
        self.told = Decimal(0)

    def add(self, ms):
        self._ms += ms
        whole = half_up(Decimal(self._ms) / _HOUR_MS, 4)
        part, self.told = whole - self.told, whole
        return part


def _periods(session, parts, tariff_id, start_ms, stop_ms, shift_ms):
    """(charging periods, total time, parking time): one for each Part, with its energy, and the
    time in which the car did and did not charge as the events tell it."""
    charging, parking = _Hours(), _Hours()
    periods = []
    edges = [start_ms] + [min(part.start_ms + shift_ms, stop_ms) for part in parts[1:]]
    for part, begin_ms, end_ms in zip(parts, edges, [*edges[1:], stop_ms], strict=True):
        charging_ms = session.phase_ms((CHARGING,), begin_ms, end_ms)
        dimensions = [{"type": "ENERGY", "volume": _kwh(part.energy_wh)},
                      {"type": "TIME", "volume": charging.add(charging_ms)},
                      {"type": "PARKING_TIME",
                       "volume": parking.add(end_ms - begin_ms - charging_ms)}]
        periods.append({"start_date_time": rfc3339(begin_ms), "dimensions": dimensions,
                        "tariff_id": tariff_id})
    return periods, charging.told + parking.told, parking.told


def credit(cdr, now_ms):
    """The credit CDR of a CDR: the same, but for its id, its reference and the sign of its cost.
    Raises UserError where it is one itself."""
    if cdr.get("credit"):
        raise UserError("%s is a credit CDR, which cannot be credited" % cdr["id"])
    return checked({
        **cdr, "id": cdr["id"] + "-C", "credit": True, "credit_reference_id": cdr["id"],
        "total_cost": {name: 0 - value for name, value in cdr["total_cost"].items()},
        "last_updated": rfc3339(now_ms)})


def same(one, other):
    """Whether two CDRs say the same of a session, whenever they were made."""
    def bare(cdr):
        tariffs = [{**tariff, "last_updated": ""} for tariff in cdr.get("tariffs", ())]
        return {**cdr, "id": "", "last_updated": "", "tariffs": tariffs}
    return bare(one) == bare(other)


def text(cdr):
    """A CDR as JSON. Its Decimals have far fewer than 15 digits, so that the shortest form of
    the float is the same number, digit by digit."""
    return json.dumps(cdr, indent=1, default=float)


def read(text_):
    """A CDR from JSON, numbers as Decimals. Raises UserError."""
    try:
        cdr = json.loads(text_, parse_float=Decimal)
        found = ocpi.faults(cdr)
    except (ValueError, TypeError, KeyError, ArithmeticError):
        found = ["not JSON of a CDR"]
    if found:
        raise UserError("no CDR: %s" % found[0])
    return cdr
