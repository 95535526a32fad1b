"""The report for reviewers, with the reporting checklists CLAIM, STARD-AI and TRIPOD+AI filled from a run."""
