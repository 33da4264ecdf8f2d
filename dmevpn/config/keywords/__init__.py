"""The rows of the keyword table, by where a keyword belongs. Layer: core."""
