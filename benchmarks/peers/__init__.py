"""The networks of this repository written plainly in other libraries, to measure by."""
