"""From records to tables, figures and reports. Reads an out folder, never a model; imports no torch."""
