"""Signing: a full signature against naive affine double-and-add on the same MicroPython."""

from evmeter_tools.measure import vm


def speedup():
    """sign_speedup_python: nonce of RFC 6979, k*G and s by both ways, best of several in turn."""
    machine, reason = vm.small()
    found = (machine or vm.host()).run("sign.py")
    text = ("naive %d us, signature %d us, signed and verified %d us, %d bytes; on %s"
            % (found["naive_us"], found["sign_us"], found["checked_us"], found["bytes"],
               machine or vm.host()))
    if machine is None:
        text += ", not judged: %s" % reason
    yield "sign_speedup_python", round(found["naive_us"] / found["sign_us"], 1), text
