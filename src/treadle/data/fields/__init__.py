"""What a record's fields are: read, fitted on the train part, and encoded for the model. One module per kind."""
