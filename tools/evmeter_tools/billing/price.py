"""What a session's energy costs, and the tariff as OCPI elements.

Energy is priced by the registers that were signed where the tariff changed, exactly, and rounded
once, half up, to the minor unit, as the device does for its display. Only energy and a fee for
the session have a price: what parking took is told by events, which nobody signed.
"""

from calendar import isleap
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from evmeter_tools import firmware
from evmeter_tools.errors import UserError

_CENTIMINOR = 100
_MWH = 1_000_000
_WH = 1000
# ISO 4217: digits of the minor unit where they are not two
_DIGITS = {
    **dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(),
                    0),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3), **dict.fromkeys(("CLF", "UYW"), 4)}
_DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
_FIELDS = ("id", "currency", "zone", "windows", "session_minor", "vat_permille", "vat_included")


class Held(Exception):
    """A session that cannot be priced or billed as it is: the reason in words."""


def half_up(value, digits):
    """A Decimal with so many digits behind the point."""
    return value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


@dataclass(frozen=True)
class Cost:
    """A sum in minor units, without and with VAT; `incl_minor` None where no VAT is known."""

    excl_minor: int
    incl_minor: int | None

    def __neg__(self):
        return Cost(-self.excl_minor, None if self.incl_minor is None else -self.incl_minor)


@dataclass(frozen=True)
class Part:
    """Energy under one price: from when, whole Wh, tariff window's name, price in hundredths of
    the minor unit a kWh."""

    start_ms: int
    energy_wh: int
    name: str
    centiminor_per_kwh: int


class OperatorTariff:
    """A tariff as the operator keeps it: a device's section `tariff` (currency, zone, windows;
    session/tariff.py) with

    id             its name in OCPI, at most 36 characters
    session_minor  fee for a session, minor units
    vat_permille   VAT, for the price with it; left out where it is not known
    vat_included   whether the prices have the VAT in them

    Raises UserError, one line.
    """

    def __init__(self, config):
        firmware.reach()
        from evmeter.session.tariff import Tariff
        from evmeter.session.windows import read

        if not isinstance(config, dict):
            raise UserError("a tariff must be a JSON object")
        unknown = [name for name in config if name not in _FIELDS]
        if unknown:
            raise UserError("tariff: unknown field %.40s; allowed: %s"
                            % (unknown[0], ", ".join(_FIELDS)))
        section = {name: config[name] for name in ("currency", "zone", "windows")
                   if name in config}
        try:
            self.device = Tariff(section)
            self.windows, _ = read(section)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.id = config.get("id")
        if not isinstance(self.id, str) or not 0 < len(self.id) <= 36 or not self.id.isascii():
            raise UserError("tariff.id is %.40r; allowed: 1 to 36 ASCII characters" % (self.id,))
        self.currency = config["currency"]
        self.zone = config["zone"]
        self.session_minor = self._whole(config, "session_minor", 0)
        self.vat_permille = self._whole(config, "vat_permille", None)
        self.vat_included = config.get("vat_included", False) is True
        if self.vat_included and self.vat_permille is None:
            raise UserError("tariff.vat_included needs tariff.vat_permille")

    @staticmethod
    def _whole(config, name, default):
        value = config.get(name, default)
        if value is not default and (type(value) is not int or not 0 <= value <= 10**8):
            raise UserError("tariff.%s is %.40r; allowed: a whole number from 0 on"
                            % (name, value))
        return value

    @property
    def digits(self):
        """Digits of the currency's minor unit."""
        return _DIGITS.get(self.currency, 2)

    def money(self, minor):
        """Minor units as an amount of the currency."""
        return Decimal(minor).scaleb(-self.digits)

    def with_vat(self, minor):
        """The Cost of a sum as the tariff has it, without or with VAT; the other is rounded half
        up to the minor unit."""
        if self.vat_permille is None:
            return Cost(minor, None)
        factor = 1000 + self.vat_permille
        if self.vat_included:
            return Cost((2 * minor * 1000 + factor) // (2 * factor), minor)
        return Cost(minor, (2 * minor * factor + 1000) // 2000)

    def energy_cost(self, parts):
        """Cost of the energy of Parts in minor units, exact until the one rounding."""
        unit = _MWH // _WH * _CENTIMINOR
        total = sum(part.energy_wh * part.centiminor_per_kwh for part in parts)
        return (2 * total + unit) // (2 * unit)

    def cost(self, parts):
        """(Cost of all, Cost of the energy, Cost of the fee)."""
        energy = self.energy_cost(parts)
        return (self.with_vat(energy + self.session_minor), self.with_vat(energy),
                self.with_vat(self.session_minor))

    def parts(self, session, with_gap, unsplit="hold"):
        """The Parts of a verified session, gap energy left out unless `with_gap`.

        unsplit  what to do where the energy cannot be told apart by tariff: "hold", or
                 "cheapest": all of it at the lowest price, which harms no driver

        Raises Held.
        """
        pieces, cheapest = self._pieces(session, unsplit)
        if not with_gap:
            pieces = self._less_gap(session, pieces)
        parts = []
        total_mwh = told_wh = 0
        for start_ms, energy_mwh, window in pieces:
            # a meter finer than 1 Wh is billed in whole ones, rounded down, so that the parts
            # add up and OCPI's step of 1 Wh adds nothing
            total_mwh += energy_mwh
            energy_wh = total_mwh // _WH - told_wh
            told_wh += energy_wh
            parts.append(Part(start_ms, energy_wh,
                              self.device.name(window), self.device.price(window)))
        if cheapest:
            parts = [Part(parts[0].start_ms, told_wh, "(lowest price)",
                          min(window[1] for window in self.windows))]
        return parts

    def _pieces(self, session, unsplit):
        """([(start, Unix ms; mWh; window)], whether all of it goes at the lowest price)."""
        why = self._unsplit(session)
        if why and unsplit != "cheapest":
            raise Held(why)
        pieces = [(start_ms, mwh, self.device.window_at(start_ms // 1000))
                  for start_ms, mwh in session.segments]
        return pieces, bool(why)

    def _unsplit(self, session):
        """Why the signed registers do not tell the energy of each window, "" if they do."""
        if self.device.flat:
            return ""
        if session.tariff_code not in (None, self.device.code):
            return "the device had another tariff than %s" % self.id
        if session.split_ok is not None:
            return "" if session.split_ok else "the split by tariff cannot be billed"
        begin_s, end_s = session.start.unix_ms // 1000, session.stop.unix_ms // 1000
        if session.start.quality not in "SR" or session.stop.quality not in "SR":
            return "the clock does not tell the tariff"
        while begin_s < end_s:
            window = self.device.window_at(begin_s)
            begin_s = self.device.next_boundary_s(begin_s)
            if begin_s < end_s and self.device.window_at(begin_s) != window:
                return "the device has not measured where the tariff changed"
        return ""

    def _less_gap(self, session, pieces):
        """Take the gap energy out where the events place it; where they do not add up, out of the
        dearest pieces first."""
        energies = [mwh for _, mwh, _ in pieces]
        gaps = list(session.gaps)
        rest_mwh = session.gap_mwh - sum(mwh for _, mwh in gaps)
        if rest_mwh > 0 and session.ended_by == "P":
            gaps.append((session.stop.unix_ms, rest_mwh))
            rest_mwh = 0
        left = list(energies)
        for at_ms, mwh in gaps:
            index = max((at for at, piece in enumerate(pieces) if piece[0] <= at_ms), default=0)
            left[index] -= mwh
        if rest_mwh or min(left) < 0:
            left = list(energies)
            rest_mwh = session.gap_mwh
            for index in sorted(range(len(pieces)), key=lambda at: -self.device.price(
                    pieces[at][2])):
                taken = min(left[index], rest_mwh)
                left[index] -= taken
                rest_mwh -= taken
        return [(start_ms, mwh, window)
                for (start_ms, _, window), mwh in zip(pieces, left, strict=True)]

    # -- OCPI --

    def years(self, begin_s, end_s):
        """The local years that a session touches; Unix s."""
        from evmeter.session.zone import Zone

        zone = Zone(self.zone)
        return sorted({datetime.fromtimestamp(at_s + zone.at(at_s)[0], UTC).year
                       for at_s in (begin_s, end_s)})

    def _price(self, centiminor):
        """A price of the tariff as OCPI has it: an amount without VAT, four decimals."""
        amount = Decimal(centiminor).scaleb(-self.digits - 2)
        if self.vat_included:
            amount = amount * 1000 / (1000 + self.vat_permille)
        return half_up(amount, 4)

    def _component(self, kind, centiminor):
        component = {"type": kind, "price": self._price(centiminor), "step_size": 1}
        if self.vat_permille is not None:
            component["vat"] = half_up(Decimal(self.vat_permille) / 10, 4)
        return component

    def elements(self, years):
        """The tariff's elements; seasons are those of `years`, for OCPI has no yearly ones."""
        found = []
        if self.session_minor:
            found.append({"price_components": [
                self._component("FLAT", self.session_minor * _CENTIMINOR)]})
        for _, price, bits, begin, end, first, last in self.windows:
            for times in _times(begin, end):
                for dates in _dates(years, first, last):
                    element = {"price_components": [self._component("ENERGY", price)]}
                    restrictions = {**times, **dates}
                    if bits != 127:
                        restrictions["day_of_week"] = [
                            day for at, day in enumerate(_DAYS) if bits >> at & 1]
                    if restrictions:
                        element["restrictions"] = restrictions
                    found.append(element)
        return found

    def ocpi(self, country_code, party_id, years, updated):
        """The Tariff object for sessions in `years`; `updated` is its last_updated."""
        return {"country_code": country_code, "party_id": party_id, "id": self.id,
                "currency": self.currency, "elements": self.elements(years),
                "last_updated": updated}


def _times(begin, end):
    """OCPI's start_time and end_time of minutes of the day. Over midnight they become two: a
    window's days are those of each instant's own date, and OCPI leaves open whose they are."""
    if (begin, end) == (0, 1440):
        return [{}]
    if begin < end:
        return [{"start_time": _clock(begin), "end_time": _clock(end % 1440)}]
    return [{"start_time": _clock(begin), "end_time": "00:00"},
            *([{"start_time": "00:00", "end_time": _clock(end)}] if end else [])]


def _clock(minute):
    return "%02d:%02d" % divmod(minute, 60)


def _dates(years, first, last):
    """start_date and end_date (which OCPI excludes) of a season in each of `years`; over new year
    it is two."""
    if (first, last) == (101, 1231):
        return [{}]
    found = []
    for year in years:
        begin = "%04d-%02d-%02d" % (year, *divmod(first, 100))
        month, day = divmod(last, 100)
        if (month, day) == (2, 29) and not isleap(year):
            day = 28
        after = (date(year, month, day) + timedelta(days=1)).isoformat()
        if first <= last:
            found.append({"start_date": begin, "end_date": after})
        else:
            found += [{"start_date": "%04d-01-01" % year, "end_date": after},
                      {"start_date": begin, "end_date": "%04d-01-01" % (year + 1)}]
    return found
