"""Front ends of the control pilot: what makes of -12 to 12 V a voltage that the ADC takes."""

from micropython import const

# microvolts at the pin at 0 V, and for each volt on the pilot (reference: board schematics)
FRONT_ENDS = {
    "fe1": (1337500, 102100),  # esp32-evse
    "fe2": (1650000, 125000),  # 0 to 3.3 V
    "fe3": (1300000, 88500),  # stays in the linear range of the ESP32's ADC, 150 to 2450 mV
}
_PIN_UV = const(3300000)
_LEAST_UV_PER_V = const(20000)


def front_end_data(front_end):
    """(microvolts at the pin at 0 V, microvolts at the pin per volt) of a front end: a key of
    FRONT_ENDS, or {"zero_uv": .., "uv_per_v": ..}. Raises ValueError."""
    if isinstance(front_end, str) and front_end in FRONT_ENDS:
        return FRONT_ENDS[front_end]
    if not isinstance(front_end, dict):
        raise ValueError("front end %s is not one of %s, and no {zero_uv, uv_per_v}"
                         % (front_end, ", ".join(sorted(FRONT_ENDS))))
    for key in front_end:
        if key not in ("zero_uv", "uv_per_v"):
            raise ValueError("front end: %s is unknown; there is: zero_uv, uv_per_v" % key)
    for key, least in (("zero_uv", 0), ("uv_per_v", _LEAST_UV_PER_V)):
        value = front_end.get(key)
        if type(value) is not int or not least <= value <= _PIN_UV:
            raise ValueError("front end: %s is %s; allowed: %d to %d"
                             % (key, value, least, _PIN_UV))
    zero_uv = front_end["zero_uv"]
    uv_per_v = front_end["uv_per_v"]
    if zero_uv < 12 * uv_per_v or zero_uv + 12 * uv_per_v > _PIN_UV:
        raise ValueError("front end: -12 V and 12 V are %d and %d uV at the pin; allowed: 0 to %d"
                         % (zero_uv - 12 * uv_per_v, zero_uv + 12 * uv_per_v, _PIN_UV))
    return zero_uv, uv_per_v
