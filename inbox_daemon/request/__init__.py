"""What the lines of a batch file mean. Pure: knows no file, no clock and no engine."""
