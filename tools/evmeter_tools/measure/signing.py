"""Signing: a full signature against naive affine double-and-add on the same MicroPython."""

from evmeter_tools.measure import vm


def _figure(key, found, machine, reason):
    text = ("naive %d us, signature %d us, signed and verified %d us, %d bytes; on %s"
            % (found["naive_us"], found["sign_us"], found["checked_us"], found["bytes"], machine))
    if reason:
        text += ", not judged: %s" % reason
    return key, round(found["naive_us"] / found["sign_us"], 1), text


def speedup():
    """sign_speedup_python and sign_speedup_viper: nonce of RFC 6979, k*G and s by both ways, best
    of several in turn."""
    machine, reason = vm.small()
    machine = machine or vm.host()
    yield _figure("sign_speedup_python", machine.run("sign.py"), machine, reason)
    if reason:
        return  # the kernel is for 32 bits
    found = machine.run("sign.py", "viper")
    if not found["why_not"]:
        yield _figure("sign_speedup_viper", found, machine, reason)
