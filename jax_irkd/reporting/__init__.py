"""The parts of the report: runs read, figures compared, charts drawn, the page put together."""
