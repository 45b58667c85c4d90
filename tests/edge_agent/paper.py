"""Facts in memory, for tests of what keeps some."""

import json


class Paper:
    """As text, as on the disk; `writes` counts."""

    def __init__(self):
        self.facts, self.writes = {}, 0

    def fact(self, name):
        return json.loads(self.facts.get(name, "null"))

    def set_fact(self, name, value):
        self.facts[name], self.writes = json.dumps(value), self.writes + 1
