"""One module for each verb that is a program."""
