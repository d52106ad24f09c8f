"""Permit output to the charge controller: whether it may close the contactor.

The fail-safe level, "no permission", is on the pin before anything else is. While the chip is off
or in reset the pin drives nothing: a resistor on the board has to hold that level then.
"""


class Permit:
    """`pin(level)` sets an output, `pin()` reads it (machine.Pin, made with
    `value=1 - permitted_level`). `permitted_level`: the level, 0 or 1, that means permission.
    `sense`: None, or a second pin that reads the output from outside, at the same levels.

    on      what was asked for
    fault   "", or why the output may not be what was asked for
    """

    def __init__(self, pin, permitted_level, sense=None):
        if type(permitted_level) is not int or permitted_level not in (0, 1):
            raise ValueError("permitted_level is %s; allowed: 0, 1" % permitted_level)
        self._pin = pin
        self._permitted = permitted_level
        self._sense = sense or pin
        self.on = False
        self.fault = ""
        self.check()

    def __call__(self, on):
        """Give or withdraw the permission; `fault` tells whether the output followed."""
        self.on = bool(on)
        return self.check()

    def check(self):
        """Set the output once more, and read it back; returns whether it is as asked for. A pin
        that cannot be set is tried again by the next call."""
        level = self._permitted if self.on else 1 - self._permitted
        try:
            self._pin(level)
            found = self._sense()
        except OSError as error:
            self.fault = "permit output not reached: %s" % error
            return False
        self.fault = "" if found == level else "permit output is %s, not %s" % (found, level)
        return not self.fault
