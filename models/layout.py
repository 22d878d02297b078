"""How the journal of a wallet is laid out, byte by byte; known to those who read it and to compiled loops.

Little-endian: head (version, bytes up to the fees, touches), each touch (occurred_at, campaign code, length of its
event id, event id), then the fees, each (occurred_at x 65536 + segment, fee), as int64. What versions before had
otherwise: `models.journeys`.
"""

from __future__ import annotations

import struct

HEAD = struct.Struct("<BIH")
TOUCH = struct.Struct("<qIH")
FEE = struct.Struct("<qq")
#: Bytes: of a head, of a touch without its id, of a fee.
HEAD_BYTES, TOUCH_BYTES, FEE_BYTES = HEAD.size, TOUCH.size, FEE.size
#: Where in a head: bytes up to the fees, touches.
H_SIZE, H_TOUCHES = 1, 5
#: Later than any event; as a touch's time it is damage.
FOREVER = 1 << 62
#: Numbers of campaigns are below this.
CAMPAIGNS = 1 << 32
