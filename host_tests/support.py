"""Helpers for the tests that run under CPython and MicroPython alike."""


def raises(exception, function, *args):
    """Call `function(*args)` and return the `exception` it raises; fail if it raises none."""
    try:
        function(*args)
    except exception as error:
        return error
    raise AssertionError("%s was not raised" % exception.__name__)
