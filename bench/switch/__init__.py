"""What a switch costs with many stations, many ports and attacks."""
