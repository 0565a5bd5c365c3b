"""The parts that inputs, trunks and heads are made of."""
