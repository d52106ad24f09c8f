"""Availability as OCPI 2.2.1 has it: locations with the status of their EVSEs."""

from evmeter_tools.web.fleet import rfc3339


def location(place, party):
    """A site of fleet.availability as a Location object; `party` is (country_code, party_id)."""
    updated = max([each["changed_at"] for each in place["evses"]], default=0)
    return {
        "country_code": party[0], "party_id": party[1], "id": place["id"], "publish": True,
        "name": place["name"] or place["id"], "address": place["address"] or "-",
        "city": place["city"] or "-", "country": place["country"] or "XXX",
        "coordinates": {"latitude": place["latitude"] or "0.00000",
                        "longitude": place["longitude"] or "0.00000"},
        "evses": [_evse(each) for each in place["evses"]],
        "time_zone": place["time_zone"], "last_updated": rfc3339(updated)}


def _evse(each):
    found = {
        "uid": each["device"], "status": each["status"],
        "connectors": [{
            "id": "1", "standard": "IEC_62196_T2", "format": "SOCKET",
            "power_type": "AC_1_PHASE" if each["rated_w"] <= 7400 else "AC_3_PHASE",
            "max_voltage": 230, "max_amperage": _amperes(each["rated_w"]),
            "max_electric_power": each["rated_w"], "last_updated": rfc3339(each["changed_at"])}],
        "last_updated": rfc3339(each["changed_at"])}
    if each["evse_id"]:
        found["evse_id"] = each["evse_id"]
    if each["label"]:
        found["physical_reference"] = each["label"][:16]
    return found


def _amperes(rated_w):
    """Of each phase at 230 V: up to 7.4 kW one phase, three above."""
    return round(rated_w / (230 if rated_w <= 7400 else 690))
