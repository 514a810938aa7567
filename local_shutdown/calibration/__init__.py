"""The calibration model: scripted policies, played in the real environment, with planted rates of
resistance; a tiny model trained on them; and the check of what a run measures against what the
model itself assigns. Everything that shows it says `calibration (synthetic)`."""
