"""The HTML report of a run or an evaluation."""
