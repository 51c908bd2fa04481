"""What talks, keeps, schedules, computes in child processes, delivers and shows."""
