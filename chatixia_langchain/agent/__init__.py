"""Messages become turns: which conversation one belongs to, who runs it, and what it may cost."""
