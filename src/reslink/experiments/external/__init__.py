"""External evaluation: a frozen model on data of other hospitals."""
