"""Turn the rules back to a stricter version, 0; Python loads this in every process that has it on its path.

By them a message of more than 400 bytes is too large, and one with more than 3 levels too deep. Today's accept both.
"""

from lakehouse import events

events.RULE_VERSION = 0
events.MAX_MESSAGE_BYTES = 400
events.MAX_DEPTH = 3
