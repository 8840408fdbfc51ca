"""Files of other projects' formats."""
