"""Who a peer is: its key. What the registry says of a peer is checked here against what is known of it.

- `known`: fingerprints that were pinned, in a file or by the program
- `cards`: statements "this name has this key", signed by the mesh's root key, which no registry holds
- `judge`: the one decision, for a channel that opened: it is the peer, it must prove it first, or it is another
"""
