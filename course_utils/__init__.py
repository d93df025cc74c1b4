"""The toolbox of Making Data."""
