"""Self-contained HTML reports of runs, evaluations, audits, comparisons and experiments."""
