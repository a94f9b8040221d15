"""What a run can say in a paper about it: sentences, the reporting checklists, and the methods paragraph."""
