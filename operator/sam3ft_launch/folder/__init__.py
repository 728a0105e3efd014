"""The folder of one run: what lies where, what is written there and read by every verb."""
