"""How much work each sweep gets: latency budget, memory limit, and the mailbox that keeps only the newest sweep."""
