"""What a campaign found."""

from collections import Counter

_KEPT = 20


class Result:
    """`campaign`: name; `trials`: faults injected; `violations`: how many rules were broken;
    `texts`: the first of them in words; `counts`: what else is told; `controls`: name of each
    wrong design that was tried -> whether the campaign noticed."""

    def __init__(self, campaign):
        self.campaign = campaign
        self.trials = 0
        self.violations = 0
        self.texts = []
        self.counts = Counter()
        self.controls = {}

    def wrong(self, text):
        """A rule was broken."""
        self.violations += 1
        if len(self.texts) < _KEPT:
            self.texts.append(text)

    @property
    def settled(self):
        """Whether more trials would tell nothing more."""
        return False

    @property
    def good(self):
        """Whether no rule was broken and every wrong design was noticed."""
        return bool(self.trials) and not self.violations and all(self.controls.values())

    def row(self):
        """The campaign's entry in build/faults.json."""
        return {"campaign": self.campaign, "trials": self.trials, "violations": self.violations,
                "controls_caught": sum(self.controls.values())}


class Control(Result):
    """What a campaign finds of a wrong design, which one violation shows."""

    def __init__(self):
        super().__init__("control")

    @property
    def settled(self):
        """Whether the design was noticed."""
        return self.violations > 0
