from drivers.permit import Permit
from support import raises


class _Pin:
    """An output; `stuck` is the level that it has in spite of what is set."""

    def __init__(self, level=None, stuck=None):
        self.level = level
        self.stuck = stuck
        self.levels = []
        self.dead = False

    def __call__(self, level=None):
        if self.dead:
            raise OSError(5, "no answer")
        if level is None:
            return self.level if self.stuck is None else self.stuck
        self.level = level
        self.levels.append(level)
        return None


def test_no_permission_is_the_first_level_on_the_pin():
    for permitted in (0, 1):
        for before in (0, 1, None):
            pin = _Pin(before)
            permit = Permit(pin, permitted)
            assert pin.levels == [1 - permitted], (permitted, before)
            assert not permit.on
            assert permit.fault == ""


def test_the_output_follows_and_is_set_again():
    for permitted in (0, 1):
        pin = _Pin()
        permit = Permit(pin, permitted)
        for on in (True, True, False, 1, 0, None):
            assert permit(on)
            assert pin.level == (permitted if on else 1 - permitted), (permitted, on)
            assert permit.on == bool(on)
        permit(True)
        pin.level = 1 - permitted  # a disturbance
        assert permit.check()
        assert pin.level == permitted


def test_an_output_that_does_not_follow_is_a_fault_until_it_does():
    pin = _Pin(stuck=1)
    permit = Permit(pin, 1)
    assert permit.fault == "permit output is 1, not 0"
    assert permit(True)
    assert permit.fault == ""
    assert not permit(False)
    pin.stuck = None
    assert permit.check()
    assert (permit.fault, pin.level) == ("", 0)


def test_a_feedback_pin_is_read_in_place_of_the_output():
    sense = _Pin(1)
    permit = Permit(_Pin(), 1, sense)
    assert not permit.check()
    sense.level = 0
    assert permit.check()
    assert sense.levels == []


def test_a_pin_that_is_not_reached_raises_nothing_and_is_tried_again():
    pin = _Pin()
    permit = Permit(pin, 1)
    assert permit(True)
    pin.dead = True
    assert not permit(False)
    assert permit.fault.startswith("permit output not reached")
    assert (permit.on, pin.level) == (False, 1)
    pin.dead = False
    assert permit.check()
    assert pin.level == 0


def test_another_level_is_refused():
    for level in (2, -1, None, True, "1"):
        assert "allowed: 0, 1" in str(raises(ValueError, Permit, _Pin(), level)), level
