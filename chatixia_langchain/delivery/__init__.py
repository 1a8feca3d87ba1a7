"""What is promised: one id from first try to last, acknowledged by the receiving agent, run once, answered once.

State machines without I/O. Time is an argument: `now`, monotonic seconds. The same over every transport.

- `ids`: message ids, `epoch` of one run of an agent
- `outbox`: what this side accepted for one peer and the peer has not acknowledged
- `inbox`: what one peer sent: duplicates, refused messages, requests that run or were answered
- `acks`: acknowledgements waiting to travel together
- `pending`: requests that wait for a reply
- `session`: the four of one peer in one object
"""
