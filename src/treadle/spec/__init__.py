"""treadle.yaml field by field, its errors by line, and all that follows from it by arithmetic. Imports no torch."""
