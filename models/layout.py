"""How the journal of a wallet is laid out, byte by byte; known to those who read it and to compiled loops.

Little-endian: head (version, bytes up to the fees, touches, eligible touches, path valid from, path valid before), the
path's block of int64, each touch (occurred_at, campaign code, length of its event id, event id), then the fees, each
(occurred_at x 65536 + segment, fee), as int64; in version 1 (occurred_at, fee x 8192 + segment).

The block has four rows, each `width(touches)` long and padded with 0: codes; weights of linear, time decay, position.
Then the three sums of weights and the number of touches. Without an eligible touch there is none.
"""

from __future__ import annotations

import struct

HEAD = struct.Struct("<BIHHqq")
TOUCH = struct.Struct("<qIH")
FEE = struct.Struct("<qq")
#: Bytes: of a head, of a touch without its id, of a fee.
HEAD_BYTES, TOUCH_BYTES, FEE_BYTES = HEAD.size, TOUCH.size, FEE.size
#: Where in a head: bytes up to the fees, touches, eligible touches, path valid from, valid before.
H_SIZE, H_TOUCHES, H_ELIGIBLE, H_LO, H_HI = 1, 5, 7, 9, 17
#: Later than any event; as a touch's time it is damage.
FOREVER = 1 << 62
#: Numbers of campaigns are below this.
CAMPAIGNS = 1 << 32
#: The largest weight of a touch, that of the newest by time decay.
HEAVIEST = 1 << 24
#: Paths of up to this many touches are stored in narrow blocks.
NARROW = 8


def width(touches: int) -> int:
    """Places of a block's rows: a few sizes only, so that wallets of like sizes take the same memory."""
    return 0 if not touches else NARROW if touches <= NARROW else -(-touches // 64) * 64
