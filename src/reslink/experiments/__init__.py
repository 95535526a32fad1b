"""Questions that one command answers: the same networks trained or judged in several ways."""
