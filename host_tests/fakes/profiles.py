"""A meter profile to change at will."""


def profile_with(**changes):
    """The profile of an imaginary meter, with `changes`; None takes a field away."""
    profile = {
        "make": "Maker", "model": "M1", "confidence": "low", "line": "9600 8E1", "unit": 1,
        "phases": 3, "function": 3, "order": "big", "max_registers": 125, "step_mwh": 10000,
        "billing": {"import": ["0x5000", "u64", "kWh", -2]},
    }
    for name, value in changes.items():
        if value is None:
            del profile[name]
        else:
            profile[name] = value
    return profile
