"""The operator's view: one command table, served over Perspective Broker. Layer: admin."""
