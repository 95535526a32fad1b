"""What all experiments share: training runs, their schedule, results and statistics."""
