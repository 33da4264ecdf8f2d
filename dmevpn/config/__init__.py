"""From the text of a configuration file to a plan of what should run. Layer: core."""
